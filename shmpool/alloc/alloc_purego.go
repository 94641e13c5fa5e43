//go:build linux && (!cgo || purego)

package alloc

// defaultBackend holds the regions that are not too long for it.
var defaultBackend = pureBackend
