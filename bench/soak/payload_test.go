package main

import "testing"

// Every byte of a payload counts, and whose it is.
func TestPayload(t *testing.T) {
	const output, n = "camera/frames", 12345
	s := newStamper(7, output, 500)
	p := make([]byte, 500)
	s.stamp(p, n)
	if life, err := verify(p, outputHash(output), n); err != nil || life != 7 {
		t.Fatalf("life %d, %v", life, err)
	}
	for i := range p {
		p[i] ^= 0x10
		if _, err := verify(p, outputHash(output), n); err == nil {
			t.Errorf("byte %d may be wrong", i)
		}
		p[i] ^= 0x10
	}
	for name, test := range map[string]struct {
		p      []byte
		output string
		number uint64
	}{
		"number": {p, output, n + 1}, "output": {p, "camera/ticks", n}, "length": {p[:499], output, n}, "nothing": {nil, output, n},
	} {
		if _, err := verify(test.p, outputHash(test.output), test.number); err == nil {
			t.Errorf("another %s is right", name)
		}
	}
	// A mix of two messages of one size is found.
	q := make([]byte, 500)
	s.stamp(q, n+1)
	copy(q[:250], p)
	if _, err := verify(q, outputHash(output), n); err == nil {
		t.Error("a mix of two messages is right")
	}
}
