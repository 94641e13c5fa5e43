package wire

import "strconv"

func (m *LaneGrant) appendText(b []byte) []byte {
	l := start(b, KindLaneGrant).uint("lane", uint64(m.Lane)).word("role", m.Role.String()).uint("port", uint64(m.Port)).
		uint("bit", uint64(m.Bit)).uint("queue", uint64(m.QueueSize)).word("policy", m.Policy.String()).
		uint("hold_ms", uint64(m.HoldTimeoutMS)).str("name", m.Name).uint("slot_bytes", m.SlotBytes).
		uint("bell", uint64(m.BellRegion)).str("bell_name", m.BellName).
		uint("peer_bell", uint64(m.PeerBellRegion)).str("peer_bell_name", m.PeerBellName).str("peer", m.Peer)
	if m.GraceMS != 0 {
		l = l.uint("grace_ms", uint64(m.GraceMS))
	}
	return l
}

func (m *LaneReady) appendText(b []byte) []byte {
	return start(b, KindLaneReady).uint("lane", uint64(m.Lane)).str("text", m.Text)
}

func (m *LaneStart) appendText(b []byte) []byte {
	l := start(b, KindLaneStart).uint("lane", uint64(m.Lane))
	if m.Dropped != 0 {
		l = l.uint("dropped", m.Dropped)
	}
	return l
}

func (m *LaneClose) appendText(b []byte) []byte {
	return start(b, KindLaneClose).uint("lane", uint64(m.Lane)).uint("from", m.From).
		uint("withdrawn", uint64(m.Withdrawn)).bool("settled", m.Settled).str("reason", m.Reason)
}

func (m *LaneDone) appendText(b []byte) []byte {
	return start(b, KindLaneDone).uint("lane", uint64(m.Lane))
}

func (m *LaneFault) appendText(b []byte) []byte {
	return start(b, KindLaneFault).uint("lane", uint64(m.Lane)).word("reason", m.Reason.String()).
		uint("count", m.Count).uint("bytes", m.Bytes).
		uint("seq_first", uint64(m.SeqFirst)).uint("seq_last", uint64(m.SeqLast)).str("text", m.Text)
}

func (m *LaneHeld) appendText(b []byte) []byte {
	return start(b, KindLaneHeld).uint("lane", uint64(m.Lane)).uint("region", uint64(m.Region)).
		uint("seq", uint64(m.Seq)).uint("bytes", m.Bytes).uint("held_ms", m.HeldMS).uint("count", uint64(m.Count))
}

func (m *Adopt) appendText(b []byte) []byte {
	l := start(b, KindAdopt).str("instance", m.Instance).uint("bell", uint64(m.BellRegion)).str("bell_name", m.BellName)
	l = append(l, " regions=["...)
	for i, g := range m.Regions {
		l = l.element(i, g.Region).str("name", g.Name).
			uint("slot_bytes", g.SlotBytes).uint("slots", uint64(g.Slots))
		l = append(l, '}')
	}
	l = append(l, "] lanes=["...)
	for i, a := range m.Lanes {
		l = l.element(i, a.Lane).word("role", a.Role.String()).str("port", a.Port).str("peer", a.Peer).
			uint("bit", uint64(a.Bit)).uint("queue", uint64(a.QueueSize)).word("policy", a.Policy.String()).
			uint("hold_ms", uint64(a.HoldTimeoutMS)).str("name", a.Name).uint("slot_bytes", a.SlotBytes).
			uint("peer_bell", uint64(a.PeerBellRegion))
		l = append(l, '}')
	}
	return append(l, ']')
}

func (m *Adopted) appendText(b []byte) []byte {
	l := append(start(b, KindAdopted), " regions=["...)
	for i, g := range m.Regions {
		l = append(l.element(i, g.Region).str("name", g.Name), '}')
	}
	l = append(l, "] lanes=["...)
	for i, id := range m.Lanes {
		if i > 0 {
			l = append(l, ' ')
		}
		l = strconv.AppendUint(l, uint64(id), 10)
	}
	return append(l, ']').bool("bell", m.Bell)
}

// element starts the i-th element of a list, with its id.
func (l line) element(i int, id RegionID) line {
	if i > 0 {
		l = append(l, ' ')
	}
	return strconv.AppendUint(append(l, '{'), uint64(id), 10)
}

func (m *LaneGrant) String() string { return text(m) }
func (m *LaneReady) String() string { return text(m) }
func (m *LaneStart) String() string { return text(m) }
func (m *LaneClose) String() string { return text(m) }
func (m *LaneDone) String() string  { return text(m) }
func (m *LaneFault) String() string { return text(m) }
func (m *LaneHeld) String() string  { return text(m) }
func (m *Adopt) String() string     { return text(m) }
func (m *Adopted) String() string   { return text(m) }
