package wire

import "math"

// evacuationSamples are messages between sides that both have FeatureEvacuation.
func evacuationSamples() []sample {
	const region = 0x5f3a9c01_00000002
	return []sample{
		{"welcome, evacuating", &Welcome{Version: 1, Features: FeatureLanes | FeatureEvacuation, Instance: "5f3a9c01", Session: 3,
			FrameMax: 67_108_864, InlineMax: 4096, ProbeName: "brokerd-5f3a9c01-probe", ProbeLength: 32, HeldMax: 268_435_456}},
		{"lane_grant to the sender of a receiver that evacuates", &LaneGrant{Lane: region + 9, Role: LaneSender, QueueSize: 10,
			HoldTimeoutMS: 10_000, Name: "b", SlotBytes: 2048, BellRegion: region + 1, BellName: "9",
			PeerBellRegion: region + 2, PeerBellName: "a", Peer: "edges/frame", GraceMS: 3500}},
		{"evacuated, through the broker", &Evacuated{Input: 1, Tokens: []Token{900, 70_000}, Region: region, Seq: 12,
			Bytes: 1_843_200, HeldMS: 10_250, Count: 2}},
		{"evacuated, on a lane", &Evacuated{Region: region, Seq: math.MaxUint64, Bytes: math.MaxUint64,
			HeldMS: math.MaxUint64, Count: EvacuatedMax}},
		{"kept", &Kept{Messages: 3, Bytes: 2_764_800, Stuck: 1, Text: "held_max: 256 MiB"}},
		{"kept, nothing", &Kept{}},
	}
}

// addEvacuation has the hostile forms of the messages of evacuation.
func addEvacuation(add func(string, []byte)) {
	add("welcome: held_max negative", body(2, 1, 2, "i", 1, 1, 1, 1, "p", 0, 1, -1))
	add("lane_grant: grace over u32", body(29, 9, 0, 0, 0, 1, 0, 0, "lane", 2048, 7, "bell", 8, "peer", "edges/frame", uint64(1)<<32))
	add("evacuated: nothing", body(38, 0, list(), 1, 1, 1, 1, 0))
	add("evacuated: more than tokens", body(38, 0, list(1, 2), 1, 1, 1, 1, 3))
	add("evacuated: less than tokens", body(38, 0, list(1, 2), 1, 1, 1, 1, 1))
	add("evacuated: tokens: 2^32-1 announced", body(38, 0, raw{0xdd, 0xff, 0xff, 0xff, 0xff}, 1, 1, 1, 1, 1))
	add("evacuated: token negative", body(38, 0, list(-1), 1, 1, 1, 1, 1))
	add("evacuated: region 0", body(38, 0, list(), 0, 1, 1, 1, 1))
	add("evacuated: count over the limit", body(38, 0, list(), 1, 1, 1, 1, EvacuatedMax+1))
	add("evacuated: input over u32", body(38, uint64(1)<<32, list(), 1, 1, 1, 1, 1))
	add("kept: too few fields", body(39, 1, 1, 0))
	add("kept: text is bytes", body(39, 1, 1, 0, []byte("full")))
}
