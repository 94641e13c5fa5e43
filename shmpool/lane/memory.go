package lane

import (
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

// Memory is a lane's or a bell's region of one slot, mapped for writing.
type Memory struct {
	mapping *shmpool.Mapping
	words   []uint64
}

// Map maps the region called name, which has one slot of slotBytes bytes. Errors
// are those of shmpool.Map.
func Map(name string, id wire.RegionID, slotBytes uint64) (*Memory, error) {
	m, err := shmpool.Map(name, id, shmpool.Geometry{SlotBytes: slotBytes, Slots: 1}, shmpool.ReadWrite)
	if err != nil {
		return nil, err
	}
	words, err := m.SlotWords(0)
	if err != nil {
		return nil, err
	}
	return &Memory{mapping: m, words: words}, nil
}

// Words returns the slot. It is valid until Close.
func (m *Memory) Words() []uint64 { return m.words }

// Prefault has the kernel map all pages now rather than with the first messages.
func (m *Memory) Prefault() error { return m.mapping.Prefault() }

// Close unmaps the region. Nothing that was made of its words may be used any
// more. Closing again does nothing.
func (m *Memory) Close() error {
	m.words = nil
	return m.mapping.Close()
}
