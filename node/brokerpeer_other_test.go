//go:build !linux

package node

import "github.com/brokerd/brokerd/wire"

// locked is false: there is no shared memory on this platform.
func (p *peer) locked(wire.SessionID) bool { return false }
