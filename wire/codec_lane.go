package wire

import "math"

func (m *LaneGrant) encode(w *writer) {
	n := 14
	if m.GraceMS != 0 {
		n++
	}
	w.message(KindLaneGrant, n)
	w.uint(uint64(m.Lane))
	w.uint(uint64(m.Role))
	w.uint(uint64(m.Port))
	w.uint(uint64(m.Bit))
	w.uint(uint64(m.QueueSize))
	w.uint(uint64(m.Policy))
	w.uint(uint64(m.HoldTimeoutMS))
	w.name("name", m.Name, TextBytesMax)
	w.uint(m.SlotBytes)
	w.uint(uint64(m.BellRegion))
	w.name("bell_name", m.BellName, TextBytesMax)
	w.uint(uint64(m.PeerBellRegion))
	w.name("peer_bell_name", m.PeerBellName, TextBytesMax)
	w.name("peer", m.Peer, TextBytesMax)
	if m.GraceMS != 0 {
		w.uint(uint64(m.GraceMS))
	}
}

func (m *LaneGrant) decode(r *reader) {
	m.Lane = r.laneID("lane")
	m.Role = r.laneRole()
	m.Port = r.u32("port")
	m.Bit = r.laneBit()
	m.QueueSize = r.laneQueueSize()
	m.Policy = r.policy()
	m.HoldTimeoutMS = r.u32("hold_timeout_ms")
	m.Name = r.text("name")
	m.SlotBytes = r.u64("slot_bytes")
	m.BellRegion = r.laneID("bell_region")
	m.BellName = r.text("bell_name")
	m.PeerBellRegion = r.laneID("peer_bell_region")
	m.PeerBellName = r.text("peer_bell_name")
	m.Peer = r.text("peer")
	if r.appended() {
		m.GraceMS = r.u32("grace_ms")
	}
}

func (m *LaneReady) encode(w *writer) {
	w.message(KindLaneReady, 2)
	w.uint(uint64(m.Lane))
	w.text(m.Text)
}

func (m *LaneReady) decode(r *reader) {
	m.Lane = r.laneID("lane")
	m.Text = r.text("text")
}

func (m *LaneStart) encode(w *writer) {
	n := 1
	if m.Dropped != 0 {
		n++
	}
	w.message(KindLaneStart, n)
	w.uint(uint64(m.Lane))
	if m.Dropped != 0 {
		w.uint(m.Dropped)
	}
}

func (m *LaneStart) decode(r *reader) {
	m.Lane = r.laneID("lane")
	if r.appended() {
		m.Dropped = r.u64("dropped")
	}
}

func (m *LaneClose) encode(w *writer) {
	w.message(KindLaneClose, 5)
	w.uint(uint64(m.Lane))
	w.uint(m.From)
	w.uint(uint64(m.Withdrawn))
	w.bool(m.Settled)
	w.text(m.Reason)
}

func (m *LaneClose) decode(r *reader) {
	m.Lane = r.laneID("lane")
	m.From = r.uint("from", math.MaxUint32)
	m.Withdrawn = uint32(r.uint("withdrawn", LaneQueueSizeMax))
	m.Settled = r.bool("settled")
	m.Reason = r.text("reason")
}

func (m *LaneDone) encode(w *writer) {
	w.message(KindLaneDone, 1)
	w.uint(uint64(m.Lane))
}

func (m *LaneDone) decode(r *reader) { m.Lane = r.laneID("lane") }

func (m *LaneFault) encode(w *writer) {
	w.message(KindLaneFault, 7)
	w.uint(uint64(m.Lane))
	w.uint(uint64(m.Reason))
	w.uint(m.Count)
	w.uint(m.Bytes)
	w.uint(uint64(m.SeqFirst))
	w.uint(uint64(m.SeqLast))
	w.text(m.Text)
}

func (m *LaneFault) decode(r *reader) {
	m.Lane = r.laneID("lane")
	m.Reason = r.dropReason("reason")
	m.Count = r.u64("count")
	m.Bytes = r.u64("bytes")
	m.SeqFirst = r.seq("seq_first")
	m.SeqLast = r.seq("seq_last")
	m.Text = r.text("text")
	if m.SeqFirst > m.SeqLast {
		r.fail("seq_first", "%d is over seq_last, %d", m.SeqFirst, m.SeqLast)
	}
}

func (m *LaneHeld) encode(w *writer) {
	w.message(KindLaneHeld, 6)
	w.uint(uint64(m.Lane))
	w.uint(uint64(m.Region))
	w.uint(uint64(m.Seq))
	w.uint(m.Bytes)
	w.uint(m.HeldMS)
	w.uint(uint64(m.Count))
}

func (m *LaneHeld) decode(r *reader) {
	m.Lane = r.laneID("lane")
	m.Region = r.laneID("region")
	m.Seq = r.seq("seq")
	m.Bytes = r.u64("bytes")
	m.HeldMS = r.u64("held_ms")
	m.Count = r.u32("count")
}

const (
	adoptRegionFields   = 4
	adoptLaneFields     = 11
	adoptedRegionFields = 2
)

