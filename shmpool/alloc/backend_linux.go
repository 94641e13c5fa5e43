package alloc

import "math"

// backend is one way to hold a region that exists: the object is created,
// allocated and has its header.
type backend struct {
	name     string
	bytesMax uint64
	hold     func(o *object, bytes uint64) (holder, error)
}

// holder is the broker's hold on one region.
type holder interface {
	// verify returns an error unless the holder holds the object, all of it.
	// header is what the object starts with.
	verify(o *object, header []byte, bytes uint64) error
	// keepsObject tells that the object's descriptor is part of the hold, so that
	// it stays open, and reads go through it.
	keepsObject() bool
	// unlink takes the name away, and whatever of the hold is not needed to read.
	// It is called once.
	unlink() error
}

// pureBackend holds regions in pure Go: by the descriptor that created them. It
// is always there, because of regions that are too long for hidez8891/shm.
var pureBackend = backend{name: "pure go", bytesMax: math.MaxInt64, hold: holdPure}

type pureHolder struct {
	object *object
}

func holdPure(o *object, _ uint64) (holder, error) { return pureHolder{o}, nil }

func (h pureHolder) verify(o *object, _ []byte, bytes uint64) error {
	return verifyFile(o, bytes)
}

func (h pureHolder) keepsObject() bool { return true }

func (h pureHolder) unlink() error { return h.object.unlink() }
