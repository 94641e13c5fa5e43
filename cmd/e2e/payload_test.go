//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// A payload is a header and a body. The body is a piece of one random text,
// whose start depends on the message's number: two messages that may lie in the
// same slot one after the other differ in every cache line, so that a mix of
// both is found by the checksum.
//
//	0  magic
//	4  checksum of the body (CRC-32C)
//	8  life: the sending process
//	16 number of the message
//	24 length of the payload
//	32 checksum of the bytes before
const (
	stampBytes = 36
	stampMagic = 0xb20c37d1
	// rotations is a prime, so that it shares no period with the number of slots.
	rotations   = 61
	rotateBytes = 64 + 1 // one more than a cache line: no two starts are aligned alike
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamper writes payloads.
type stamper struct {
	life uint64
	text []byte
	sums map[sumKey]uint32
}

type sumKey struct{ bytes, rotation int }

func newStamper(life uint64) *stamper {
	return &stamper{life: life, sums: map[sumKey]uint32{}}
}

// grow makes the text long enough for bodies of n bytes.
func (s *stamper) grow(n int) {
	if n += rotations * rotateBytes; len(s.text) >= n {
		return
	}
	random := rand.NewChaCha8([32]byte{byte(s.life), byte(s.life >> 8), 1})
	s.text = make([]byte, n)
	_, _ = random.Read(s.text) // it never fails
	clear(s.sums)
}

// stamp fills p with the message of that number.
func (s *stamper) stamp(p []byte, number uint64) {
	body := p[stampBytes:]
	s.grow(len(body))
	rotation := int(number % rotations)
	copy(body, s.text[rotation*rotateBytes:])
	key := sumKey{len(body), rotation}
	sum, ok := s.sums[key]
	if !ok {
		sum = crc32.Checksum(body, castagnoli)
		s.sums[key] = sum
	}
	le := binary.LittleEndian
	le.PutUint32(p, stampMagic)
	le.PutUint32(p[4:], sum)
	le.PutUint64(p[8:], s.life)
	le.PutUint64(p[16:], number)
	le.PutUint64(p[24:], uint64(len(p)))
	le.PutUint32(p[32:], crc32.Checksum(p[:32], castagnoli))
}

// check returns who sent p, or what is wrong with it.
func check(p []byte, number uint64) (life uint64, err error) {
	if len(p) < stampBytes {
		return 0, fmt.Errorf("message %d: %d bytes are too few", number, len(p))
	}
	le := binary.LittleEndian
	life = le.Uint64(p[8:])
	switch {
	case le.Uint32(p) != stampMagic:
		err = fmt.Errorf("message %d: magic %08x", number, le.Uint32(p))
	case le.Uint32(p[32:]) != crc32.Checksum(p[:32], castagnoli):
		err = fmt.Errorf("message %d: wrong checksum of the header", number)
	case le.Uint64(p[16:]) != number:
		err = fmt.Errorf("message %d has the payload of message %d", number, le.Uint64(p[16:]))
	case le.Uint64(p[24:]) != uint64(len(p)):
		err = fmt.Errorf("message %d: %d bytes of %d", number, len(p), le.Uint64(p[24:]))
	case le.Uint32(p[4:]) != crc32.Checksum(p[stampBytes:], castagnoli):
		err = fmt.Errorf("message %d: wrong checksum of the body", number)
	}
	return life, err
}
