package wire

import (
	"errors"
	"fmt"
	"math"
	"testing"
)

func TestMetadata(t *testing.T) {
	attrs := []Attr{Int("min", math.MinInt64), Int("max", math.MaxInt64), Int("small", -5), Float("pi", math.Pi),
		Bool("yes", true), Bool("no", false), String("größe", "5 µm"), Bytes("blob", []byte{1, 2}), Null("none")}
	raw := RawMetadata(AppendMetadata(nil, attrs))
	if err := ValidateMetadata(raw); err != nil {
		t.Fatal(err)
	}
	want := `meta{min=-9223372036854775808 max=9223372036854775807 small=-5 pi=3.141592653589793 yes=true no=false ` +
		`"größe"="5 µm" blob=h'0102' none=null}`
	if raw.String() != want || raw.Len() != len(attrs) {
		t.Errorf("%d entries\n got %s\nwant %s", raw.Len(), raw, want)
	}
	i := 0
	for key, v := range raw.All() {
		if a := attrs[i]; key != a.Key || v.Type() != a.Value.Type() || v.String() != a.Value.String() {
			t.Errorf("entry %d: %s=%v, want %s=%v", i, key, v, a.Key, a.Value)
		}
		if got, ok := raw.Lookup(key); !ok || got.String() != v.String() {
			t.Errorf("Lookup(%q) = %v, %v", key, got, ok)
		}
		i++
	}
	if _, ok := raw.Lookup("missing"); ok {
		t.Error("Lookup finds what is not there")
	}
	for range raw.All() {
		break // the iterator stops when told to
	}
}

func TestValueAccessors(t *testing.T) {
	raw := RawMetadata(AppendMetadata(nil, []Attr{Int("i", -7), Float("f", 2.5), Bool("b", true), String("s", "x"), Bytes("y", []byte("z"))}))
	get := func(key string) Value { v, _ := raw.Lookup(key); return v }
	if get("i").Int() != -7 || get("i").Float() != -7 || get("f").Float() != 2.5 || !get("b").Bool() ||
		get("s").Text() != "x" || string(get("s").Bytes()) != "x" || string(get("y").Bytes()) != "z" {
		t.Errorf("wrong values in %s", raw)
	}
	if get("s").Int() != 0 || get("f").Int() != 0 || get("i").Bool() || get("y").Text() != "" || get("i").Bytes() != nil || get("s").Float() != 0 {
		t.Errorf("values of the wrong type in %s", raw)
	}
}

func TestMetadataEmpty(t *testing.T) {
	if got := AppendMetadata(nil, nil); len(got) != 0 {
		t.Errorf("no attributes: %x", got)
	}
	for _, raw := range []RawMetadata{nil, {}, {0x80}} {
		if err := ValidateMetadata(raw); err != nil || raw.Len() != 0 {
			t.Errorf("%x: %v, %d entries", raw, err, raw.Len())
		}
		for key := range raw.All() {
			t.Errorf("%x has %q", raw, key)
		}
	}
}

func TestMetadataLimits(t *testing.T) {
	var attrs []Attr
	for i := range MetadataEntriesMax + 1 {
		if err := ValidateMetadata(AppendMetadata(nil, attrs)); err != nil {
			t.Fatalf("%d entries: %v", i, err)
		}
		attrs = append(attrs, Int(fmt.Sprintf("key%d", i), int64(i)))
	}
	for _, raw := range []RawMetadata{AppendMetadata(nil, attrs), {0x80, 0}, {0x81}, {5}} {
		if err := ValidateMetadata(raw); !errors.Is(err, ErrMetadata) {
			t.Errorf("%.10x...: %v", []byte(raw), err)
		}
	}
}

// Reading what nobody has validated ends early instead of panicking.
func TestMetadataUnchecked(t *testing.T) {
	for _, raw := range []RawMetadata{{0x81}, {0x82, 0xa1, 'k', 1}, {0x81, 0xa1}, {5}, {0xde, 1}, {0x81, 0xa1, 'k', 0x90}} {
		n := 0
		for range raw.All() {
			n++
		}
		if _, ok := raw.Lookup("x"); ok || n > 1 {
			t.Errorf("%x: %d entries", []byte(raw), n)
		}
	}
}
