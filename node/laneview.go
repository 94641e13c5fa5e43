package node

import (
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/wire"
)

var errStranger = errors.New("region of a node that is not the lane's sender")

// takeLane makes the event of the descriptor that was popped, after checking all
// it says.
func (r *receiver) takeLane(l *laneIn) (Event, error) {
	d, e := &l.desc, l.estate
	payload, view, err := e.viewLane(l, d.Region, d.Offset, d.Length)
	if err != nil {
		return Event{}, err
	}
	st := r.newState()
	rec := st.rec
	ledger := l.view.ledger
	var metadata wire.RawMetadata
	if d.MetaRegion != 0 {
		if rec.own, err = e.readMetadata(l, view, rec.own[:0]); err != nil {
			r.keepState(st)
			e.unview(view)
			return Event{}, err
		}
		metadata = rec.own
	}
	*rec = record{
		owner: r, estate: e, input: l.input, view: view, lane: l, ledger: ledger, own: rec.own,
		region: d.Region, offset: d.Offset,
		seq: d.Seq, timeNS: d.TimeNS, dropped: l.lost, metadata: metadata, payload: payload, held: true,
	}
	l.lost = 0
	l.refs.Add(1)
	e.hold()
	r.traffic.lanes++
	return r.handOut(st, l.input), nil
}

// letGo clears the lane's bit of a message that cannot be read, if its slots are
// known. Else that is left to the sender, who finds the metadata by the payload.
func (e *estate) letGo(l *laneIn) {
	d := &l.desc
	_, payload, err := e.viewLane(l, d.Region, d.Offset, 0)
	if err != nil {
		return
	}
	defer e.unview(payload)
	ledger := l.view.ledger
	if d.MetaRegion != 0 {
		_, meta, err := e.viewLane(l, d.MetaRegion, d.MetaOffset, 0)
		if err != nil {
			return
		}
		// Not twice for one slot: after the first time it may be another message's.
		if d.MetaRegion != d.Region || meta.SlotIndex() != payload.SlotIndex() {
			l.view.ledger.Clear(meta.SlotIndex(), l.grant.Bit)
		}
		e.unview(meta)
	}
	l.done(ledger, payload.SlotIndex())
}

// viewLane returns bytes that a descriptor on a lane names. The region has to be
// the sender's: with another one's a sender could have this node clear bits in a
// ledger that is none of its business.
func (e *estate) viewLane(l *laneIn, region wire.RegionID, offset, length uint64) ([]byte, shmpool.Ref, error) {
	v := &e.views
	v.Lock()
	defer v.Unlock()
	known := l.view.region == region && l.view.version == v.version
	if !known {
		if owner, announced := v.owners[region]; announced && owner != l.grant.PeerBellRegion {
			return nil, shmpool.Ref{}, fmt.Errorf("region %d: %w", uint64(region), errStranger)
		} else if !announced {
			return nil, shmpool.Ref{}, fmt.Errorf("region %d: %w", uint64(region), shmpool.ErrUnknownRegion)
		}
	}
	b, ref, err := v.cache.View(region, offset, length)
	if err != nil {
		return nil, shmpool.Ref{}, err
	}
	if !known {
		words := ref.Ledger()
		if words == nil {
			err := fmt.Errorf("region %d: its ledger cannot be written to", uint64(region))
			return nil, shmpool.Ref{}, errors.Join(err, v.cache.Release(ref))
		}
		l.view = viewCheck{region: region, version: v.version, ledger: lane.NewLedger(words)}
	}
	return b, ref, nil
}

func (e *estate) viewsVersion() uint64 {
	e.views.Lock()
	defer e.views.Unlock()
	return e.views.version
}

// readMetadata copies the metadata of the message that was popped: its sender
// could change what was checked. If they have a slot of their own the receiver is
// done with that.
func (e *estate) readMetadata(l *laneIn, payload shmpool.Ref, buf []byte) ([]byte, error) {
	d := &l.desc
	if d.MetaLength > wire.MetadataBytesMax {
		return buf, fmt.Errorf("metadata of %d bytes, the limit is %d", d.MetaLength, wire.MetadataBytesMax)
	}
	b, ref, err := e.viewLane(l, d.MetaRegion, d.MetaOffset, d.MetaLength)
	if err != nil {
		return buf, fmt.Errorf("metadata: %w", err)
	}
	ledger := l.view.ledger
	buf, err = shmpool.AppendShared(buf, b)
	if err == nil {
		err = wire.ValidateMetadata(buf)
	}
	if err == nil && (d.MetaRegion != d.Region || ref.SlotIndex() != payload.SlotIndex()) {
		ledger.Clear(ref.SlotIndex(), l.grant.Bit)
	}
	e.unview(ref)
	return buf, err
}

// done clears the lane's bit of a released message, and tells the sender if it
// waits for memory.
func (l *laneIn) done(ledger lane.Ledger, slot uint32) {
	ledger.Clear(slot, l.grant.Bit)
	l.bell.GiveMemory()
}
