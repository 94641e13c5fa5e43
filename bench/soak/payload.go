package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"math/rand/v2"
)

// A payload is a stamp and a body. The body is a piece of one random text whose
// start depends on the message's number, so that two messages that may lie in the
// same slot one after the other differ in every cache line: a mix of both is found
// by the checksum.
//
//	0  magic
//	4  checksum of the body (CRC-32C)
//	8  life of the sender
//	12 hash of the output's name
//	16 number of the message
//	24 length of the payload
//	32 checksum of the bytes before
const (
	stampBytes = 36
	stampMagic = 0x50a4b20c
	// rotations is a prime, so that it shares no period with the number of slots.
	rotations   = 61
	rotateBytes = 64 + 1 // one more than a cache line: no two starts are aligned alike
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// outputHash names an output ("camera/frames") in payloads.
func outputHash(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return h.Sum32()
}

// stamper writes the payloads of one output.
type stamper struct {
	life   uint32
	output uint32
	text   []byte
}

func newStamper(life uint32, output string, bytesMax int) *stamper {
	s := &stamper{life: life, output: outputHash(output), text: make([]byte, bytesMax+rotations*rotateBytes)}
	random := rand.NewChaCha8([32]byte{byte(life), byte(life >> 8), byte(s.output), 1})
	_, _ = random.Read(s.text) // it never fails
	return s
}

// stamp fills p with the message of that number.
func (s *stamper) stamp(p []byte, number uint64) {
	body := p[stampBytes:]
	copy(body, s.text[int(number%rotations)*rotateBytes:])
	le := binary.LittleEndian
	le.PutUint32(p, stampMagic)
	le.PutUint32(p[4:], crc32.Checksum(body, castagnoli))
	le.PutUint32(p[8:], s.life)
	le.PutUint32(p[12:], s.output)
	le.PutUint64(p[16:], number)
	le.PutUint64(p[24:], uint64(len(p)))
	le.PutUint32(p[32:], crc32.Checksum(p[:32], castagnoli))
}

// verify returns the life of who sent p, or what is wrong with it.
func verify(p []byte, output uint32, number uint64) (life uint32, err error) {
	if len(p) < stampBytes {
		return 0, fmt.Errorf("message %d: %d bytes are too few", number, len(p))
	}
	le := binary.LittleEndian
	life = le.Uint32(p[8:])
	switch {
	case le.Uint32(p) != stampMagic:
		err = fmt.Errorf("message %d: magic %08x", number, le.Uint32(p))
	case le.Uint32(p[32:]) != crc32.Checksum(p[:32], castagnoli):
		err = fmt.Errorf("message %d: wrong checksum of the stamp", number)
	case le.Uint32(p[12:]) != output:
		err = fmt.Errorf("message %d is of another output", number)
	case le.Uint64(p[16:]) != number:
		err = fmt.Errorf("message %d has the payload of message %d", number, le.Uint64(p[16:]))
	case le.Uint64(p[24:]) != uint64(len(p)):
		err = fmt.Errorf("message %d: %d bytes of %d", number, len(p), le.Uint64(p[24:]))
	case le.Uint32(p[4:]) != crc32.Checksum(p[stampBytes:], castagnoli):
		err = fmt.Errorf("message %d of life %d: wrong checksum of the body (%d bytes)", number, life, len(p))
	}
	return life, err
}
