package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func protocolPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// fenced returns the content of the page's one block with this info string.
func fenced(t *testing.T, page, info string) string {
	t.Helper()
	_, rest, found := strings.Cut(page, "```"+info+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatalf("no block %q", info)
	}
	return block
}

// The session in the documentation is made of real frames that say what the page
// says.
func TestDocumentedSession(t *testing.T) {
	d, e := NewDecoder(), NewEncoder()
	n := 0
	for _, part := range strings.Split(fenced(t, protocolPage(t), "hex"), "→")[1:] {
		lines := strings.Split(part, "\n")
		_, text, _ := strings.Cut(lines[0], " ")
		var frame []byte
		for _, line := range lines[1:] {
			b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line), " ", ""))
			if err != nil {
				break // the direction of the next message
			}
			frame = append(frame, b...)
		}
		body, rest, err := NextFrame(frame, HandshakeFrameBytesMax)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%s: %v, %d bytes behind the frame", text, err, len(rest))
		}
		m, err := d.Decode(body)
		if err != nil || m.String() != text {
			t.Fatalf("page: %s\nbytes: %v, %v", text, m, err)
		}
		if again := e.Append(nil, m); !bytes.Equal(again, frame) {
			t.Fatalf("%s:\npage    %x\nencoder %x", text, frame, again)
		}
		n++
	}
	if n < 10 {
		t.Fatalf("%d messages found", n)
	}
}

// appendedFields are those that a message leaves out when they have their usual
// value.
var appendedFields = map[Kind]int{KindPublish: 1, KindFlow: 1, KindAttach: 1, KindRegionOpen: 1, KindLaneStart: 1,
	KindWelcome: 1, KindLaneGrant: 1}

// Each kind has its section with each field, and each number its row.
func TestDocumentedTables(t *testing.T) {
	page := protocolPage(t)
	for k := Kind(1); int(k) < len(kinds); k++ {
		if !k.Known() {
			continue
		}
		name := reflect.TypeOf(NewMessage(k)).Elem().Name()
		arrow := map[Sender]string{FromNode: "n→b", FromBroker: "b→n", FromBoth: "n↔b"}[k.Sender()]
		_, section, found := strings.Cut(page, fmt.Sprintf("\n### %d %s %s\n", k, name, arrow))
		if !found {
			t.Errorf("no section %d %s %s", k, name, arrow)
			continue
		}
		section, _, _ = strings.Cut(section, "\n#")
		section, _, _ = strings.Cut(section, "is an array of")
		if rows := strings.Count(section, "\n| ") - 1; rows != int(kinds[k].fields)+appendedFields[k] {
			t.Errorf("%s: %d rows, %d fields and %d that may be left out", name, rows, kinds[k].fields, appendedFields[k])
		}
	}
	for c := CodeOK; int(c) < len(codeSentinels); c++ {
		mustContain(t, page, fmt.Sprintf("\n| %d | %s | ", c, c))
	}
	for _, r := range DropReasons() {
		mustContain(t, page, fmt.Sprintf("\n| %d | %s | ", r, r))
	}
	for p := PolicyDropOldest; p.Valid(); p++ {
		mustContain(t, page, fmt.Sprintf("\n| %d | %s | ", p, p))
	}
	for _, verb := range []string{VerbStatus, VerbDrops, VerbLoad, VerbUnload, VerbStop} {
		mustContain(t, page, "\n| `"+verb+"` | ")
	}
}

func mustContain(t *testing.T, page, s string) {
	t.Helper()
	if !strings.Contains(page, s) {
		t.Errorf("missing: %q", s)
	}
}

// The JSON examples have every key of the types and no other.
func TestDocumentedJSON(t *testing.T) {
	page := protocolPage(t)
	sameKeys(t, fenced(t, page, "json status"), new(Status))
	sameKeys(t, fenced(t, page, "json drop"), new(DropRecord))
}

func sameKeys(t *testing.T, example string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(example))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(into)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	for text, v := range map[string]*any{example: &want, string(again): &got} {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the page's example is not complete:\n got %v\nwant %v", got, want)
	}
}
