package wire

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCodes(t *testing.T) {
	seen := map[string]bool{}
	for c := CodeProtocol; int(c) < len(codeSentinels); c++ {
		name := c.String()
		if seen[name] || strings.Contains(name, "(") {
			t.Errorf("code %d: bad name %q", c, name)
		}
		seen[name] = true
		err := fmt.Errorf("while testing: %w", &Error{Code: c, Text: "text"})
		if !errors.Is(err, c.Err()) || CodeOf(err) != c || CodeOf(c.Err()) != c {
			t.Errorf("code %d does not survive wrapping", c)
		}
		if c != CodeProtocol && errors.Is(err, ErrProtocol) {
			t.Errorf("code %d is also a protocol error", c)
		}
	}
	if Code(999).String() != "code(999)" || Code(999).Err() == nil || CodeOf(Code(999).Err()) != 999 {
		t.Error("an unknown code is lost")
	}
	if CodeOf(nil) != CodeOK || CodeOK.Err() != nil || CodeOf(io.EOF) != CodeInternal {
		t.Error("errors without a code")
	}
}

func TestErrorTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&Error{Code: CodeAuth}, "authentication failed"},
		{&Error{Code: CodeAuth, Text: "no token"}, "authentication failed: no token"},
		{(&RegionDenied{Code: CodeQuota, Text: "512 MiB"}).Err(), "over the node's quota: 512 MiB"},
		{(&Reply{Code: CodeNotFound, Text: "x"}).Err(), "not found: x"},
		{Errorf(CodeTimeout, "after %d ms", 5), "timed out: after 5 ms"},
	} {
		if c.err.Error() != c.want {
			t.Errorf("got %q, want %q", c.err, c.want)
		}
	}
	if err := (&Reply{}).Err(); err != nil {
		t.Errorf("a reply without a code: %v", err)
	}
	inner := &Error{Code: CodeQuota, Text: "t"}
	if ErrorFor(fmt.Errorf("x: %w", inner)) != inner {
		t.Error("ErrorFor loses the message")
	}
	if got := ErrorFor(&ProtocolError{Kind: KindPing, Field: "nonce", Reason: "bad", Code: CodeProtocol}); got.Code != CodeProtocol ||
		got.Text != "protocol error: ping nonce: bad" {
		t.Errorf("got %v", got)
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		min, max uint16
		ok       bool
	}{{1, 1, true}, {0, 5, true}, {2, 3, false}, {0, 0, false}} {
		v, err := Negotiate(&Hello{VersionMin: c.min, VersionMax: c.max})
		if (err == nil) != c.ok || c.ok && v != 1 || !c.ok && !errors.Is(err, ErrVersion) {
			t.Errorf("%d to %d: %d, %v", c.min, c.max, v, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"camera": true, "a": true, "_x": true, "A.b-c_9": true, strings.Repeat("x", IDBytesMax): true,
		"": false, ".a": false, "-a": false, "a/b": false, "a b": false, "ä": false, "a\n": false,
		strings.Repeat("x", IDBytesMax+1): false,
	} {
		if err := CheckID(id); (err == nil) != ok || !ok && !errors.Is(err, ErrBadID) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestEnums(t *testing.T) {
	if got := fmt.Sprint(DropReasons()); got != "[queue_full no_memory hold_timeout receiver_gone sender_gone too_large closed bad_descriptor slow_connection shutdown]" {
		t.Error(got)
	}
	if got := fmt.Sprint(PolicyDropOldest, PolicyDropNewest, PolicyBlock, Policy(3), RoleNode, RoleControl, Role(2), DropReason(0), Kind(99)); got !=
		"drop-oldest drop-newest block policy(3) node control role(2) reason(0) kind(99)" {
		t.Error(got)
	}
}
