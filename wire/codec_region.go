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
	open := RegionOpen{Region: m.Region, Name: m.Name, Bytes: m.Bytes, SlotBytes: m.SlotBytes, Slots: m.Slots}
	open.encodeFields(w)
}

func (m *RegionGrant) decode(r *reader) {
	m.Request = r.u32("request")
	var open RegionOpen
	open.decode(r)
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
	w.message(KindRegionOpen, regionOpenFields)
	m.encodeFields(w)
}

func (m *RegionOpen) encodeFields(w *writer) {
	w.uint(uint64(m.Region))
	w.name("name", m.Name, TextBytesMax)
	w.uint(m.Bytes)
	w.uint(m.SlotBytes)
	w.uint(uint64(m.Slots))
}

func (m *RegionOpen) decode(r *reader) {
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
