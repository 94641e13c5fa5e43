package wire

func (m *RegionRequest) encode(w *writer) {
	w.message(KindRegionRequest, 3)
	w.uint(uint64(m.Request))
	w.uint(m.SlotBytes)
	w.uint(uint64(m.Slots))
}

func (m *RegionRequest) decode(r *reader) {
	m.Request = r.u32("request")
	m.SlotBytes = r.u64("slot_bytes")
	m.Slots = r.u32("slots")
}

func (m *RegionGrant) encode(w *writer) {
	w.message(KindRegionGrant, 1+regionOpenFields)
	w.uint(uint64(m.Request))
	encodeRegion(w, m.Region, m.Name, m.Bytes, m.SlotBytes, m.Slots)
}

func (m *RegionGrant) decode(r *reader) {
	m.Request = r.u32("request")
	var open RegionOpen
	open.decodeRegion(r)
	m.Region, m.Name, m.Bytes, m.SlotBytes, m.Slots = open.Region, open.Name, open.Bytes, open.SlotBytes, open.Slots
}

func (m *RegionDenied) encode(w *writer) {
	w.message(KindRegionDenied, 3)
	w.uint(uint64(m.Request))
	w.uint(uint64(m.Code))
	w.text(m.Text)
}

func (m *RegionDenied) decode(r *reader) {
	m.Request = r.u32("request")
	m.Code = Code(r.u16("code"))
	m.Text = r.text("text")
}

func (m *RegionReturn) encode(w *writer) {
	w.message(KindRegionReturn, 1)
	w.uint(uint64(m.Region))
}

func (m *RegionReturn) decode(r *reader) { m.Region = r.region("region") }

func (m *RegionRetire) encode(w *writer) {
	w.message(KindRegionRetire, 1)
	w.uint(uint64(m.Region))
}

func (m *RegionRetire) decode(r *reader) { m.Region = r.region("region") }

// regionOpenFields describe a region. A grant has them behind the number of the
// request.
const regionOpenFields = 5

func (m *RegionOpen) encode(w *writer) {
	n := regionOpenFields
	if m.Owner != 0 {
		n++
	}
	w.message(KindRegionOpen, n)
	encodeRegion(w, m.Region, m.Name, m.Bytes, m.SlotBytes, m.Slots)
	if m.Owner != 0 {
		w.uint(uint64(m.Owner))
	}
}

func encodeRegion(w *writer, id RegionID, name string, bytes, slotBytes uint64, slots uint32) {
	w.uint(uint64(id))
	w.name("name", name, TextBytesMax)
	w.uint(bytes)
	w.uint(slotBytes)
	w.uint(uint64(slots))
}

func (m *RegionOpen) decode(r *reader) {
	m.decodeRegion(r)
	if r.appended() {
		m.Owner = r.region("owner")
	}
}

func (m *RegionOpen) decodeRegion(r *reader) {
	m.Region = r.region("region")
	m.Name = r.text("name")
	m.Bytes = r.u64("bytes")
	m.SlotBytes = r.u64("slot_bytes")
	m.Slots = r.u32("slots")
}

func (m *RegionClose) encode(w *writer) {
	w.message(KindRegionClose, 1)
	w.uint(uint64(m.Region))
}

func (m *RegionClose) decode(r *reader) { m.Region = r.region("region") }
