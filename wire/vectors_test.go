package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

var update = flag.Bool("update", false, "rewrite testdata/wire")

var vectorsFile = filepath.Join("..", "testdata", "wire", "vectors.json")

// vectors is the content of testdata/wire/vectors.json, which clients in other
// languages read too. Its README says what the fields mean.
type vectors struct {
	Messages []messageVector `json:"messages"`
	Accepted []messageVector `json:"accepted"`
	Refused  []refusedVector `json:"refused"`
}

type messageVector struct {
	Name     string   `json:"name"`
	Kind     Kind     `json:"kind"`
	Features Features `json:"features,omitempty"`
	Text     string   `json:"text,omitempty"`
	Ignored  bool     `json:"ignored,omitempty"`
	Fields   []any    `json:"fields"`
	Frame    string   `json:"frame"`
}

type refusedVector struct {
	Name     string   `json:"name"`
	Code     Code     `json:"code"`
	Features Features `json:"features,omitempty"`
	Error    string   `json:"error"`
	Bytes    string   `json:"bytes"`
}

func currentVectors(t *testing.T) vectors {
	t.Helper()
	var v vectors
	e := NewEncoder()
	for _, s := range samples() {
		frame := e.Append(nil, s.msg)
		v.Messages = append(v.Messages, messageVector{Name: s.name, Kind: s.msg.Kind(), Features: s.features(), Text: s.msg.String(),
			Fields: fieldsOf(t, frame[FrameHeaderBytes:]), Frame: hex.EncodeToString(frame)})
	}
	for _, a := range accepted() {
		m := messageVector{Name: a.name, Ignored: a.want == nil, Fields: fieldsOf(t, a.body), Frame: hex.EncodeToString(framed(a.body))}
		if a.want != nil {
			m.Kind, m.Text = a.want.Kind(), a.want.String()
			m.Features = sample{msg: a.want}.features()
		} else {
			m.Kind = Kind(a.body[1])
		}
		v.Accepted = append(v.Accepted, m)
	}
	d := NewDecoder()
	for _, h := range hostileFrames() {
		if len(h.frame) > 2048 {
			continue // the long ones are tested here only: the file is for reading
		}
		err := refuse(d, h.frame)
		if err == nil {
			t.Errorf("%s: accepted", h.name)
			continue
		}
		v.Refused = append(v.Refused, refusedVector{Name: h.name, Code: CodeOf(err), Features: h.features,
			Error: err.Error(), Bytes: hex.EncodeToString(h.frame)})
	}
	return v
}

// refuse reads the one frame in b as a connection would.
func refuse(d *Decoder, b []byte) error {
	body, _, err := NextFrame(b, hostileFrameMax)
	if err == nil && body == nil {
		return errors.New("incomplete")
	}
	if err == nil {
		_, err = d.Decode(body)
	}
	return err
}

// fieldsOf decodes a body with the msgpack package alone.
func fieldsOf(t *testing.T, body []byte) []any {
	t.Helper()
	var all []any
	if err := msgpack.Unmarshal(body, &all); err != nil {
		return nil // extensions
	}
	for i := range all {
		all[i] = jsonable(all[i])
	}
	return all[1:]
}

