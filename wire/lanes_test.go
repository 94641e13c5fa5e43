package wire

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

// laneSamples are messages between sides that both have FeatureLanes.
func laneSamples(meta RawMetadata) []sample {
	const lane, region, bell, peerBell = 0x5f3a9c01_0000000b, 0x5f3a9c01_00000002, 0x5f3a9c01_00000009, 0x5f3a9c01_0000000a
	name := func(what string) string { return "brokerd-5f3a9c01-" + what + "-00112233445566ff" }
	return []sample{
		{"publish on lanes, too", &Publish{Epoch: 1, Seq: 7, TimeNS: 1_750_000_000_000_000_000, Token: 3,
			Region: region, Offset: 4096, Length: 921_600, Metadata: meta, Lanes: 1<<0 | 1<<2}},
		{"publish on the highest lane", &Publish{Seq: 8, Token: 4, Region: region, Offset: 4096, Lanes: 1 << LaneBitMax}},
		{"flow, all receivers on lanes", &Flow{Output: 0, Epoch: 1, Receivers: 2, Window: WindowUnlimited}},
		{"flow, largest integers", &Flow{Output: math.MaxUint32, Epoch: math.MaxUint32, Receivers: math.MaxUint32,
			Window: math.MaxUint64 - 1, Brokered: math.MaxUint32}},
		{"attach, adopting", &Attach{Nonce: bytes.Repeat([]byte{0xa5}, 32), Adopting: true}},
		{"lane_grant to the sender", &LaneGrant{Lane: lane, Role: LaneSender, Port: 1, Bit: 2, QueueSize: 10,
			Policy: PolicyDropOldest, HoldTimeoutMS: 10_000, Name: name("b"), SlotBytes: 2048,
			BellRegion: bell, BellName: name("9"), PeerBellRegion: peerBell, PeerBellName: name("a"), Peer: "edges/frame"}},
		{"lane_grant to the receiver", &LaneGrant{Lane: lane, Role: LaneReceiver, Port: 0, Bit: LaneBitMax,
			QueueSize: LaneQueueSizeMax, Policy: PolicyBlock, Name: name("b"), SlotBytes: 5_242_880,
			BellRegion: peerBell, BellName: name("a"), PeerBellRegion: bell, PeerBellName: name("9"), Peer: "camera/image"}},
		{"lane_ready", &LaneReady{Lane: lane}},
		{"lane_ready, not mapped", &LaneReady{Lane: lane, Text: "permission denied"}},
		{"region_open, with its owner's bell", &RegionOpen{Region: region, Name: name("2"), Bytes: 8_392_704,
			SlotBytes: 1_048_576, Slots: 8, Owner: bell}},
		{"lane_start", &LaneStart{Lane: lane}},
		{"lane_start, messages lost before it", &LaneStart{Lane: lane, Dropped: math.MaxUint64}},
		{"lane_close", &LaneClose{Lane: lane, Reason: "camera closed its output"}},
		{"lane_close, withdrawn", &LaneClose{Lane: lane, From: math.MaxUint32, Withdrawn: 7, Settled: true, Reason: "edges is gone"}},
		{"lane_done", &LaneDone{Lane: lane}},
		{"lane_fault", &LaneFault{Lane: lane, Reason: DropBadDescriptor, Count: 2, Bytes: 1_843_200, SeqFirst: 20, SeqLast: 21,
			Text: "offset 0 is in the header"}},
		{"lane_fault, nothing lost", &LaneFault{Lane: lane, Reason: DropBadDescriptor, Text: "the lane's counters contradict each other"}},
		{"lane_held", &LaneHeld{Lane: lane, Region: region, Seq: 12, Bytes: 1_843_200, HeldMS: 10_250, Count: 2}},
		{"adopt", &Adopt{Instance: "5f3a9c01", BellRegion: bell, BellName: name("9"),
			Regions: []AdoptRegion{{Region: region, Name: name("2"), SlotBytes: 1_048_576, Slots: 8},
				{Region: region + 1, Name: name("3"), SlotBytes: 128, Slots: 64}},
			Lanes: []AdoptLane{
				{Lane: lane, Role: LaneSender, Port: "image", Peer: "edges/frame", Bit: 2, QueueSize: 10, HoldTimeoutMS: 10_000,
					Name: name("b"), SlotBytes: 2048, PeerBellRegion: peerBell},
				{Lane: lane + 4, Role: LaneReceiver, Port: "in", Peer: "plan/way", Bit: LaneBitMax, QueueSize: 1, Policy: PolicyDropNewest,
					Name: name("f"), SlotBytes: 2048, PeerBellRegion: bell + 7}}}},
		{"adopt, nothing", &Adopt{Instance: "5f3a9c01"}},
		{"adopted", &Adopted{Regions: []AdoptedRegion{{Region: region, Name: "brokerd-77aa0102-2-8899aabbccddeeff"},
			{Region: lane, Name: "brokerd-77aa0102-b-8899aabbccddeeff"}}, Lanes: []RegionID{lane}, Bell: true}},
		{"adopted, nothing", &Adopted{}},
	}
}

