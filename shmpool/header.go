package shmpool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/wire"
)

// Layout of the header, little-endian. Everything up to HeaderBytes that is not
// named is zero.
//
//	offset  bytes  field
//	     0      8  magic "BROKERDR"
//	     8      4  layout version, 1
//	    12      4  number of slots
//	    16      8  bytes of a slot
//	    24      8  region id
//	   512   3584  the ledger: one 8-byte word per slot, a bit for each that may
//	               still read it; changed with atomic operations only
const (
	headerMagic         = "BROKERDR"
	headerVersion       = 1
	headerVersionOffset = 8
	headerSlotsOffset   = 12
	headerSizeOffset    = 16
	headerIDOffset      = 24
	headerFieldsEnd     = 32
	headerWordsOffset   = 512
)

// ErrHeader reports a file that is not the region it should be.
var ErrHeader = errors.New("bad region header")

// EncodeHeader writes the header of a region over the first HeaderBytes of dst.
// It panics if dst is shorter.
func EncodeHeader(dst []byte, id wire.RegionID, g Geometry) {
	dst = dst[:HeaderBytes]
	clear(dst)
	copy(dst, headerMagic)
	binary.LittleEndian.PutUint32(dst[headerVersionOffset:], headerVersion)
	binary.LittleEndian.PutUint32(dst[headerSlotsOffset:], g.Slots)
	binary.LittleEndian.PutUint64(dst[headerSizeOffset:], g.SlotBytes)
	binary.LittleEndian.PutUint64(dst[headerIDOffset:], uint64(id))
}

// CheckHeader returns nil if b starts with the header of region id with geometry
// g, and otherwise an error that wraps ErrHeader and names the first difference.
// It guards against opening the wrong file; it is no defence against a peer that
// writes a right header over wrong contents, which is why nothing is ever read
// from a header but compared with it.
func CheckHeader(b []byte, id wire.RegionID, g Geometry) error {
	if len(b) < headerFieldsEnd {
		return fmt.Errorf("shmpool: %w: %d bytes long", ErrHeader, len(b))
	}
	if !bytes.Equal(b[:len(headerMagic)], []byte(headerMagic)) {
		return fmt.Errorf("shmpool: %w: magic %q", ErrHeader, b[:len(headerMagic)])
	}
	if v := binary.LittleEndian.Uint32(b[headerVersionOffset:]); v != headerVersion {
		return fmt.Errorf("shmpool: %w: layout version %d, this program knows %d", ErrHeader, v, headerVersion)
	}
	have := Geometry{
		SlotBytes: binary.LittleEndian.Uint64(b[headerSizeOffset:]),
		Slots:     binary.LittleEndian.Uint32(b[headerSlotsOffset:]),
	}
	if have != g {
		return fmt.Errorf("shmpool: %w: slots %v, want %v", ErrHeader, have, g)
	}
	if have := wire.RegionID(binary.LittleEndian.Uint64(b[headerIDOffset:])); have != id {
		return fmt.Errorf("shmpool: %w: region %d, want %d", ErrHeader, uint64(have), uint64(id))
	}
	return nil
}
