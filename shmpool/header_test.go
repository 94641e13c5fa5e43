package shmpool

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestHeaderBytes(t *testing.T) {
	b := bytes.Repeat([]byte{0xFF}, HeaderBytes+8)
	EncodeHeader(b, 0x1122334455667788, Geometry{SlotBytes: 20480, Slots: 8})
	want, err := hex.DecodeString("42524f4b45524452" + "01000000" + "08000000" + "0050000000000000" + "8877665544332211")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:len(want)], want) {
		t.Fatalf("header is %x, want %x", b[:len(want)], want)
	}
	if rest := b[len(want):HeaderBytes]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Fatal("the rest is not zero")
	}
	if !bytes.Equal(b[HeaderBytes:], bytes.Repeat([]byte{0xFF}, 8)) {
		t.Fatal("it wrote behind the header")
	}
}

func TestHeaderCheck(t *testing.T) {
	g := Geometry{SlotBytes: 20480, Slots: 8}
	good := make([]byte, HeaderBytes)
	EncodeHeader(good, 7, g)
	if err := CheckHeader(good, 7, g); err != nil {
		t.Fatal(err)
	}
	for offset, says := range map[int]string{0: "magic", 8: "version", 12: "slots", 16: "slots", 24: "region"} {
		bad := bytes.Clone(good)
		bad[offset] ^= 1
		if err := CheckHeader(bad, 7, g); !errors.Is(err, ErrHeader) || !strings.Contains(err.Error(), says) {
			t.Errorf("byte %d wrong: %v", offset, err)
		}
	}
	for _, n := range []int{0, 1, 31} {
		if err := CheckHeader(good[:n], 7, g); !errors.Is(err, ErrHeader) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "brokerd-0a1b2c3d-probe", "A_b.c-9", strings.Repeat("x", 255)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".hidden", "-dash", "a/b", "/etc/passwd", "../x", "a\x00b", "a b", "ü", "a\n", strings.Repeat("x", 256)} {
		if err := ValidateName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