func grantWith(at int, v any) []byte {
	fields := []any{29, 9, 0, 0, 0, 1, 0, 0, "lane", 2048, 7, "bell", 8, "peer", "edges/frame"}
	fields[at] = v
	return body(fields...)
}

func adoptRegionWith(at int, v any) []byte {
	region := []any{9, "name", 4096, 1}
	region[at] = v
	return body(36, "i", 0, "", list(list(8, "first", 4096, 1), list(region...)), list())
}

func adoptLaneWith(at int, v any) []byte {
	lane := []any{9, 0, "image", "edges/frame", 0, 1, 0, 0, "lane", 2048, 8}
	lane[at] = v
	return body(36, "i", 0, "", list(), list(list(lane...)))
}

// addLanes has the hostile forms of the messages of lanes.
func addLanes(add func(string, []byte)) {
	add("publish: lanes are negative", body(6, 0, 0, 1, 0, 0, 0, 0, 0, nil, nil, -1))
	add("publish: the broker's bit among the lanes", body(6, 0, 0, 1, 0, 0, 0, 0, 0, nil, nil, uint64(1)<<63))
	add("publish: lanes are nil", body(6, 0, 0, 1, 0, 0, 0, 0, 0, nil, nil, nil))
	add("publish: lanes announced but missing", body(6, 0, 0, 1, 0, 0, 0, 0, 0, nil, nil, raw{}))
	add("flow: brokered over u32", body(10, 0, 1, 1, 1, uint64(1)<<32))
	add("attach: adopting is an integer", body(3, []byte{}, 1))
	add("lane_grant: too few fields", body(29, 9, 0, 0, 0, 1, 0, 0, "lane", 2048, 7, "bell", 8, "peer"))
	add("lane_grant: lane 0", grantWith(1, 0))
	add("lane_grant: unknown role", grantWith(2, 2))
	add("lane_grant: port over u32", grantWith(3, uint64(1)<<32))
	add("lane_grant: the broker's bit", grantWith(4, LaneBitMax+1))
	add("lane_grant: bit that would wrap to 0", grantWith(4, 256))
	add("lane_grant: queue of 0", grantWith(5, 0))
	add("lane_grant: queue over the limit", grantWith(5, LaneQueueSizeMax+1))
	add("lane_grant: unknown policy", grantWith(6, 3))
	add("lane_grant: hold timeout over u32", grantWith(7, uint64(1)<<32))
	add("lane_grant: name too long", grantWith(8, strings.Repeat("x", TextBytesMax+1)))
	add("lane_grant: name is bytes", grantWith(8, []byte("lane")))
	add("lane_grant: slot_bytes negative", grantWith(9, -1))
	add("lane_grant: no bell", grantWith(10, 0))
	add("lane_grant: no bell of the peer", grantWith(12, 0))
	add("lane_ready: lane 0", body(30, 0, ""))
	add("lane_ready: text too long", body(30, 9, strings.Repeat("x", TextBytesMax+1)))
	add("region_open: owner negative", body(16, 1, "n", 8192, 4096, 1, -1))
	add("lane_start: lane 0", body(31, 0))
	add("lane_start: dropped negative", body(31, 1, -1))
	add("lane_close: position over 32 bits", body(32, 9, uint64(1)<<32, 0, false, ""))
	add("lane_close: more withdrawn than any queue holds", body(32, 9, 0, LaneQueueSizeMax+1, false, ""))
	add("lane_close: settled is an integer", body(32, 9, 0, 0, 1, ""))
	add("lane_done: lane 0", body(33, 0))
	add("lane_fault: reason 0", body(34, 9, 0, 0, 0, 0, 0, ""))
	add("lane_fault: unknown reason", body(34, 9, 11, 0, 0, 0, 0, ""))
	add("lane_fault: sequence numbers reversed", body(34, 9, 8, 1, 1, 2, 1, ""))
	add("lane_held: region 0", body(35, 9, 0, 1, 1, 1, 1))
	add("lane_held: count over u32", body(35, 9, 8, 1, 1, 1, uint64(1)<<32))
}

