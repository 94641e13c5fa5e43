package node

import (
	"fmt"

	"github.com/brokerd/brokerd/node/internal/protect"
	"github.com/brokerd/brokerd/wire"
)

// Protect mode: users get copies of payloads, in pages that nobody can touch when
// their time is over. What lies in shared memory is held as ever, so that all
// else is the same.

// guard is what a message has of the vault. One that has a guard has no payload in
// shared memory as far as its user is concerned.
type guard struct {
	vault             *protect.Vault
	payload, metadata *protect.Block // nil: empty
}

// openVault starts protect mode.
func (n *Node) openVault() (err error) {
	n.vault, err = protect.Open(func(text string, err error) {
		n.log.Warn("protect mode: "+text, "error", err)
	})
	if err != nil {
		return fmt.Errorf("%w: Protect: %w", ErrConfig, err)
	}
	n.log.Info("protect mode: every payload is copied, and cannot be touched any more after Release or Publish; this is slow")
	return nil
}

// protect puts copies in place of what the user gets to see.
func (rec *record) protect(n *Node, in *input) {
	g := &guard{vault: n.vault}
	owner := protect.Owner{Use: protect.Payload, Node: n.cfg.Node, Port: in.info.ID, Seq: uint64(rec.seq)}
	if len(rec.payload) > 0 {
		if g.payload = n.vault.Copy(owner, rec.payload); g.payload == nil {
			return // no memory: the user gets the payload itself
		}
		rec.payload = g.payload.Bytes()
	}
	owner.Use = protect.Metadata
	if g.metadata = n.vault.Copy(owner, rec.metadata); g.metadata != nil {
		rec.metadata = wire.RawMetadata(g.metadata.Bytes())
	}
	rec.guard = g
}

// spend ends the time of a message; released is false if nobody has said so.
func (g *guard) spend(released bool) {
	end := protect.Released
	if !released {
		end = protect.Forgotten
	}
	for _, b := range []*protect.Block{g.payload, g.metadata} {
		if b != nil {
			g.vault.Spend(b, end, 0)
		}
	}
}

// protect gives the user other memory to write the message to.
func (rec *loanRecord) protect(n int) {
	o := rec.output
	rec.guard = o.n.vault.Writable(protect.Owner{Use: protect.Loan, Node: o.n.cfg.Node, Port: o.id}, n)
}

// guarded is what the user has written to.
func (rec *loanRecord) guarded() []byte {
	n := len(rec.lease.buffer)
	return rec.guard.Bytes()[:n:n]
}

func (rec *loanRecord) spend(end protect.End, seq wire.Seq) {
	rec.output.n.vault.Spend(rec.guard, end, uint64(seq))
	rec.guard = nil
}
