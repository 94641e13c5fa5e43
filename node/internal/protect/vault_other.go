//go:build !linux

package protect

import "errors"

// Vault cannot be had on this platform.
type Vault struct{}

// Block cannot be had on this platform.
type Block struct{}

// Open returns an error.
func Open(func(text string, err error)) (*Vault, error) {
	return nil, errors.New("it needs Linux")
}

// Bytes returns nothing.
func (b *Block) Bytes() []byte { return nil }

// Copy returns nil.
func (v *Vault) Copy(Owner, []byte) *Block { return nil }

// Writable returns nil.
func (v *Vault) Writable(Owner, int) *Block { return nil }

// Spend does nothing.
func (v *Vault) Spend(*Block, End, uint64) {}
