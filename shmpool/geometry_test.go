package shmpool

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestGeometryValidate(t *testing.T) {
	for _, c := range []struct {
		g  Geometry
		ok bool
	}{
		{Geometry{4096, 1}, true},
		{Geometry{4096, SlotsMax}, true},
		{Geometry{SlotBytesMax, 63}, true},
		{Geometry{SlotBytesMax, 64}, false}, // with the header, more than 64 GiB
		{Geometry{SlotBytesMax, SlotsMax}, false},
		{Geometry{4096, 0}, false},
		{Geometry{4096, SlotsMax + 1}, false},
		{Geometry{4096, math.MaxUint32}, false},
		{Geometry{0, 1}, false},
		{Geometry{1, 1}, false},
		{Geometry{4097, 1}, false},
		{Geometry{9 * 4096, 1}, false},
		{Geometry{SlotBytesMax + 4096, 1}, false},
		{Geometry{math.MaxUint64, 1}, false},
		{Geometry{1 << 63, 2}, false},
		{Geometry{math.MaxUint64 - 4095, SlotsMax}, false},
	} {
		err := c.g.Validate()
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.g, err)
		}
		if err != nil && !errors.Is(err, ErrGeometry) {
			t.Errorf("%v: %v is not ErrGeometry", c.g, err)
		}
	}
}

// drawGeometry draws one that is valid.
func drawGeometry(t *rapid.T) Geometry {
	g := Geometry{
		SlotBytes: SlotClass(rapid.OneOf(rapid.Uint64Range(1, 1<<20), rapid.Uint64Range(1, SlotBytesMax)).Draw(t, "bytes")),
	}
	most := min((RegionBytesMax-HeaderBytes)/g.SlotBytes, SlotsMax)
	g.Slots = uint32(rapid.Uint64Range(1, most).Draw(t, "slots"))
	return g
}

// TestGeometryContains compares with arithmetic that cannot overflow.
func TestGeometryContains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		if err := g.Validate(); err != nil {
			t.Fatal(err)
		}
		near := rapid.Custom(func(t *rapid.T) uint64 {
			k := rapid.Uint32Range(0, g.Slots).Draw(t, "slot")
			return g.SlotOffset(k) + uint64(rapid.IntRange(-2, 2).Draw(t, "off"))
		})
		anywhere := rapid.OneOf(near, rapid.Uint64(), rapid.Uint64Range(0, g.Bytes()+1))
		offset := anywhere.Draw(t, "offset")
		length := rapid.OneOf(
			rapid.Uint64Range(0, g.SlotBytes+2), rapid.Uint64(),
			rapid.Just(uint64(math.MaxUint64)-offset), rapid.Just(-offset),
		).Draw(t, "length")

		want := false
		start, end := new(big.Int).SetUint64(offset), new(big.Int).SetUint64(length)
		end.Add(end, start)
		for k := range g.Slots {
			first, last := new(big.Int).SetUint64(g.SlotOffset(k)), new(big.Int).SetUint64(g.SlotOffset(k)+g.SlotBytes)
			// An empty range at the end of a slot belongs to the next one.
			if start.Cmp(first) >= 0 && start.Cmp(last) < 0 && end.Cmp(last) <= 0 {
				want = true
				if got, err := g.SlotIndex(offset); err != nil || got != k {
					t.Fatalf("%v: offset %d is in slot %d, not %d (%v)", g, offset, k, got, err)
				}
			}
		}
		err := g.Contains(offset, length)
		if (err == nil) != want {
			t.Fatalf("%v: %d bytes at %d: %v, want inside: %v", g, length, offset, err, want)
		}
		if err != nil && !errors.Is(err, ErrBounds) {
			t.Fatalf("%v is not ErrBounds", err)
		}
	})
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1023.9 KiB", 1 << 20: "1 MiB",
		5<<30 + 1: "5.0 GiB", math.MaxUint64: "15.9 EiB",
	} {
		if got := FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) = %q, want %q", n, got, want)
		}
	}
}