func jsonable(v any) any {
	switch v := v.(type) {
	case []byte:
		return map[string]any{"bin": hex.EncodeToString(v)}
	case []any:
		for i := range v {
			v[i] = jsonable(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = jsonable(v[k])
		}
		return map[string]any{"map": v}
	}
	return v
}

func TestVectors(t *testing.T) {
	v := currentVectors(t)
	out := "{\n\"messages\": " + oneALine(t, v.Messages) + ",\n\"accepted\": " + oneALine(t, v.Accepted) +
		",\n\"refused\": " + oneALine(t, v.Refused) + "\n}\n"
	if !json.Valid([]byte(out)) {
		t.Fatal("not JSON")
	}
	if *update {
		if err := os.WriteFile(vectorsFile, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(out, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s:%d differs (-update rewrites it):\n got %s\nwant %s", vectorsFile, i+1, gotLines[i], wantLines[i])
		}
	}
	if len(gotLines) != len(wantLines) {
		t.Fatalf("%s: %d lines, want %d (-update rewrites it)", vectorsFile, len(wantLines), len(gotLines))
	}
}

// oneALine writes a JSON array with a line for each element, for readable diffs.
func oneALine[T any](t *testing.T, all []T) string {
	t.Helper()
	lines := make([]string, len(all))
	for i, v := range all {
		var b bytes.Buffer
		j := json.NewEncoder(&b)
		j.SetEscapeHTML(false)
		if err := j.Encode(v); err != nil {
			t.Fatal(err)
		}
		lines[i] = strings.TrimSpace(b.String())
	}
	return "[\n" + strings.Join(lines, ",\n") + "\n]"
}

// The messages of the file decode to what they were made from.
func TestSamplesRoundTrip(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	seen := map[Kind]bool{}
	for _, s := range samples() {
		seen[s.msg.Kind()] = true
		frame := e.Append([]byte("before"), s.msg)
		body, rest, err := NextFrame(append(frame, "behind"...)[6:], 1<<20)
		if err != nil || string(rest) != "behind" {
			t.Fatalf("%s: rest %q, error %v", s.name, rest, err)
		}
		got, err := d.Decode(body)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if got.String() != s.msg.String() || !reflect.DeepEqual(emptied(got), emptied(s.msg)) {
			t.Errorf("%s:\n got %#v\nwant %#v", s.name, got, s.msg)
		}
		if strings.ContainsAny(got.String(), "\n\r") {
			t.Errorf("%s: text form of more than one line: %q", s.name, got)
		}
	}
	for k := Kind(1); k <= KindMax; k++ {
		if m := NewMessage(k); (m != nil) != k.Known() || m != nil && m.Kind() != k || k.Known() != seen[k] {
			t.Errorf("kind %d: message %v, known %v, sample %v", k, m, k.Known(), seen[k])
		}
		if k.Known() && (k.Sender() == 0 || strings.Contains(k.String(), "(")) {
			t.Errorf("kind %d: no name or no sender", k)
		}
	}
}

// emptied makes nil and empty slices the same, where they mean the same.
func emptied(m Message) string {
	return strings.NewReplacer("(nil)", "{}").Replace(fmt.Sprintf("%#v", m))
}

func TestAccepted(t *testing.T) {
	d := NewDecoder()
	for _, a := range accepted() {
		got, err := d.Decode(a.body)
		if a.want == nil {
			if got != nil || !errors.Is(err, ErrUnknownOptional) || errors.Is(err, ErrProtocol) {
				t.Errorf("%s: %v, %v", a.name, got, err)
			}
			continue
		}
		if err != nil || got.String() != a.want.String() {
			t.Errorf("%s: %v, %v\nwant %v", a.name, got, err, a.want)
		}
	}
}

// Every hostile frame is refused with a ProtocolError that says where, and costs
// little memory whatever it announces.
func TestHostileFrames(t *testing.T) {
	d := NewDecoder()
	names := map[string]bool{}
	for _, h := range hostileFrames() {
		if names[h.name] {
			t.Errorf("%s: twice", h.name)
		}
		names[h.name] = true
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := refuse(d, h.frame)
		runtime.ReadMemStats(&after)
		var p *ProtocolError
		if !errors.As(err, &p) || !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", h.name, err)
			continue
		}
		if p.Field == "" || p.Reason == "" || p.Code == 0 || CodeOf(err) != p.Code {
			t.Errorf("%s: says too little: %#v", h.name, p)
		}
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(16*len(h.frame)+16_384); got > limit {
			t.Errorf("%s: %d bytes allocated for %d bytes", h.name, got, len(h.frame))
		}
		if m, err := d.Decode(body(23, 5)); err != nil || m.(*Ping).Nonce != 5 {
			t.Errorf("%s: the decoder does not recover: %v, %v", h.name, m, err)
		}
	}
}

// A message that is cut at any place is refused.
func TestTruncatedBodies(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	for _, s := range samples() {
		body := e.Append(nil, s.msg)[FrameHeaderBytes:]
		for n := range body {
			if m, err := d.Decode(body[:n:n]); !errors.Is(err, ErrProtocol) {
				t.Fatalf("%s: first %d of %d bytes: %v, %v", s.name, n, len(body), m, err)
			}
		}
	}
}
