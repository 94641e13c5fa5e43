// Package protect finds programs that use memory of a message which is not theirs
// any more: BROKERD_DEBUG=protect.
//
// Every received message is copied to pages of its own, read-only, and every loan
// is written there; when their time is over the pages cannot be touched any more,
// and their addresses are not used again for long. A later use is a segmentation
// fault at the spot, with a stack that leads there, whichever goroutine it is.
//
// Go's text about such a fault has an address and nothing else. So there is a
// monitor: the same program once more, started by this package's init. It holds
// one end of a pipe that the runtime writes its last words to
// (debug.SetCrashOutput), and a file in memory, the table, in which the vault
// enters what lies where. When the pipe ends it looks the address up and says
// which message it was, who gave it up, and where. The monitor has no other
// connection to its process: it ends with it, however that ends, and needs no
// goroutine there, and one descriptor.
//
// The package is for debugging. It copies all payloads and takes some system
// calls for each.
package protect