// addAdopt has the hostile forms of the messages of adoption.
func addAdopt(add func(string, []byte)) {
	over := func(n int, element []byte) raw {
		return append(raw{0xdc, byte(n >> 8), byte(n)}, bytes.Repeat(element, n)...)
	}
	add("adopt: instance too long", body(36, strings.Repeat("x", IDBytesMax+1), 0, "", list(), list()))
	add("adopt: regions: 65,535 announced", body(36, "i", 0, "", raw{0xdc, 0xff, 0xff}, list()))
	add("adopt: regions: more announced than fit", body(36, "i", 0, "", raw{0xdc, 0x0f, 0xff}, raw(make([]byte, 4095))))
	add("adopt: regions: over the limit", body(36, "i", 0, "", over(AdoptRegionsMax+1, list(1, "n", 1, 1)), list()))
	add("adopt: region 0", adoptRegionWith(0, 0))
	add("adopt: region's name not UTF-8", adoptRegionWith(1, raw{0xa1, 0xff}))
	add("adopt: region's slots over u32", adoptRegionWith(3, uint64(1)<<32))
	add("adopt: region too short", body(36, "i", 0, "", list(list(8, "name", 4096)), raw{0x90}))
	add("adopt: lanes: 2^32-1 announced", body(36, "i", 0, "", list(), raw{0xdd, 0xff, 0xff, 0xff, 0xff}))
	add("adopt: lanes: more announced than fit", body(36, "i", 0, "", list(), append(raw{0xdc, 0x10, 0}, make([]byte, 4096)...)))
	add("adopt: lanes: over the limit", body(36, "i", 0, "", list(), over(AdoptLanesMax+1, list(9, 0, "o", "p", 0, 1, 0, 0, "l", 1, 8))))
	add("adopt: lane 0", adoptLaneWith(0, 0))
	add("adopt: lane of an unknown role", adoptLaneWith(1, 2))
	add("adopt: port too long", adoptLaneWith(2, strings.Repeat("x", IDBytesMax+1)))
	add("adopt: the broker's bit", adoptLaneWith(4, LaneBitMax+1))
	add("adopt: queue of 0", adoptLaneWith(5, 0))
	add("adopt: queue over the limit", adoptLaneWith(5, LaneQueueSizeMax+1))
	add("adopt: unknown policy", adoptLaneWith(6, 3))
	add("adopt: lane without a bell", adoptLaneWith(10, 0))
	add("adopt: lane too short", body(36, "i", 0, "", list(), list(list(9, 0, "o", "p", 0, 1, 0, 0, "l", 1), "padding")))
	add("adopted: regions: 65,535 announced", body(37, raw{0xdc, 0xff, 0xff}, list(), false))
	add("adopted: regions: over the limit", body(37, over(AdoptedNamesMax+1, list(1, "n")), list(), false))
	add("adopted: region 0", body(37, list(list(0, "n")), list(), false))
	add("adopted: lanes: over the limit", body(37, list(), over(AdoptLanesMax+1, []byte{1}), false))
	add("adopted: lane 0", body(37, list(), list(1, 0), false))
	add("adopted: bell is nil", body(37, list(), list(), nil))
}

// What is left out when it has its usual value makes no difference to a peer
// that does not know of it; and a message of the decoder's scratch does not keep
// it from the one before.
func TestAppendedFields(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	for _, pair := range [][2]Message{
		{&Publish{Seq: 1, Lanes: 5}, &Publish{Seq: 1}},
		{&Flow{Receivers: 2}, &Flow{Receivers: 2, Brokered: 1}},
		{&Attach{Nonce: []byte{1}, Adopting: true}, &Attach{Nonce: []byte{1}}},
		{&RegionOpen{Region: 3, Owner: 4}, &RegionOpen{Region: 3}},
		{&LaneStart{Lane: 3, Dropped: 4}, &LaneStart{Lane: 3}},
	} {
		long, short := e.Append(nil, pair[0])[FrameHeaderBytes:], e.Append(nil, pair[1])[FrameHeaderBytes:]
		if long[0] != short[0]+1 || !bytes.HasPrefix(long[1:], short[1:]) || len(long) != len(short)+1 {
			t.Errorf("%s: %x is not %x with one field more", pair[0], long, short)
		}
		for i, b := range [][]byte{long, short} {
			if m, err := d.Decode(b); err != nil || m.String() != pair[i].String() {
				t.Errorf("%v, %v, want %v", m, err, pair[i])
			}
		}
	}
}

// A lane's messages name the ends and numbers by their names.
func TestLaneTexts(t *testing.T) {
	for _, c := range []struct {
		msg  Message
		want string
	}{
		{&LaneGrant{Lane: 9, Role: LaneReceiver, Policy: PolicyBlock, Peer: "a/b"}, "role=receiver"},
		{&LaneGrant{Role: 7}, "role=role(7)"},
		{&LaneFault{Reason: DropBadDescriptor}, "reason=bad_descriptor"},
		{&Publish{Lanes: 1 << LaneBitMax}, "lanes=0x4000000000000000"},
		{&Attach{}, "attach nonce_len=0"},
	} {
		if got := c.msg.String(); !strings.Contains(got, c.want) {
			t.Errorf("%s has no %s", got, c.want)
		}
	}
	if got := new(Attach).String(); strings.Contains(got, "adopting") {
		t.Error(got)
	}
}
