package wire

import "math"

// shortageSamples are messages between sides that both have FeatureInline.
func shortageSamples() []sample {
	return []sample{
		{"shortage", &Shortage{Output: 1, Bytes: 6_220_800}},
		{"shortage, largest", &Shortage{Output: math.MaxUint32, Bytes: math.MaxUint64}},
	}
}

// addShortage has the hostile forms of the messages of the inline fall-back.
func addShortage(add func(string, []byte)) {
	add("shortage: too few fields", body(42, 1))
	add("shortage: output over u32", body(42, uint64(1)<<32, 1))
	add("shortage: bytes negative", body(42, 0, -1))
}
