package shmpool

import (
	"testing"

	"pgregory.net/rapid"
)

func TestSlotClassKnown(t *testing.T) {
	for _, c := range []struct{ n, want uint64 }{
		{0, 128}, {1, 128}, {128, 128}, {129, 256}, {256, 256}, {257, 512}, {513, 1024}, {1025, 2048},
		{2048, 2048}, {2049, 4096}, {4096, 4096}, {4097, 8192}, {12288, 12288}, {16384, 16384},
		{16385, 20480}, {20481, 24576}, {28672, 28672}, {28673, 32768}, {32769, 40960},
		{640 * 480 * 3, 224*PageBytes + 32*PageBytes}, // VGA in RGB: 225 pages, one more than a class has
		{40 << 20, 40 << 20}, {40<<20 + 1, 48 << 20},
		{SlotBytesMax, SlotBytesMax}, {SlotBytesMax - 1, SlotBytesMax}, {SlotBytesMax + 1, 0}, {^uint64(0), 0},
	} {
		if got := SlotClass(c.n); got != c.want {
			t.Errorf("SlotClass(%d) = %d, want %d", c.n, got, c.want)
		}
	}
}

// TestSlotClassAll goes through every page count up to 1 GiB: a list of classes
// found by brute force has to agree.
func TestSlotClassAll(t *testing.T) {
	classes := []uint64{128, 256, 512, 1024, 2048}
	for p := uint64(1); p < 4; p++ {
		classes = append(classes, p*PageBytes)
	}
	for base := uint64(4 * PageBytes); base < SlotBytesMax; base *= 2 {
		for quarters := uint64(4); quarters < 8; quarters++ {
			classes = append(classes, base*quarters/4)
		}
	}
	classes = append(classes, SlotBytesMax)
	i := 0
	step := func(n uint64) uint64 { // every length below two pages, then every page
		if n < 2*PageBytes {
			return n + 1
		}
		return n + PageBytes
	}
	for n := uint64(1); n <= SlotBytesMax; n = step(n) {
		for classes[i] < n {
			i++
		}
		if got := SlotClass(n); got != classes[i] {
			t.Fatalf("SlotClass(%d) = %d, want %d", n, got, classes[i])
		}
	}
}

func TestSlotClassProperties(t *testing.T) {
	sizes := rapid.OneOf(
		rapid.Uint64Range(0, SlotBytesMax),
		rapid.Uint64Range(0, 1<<20),
		// Near powers of two and page ends, where the formula has its corners.
		rapid.Custom(func(t *rapid.T) uint64 {
			n := uint64(1) << rapid.IntRange(0, 30).Draw(t, "exponent")
			n += uint64(rapid.IntRange(0, 8).Draw(t, "pages"))*PageBytes + uint64(rapid.IntRange(0, 2).Draw(t, "off")) - 1
			return min(n, SlotBytesMax)
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		n, m := sizes.Draw(t, "n"), sizes.Draw(t, "m")
		class := SlotClass(n)
		if class < n {
			t.Fatalf("class %d does not hold %d", class, n)
		}
		if class < SlotBytesMin || class%PayloadAlign != 0 || class > PageBytes && class%PageBytes != 0 {
			t.Fatalf("class %d is not whole pages, nor a part of one", class)
		}
		if SlotClass(class) != class {
			t.Fatalf("class of class %d is %d", class, SlotClass(class))
		}
		if n <= m && class > SlotClass(m) {
			t.Fatalf("class of %d is %d, of %d it is %d", n, class, m, SlotClass(m))
		}
		if waste := class - n; n > 16<<10 && waste*4 > n {
			t.Fatalf("%d of %d bytes wasted for %d", waste, class, n)
		}
		if class-n >= max(min(n, PageBytes), SlotBytesMin) && n <= 16<<10 && n > 0 {
			t.Fatalf("%d bytes get %d: more than the page begun", n, class)
		}
	})
}

func BenchmarkSlotClass(b *testing.B) {
	b.ReportAllocs()
	var sum uint64
	for n := uint64(0); b.Loop(); n += 4099 {
		sum += SlotClass(n & (SlotBytesMax - 1))
	}
	_ = sum
}