func (m *Adopt) encode(w *writer) {
	if len(m.Regions) > AdoptRegionsMax || len(m.Lanes) > AdoptLanesMax {
		panic("wire: adopt: more than AdoptRegionsMax regions or AdoptLanesMax lanes")
	}
	w.message(KindAdopt, 5)
	w.name("instance", m.Instance, IDBytesMax)
	w.uint(uint64(m.BellRegion))
	w.name("bell_name", m.BellName, TextBytesMax)
	w.array(len(m.Regions))
	for i := range m.Regions {
		g := &m.Regions[i]
		w.array(adoptRegionFields)
		w.uint(uint64(g.Region))
		w.name("name", g.Name, TextBytesMax)
		w.uint(g.SlotBytes)
		w.uint(uint64(g.Slots))
	}
	w.array(len(m.Lanes))
	for i := range m.Lanes {
		m.Lanes[i].encode(w)
	}
}

func (l *AdoptLane) encode(w *writer) {
	w.array(adoptLaneFields)
	w.uint(uint64(l.Lane))
	w.uint(uint64(l.Role))
	w.name("port", l.Port, IDBytesMax)
	w.name("peer", l.Peer, TextBytesMax)
	w.uint(uint64(l.Bit))
	w.uint(uint64(l.QueueSize))
	w.uint(uint64(l.Policy))
	w.uint(uint64(l.HoldTimeoutMS))
	w.name("name", l.Name, TextBytesMax)
	w.uint(l.SlotBytes)
	w.uint(uint64(l.PeerBellRegion))
}

func (m *Adopt) decode(r *reader) {
	m.Instance = r.id("instance")
	m.BellRegion = r.region("bell_region")
	m.BellName = r.text("bell_name")
	m.Regions = readList(r, "regions", adoptRegionFields, AdoptRegionsMax, func(r *reader) AdoptRegion {
		return AdoptRegion{Region: r.laneID("region"), Name: r.text("name"), SlotBytes: r.u64("slot_bytes"), Slots: r.u32("slots")}
	})
	m.Lanes = readList(r, "lanes", adoptLaneFields, AdoptLanesMax, func(r *reader) AdoptLane {
		return AdoptLane{Lane: r.laneID("lane"), Role: r.laneRole(), Port: r.id("port"), Peer: r.text("peer"),
			Bit: r.laneBit(), QueueSize: r.laneQueueSize(), Policy: r.policy(), HoldTimeoutMS: r.u32("hold_timeout_ms"),
			Name: r.text("name"), SlotBytes: r.u64("slot_bytes"), PeerBellRegion: r.laneID("peer_bell_region")}
	})
}

func (m *Adopted) encode(w *writer) {
	if len(m.Regions) > AdoptedNamesMax || len(m.Lanes) > AdoptLanesMax {
		panic("wire: adopted: more than AdoptedNamesMax regions or AdoptLanesMax lanes")
	}
	w.message(KindAdopted, 3)
	w.array(len(m.Regions))
	for _, g := range m.Regions {
		w.array(adoptedRegionFields)
		w.uint(uint64(g.Region))
		w.name("name", g.Name, TextBytesMax)
	}
	w.array(len(m.Lanes))
	for _, id := range m.Lanes {
		w.uint(uint64(id))
	}
	w.bool(m.Bell)
}

func (m *Adopted) decode(r *reader) {
	m.Regions = readList(r, "regions", adoptedRegionFields, AdoptedNamesMax, func(r *reader) AdoptedRegion {
		return AdoptedRegion{Region: r.laneID("region"), Name: r.text("name")}
	})
	n := r.array("lanes", 0, AdoptLanesMax)
	m.Lanes = make([]RegionID, 0, n)
	r.list = "lanes"
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		m.Lanes = append(m.Lanes, r.laneID(""))
	}
	r.item = -1
	m.Bell = r.bool("bell")
}

// readList reads an array of arrays of at least fields elements each. There is
// room for it only when its announced length can be true.
func readList[T any](r *reader, field string, fields, most int, read func(*reader) T) []T {
	n := r.array(field, 0, most)
	if n*(1+fields) > r.left() {
		r.fail(field, "%d elements announced, %d bytes left", n, r.left())
		return nil
	}
	all := make([]T, 0, n)
	r.list = field
	for r.item = 0; r.item < n && r.err == nil; r.item++ {
		have := r.array("", fields, math.MaxInt)
		all = append(all, read(r))
		r.extras(have, fields, 3)
	}
	r.item = -1
	return all
}

// laneID reads the id of a region that has to be there.
func (r *reader) laneID(field string) RegionID {
	v := r.region(field)
	if v == 0 {
		r.fail(field, "is 0")
	}
	return v
}

func (r *reader) laneRole() LaneRole {
	v := LaneRole(r.u8("role"))
	if !v.Valid() {
		r.fail("role", "%d is not a role", uint8(v))
	}
	return v
}

func (r *reader) laneBit() uint8 { return uint8(r.uint("bit", LaneBitMax)) }

func (r *reader) laneQueueSize() uint32 {
	v := uint32(r.uint("queue_size", LaneQueueSizeMax))
	if v == 0 {
		r.fail("queue_size", "is 0")
	}
	return v
}
