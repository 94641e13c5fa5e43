// Package alloc is the broker's side of shared memory: it creates and unlinks
// regions, proves to nodes that they share its memory, knows which nodes may
// still have regions mapped, and clears up after a broker that was killed.
//
// # Creating a region
//
// hidez8891/shm is the allocator of record: the broker's hold on a region is a
// shm.Memory, and closing that unmaps and unlinks. On its own it would open a
// name that somebody else made, give it a mode that depends on the umask, leave
// pages to be found missing by whoever touches them first (as SIGBUS), report
// errors without errno, and report a failed mmap not at all. So Create surrounds
// it:
//
//  1. A name with 64 random bits is opened with O_CREAT|O_EXCL|O_NOFOLLOW, mode
//     0600.
//  2. fallocate gives the file all of its pages. A full /dev/shm is ENOSPC here.
//  3. The header is written with pwrite, and zeroes behind it, so that the
//     kernel's zeroing of the pages is paid here and not by the first sender.
//  4. shm.Create opens the same name and maps it. Its failed mmap unlinks the
//     name, which our descriptor shows as a link count of 0; then the header and
//     the last byte are read through its mapping.
//  5. Group and mode are set, last: before that nobody else can open the file,
//     and so nobody can shrink it while its memory is touched.
//  6. Our descriptor is closed. shm.Memory has no accessor for its own, so a
//     region that the broker has to read (for a remote receiver) is opened a
//     second time then; see Region.
//
// An int32 is the size of a shm.Memory. Larger regions, and all regions of builds
// without cgo or with the tag purego, are held by a twin in pure Go that keeps
// the descriptor of step 1.
//
// # Life and death
//
// An instance (one Allocator) has a probe file, which it keeps locked with flock
// for as long as it lives. Sweep takes the lock of every probe it finds; where it
// succeeds the broker is dead, and its names are unlinked, the probe last.
// Creating a file and locking it are two steps, and a sweeper may come between
// them. Both sides therefore follow one rule: who holds the lock looks whether
// the file still has a name, and acts only then.
//
//   - A starting broker that gets the lock but finds its probe unlinked was swept.
//     It has not created any region yet, and starts over under another name.
//   - A starting broker that does not get the lock is being swept: likewise.
//   - A sweeper that gets the lock but finds the probe unlinked came second to
//     another one, and leaves.
//   - A sweeper unlinks only while it holds the lock, so a broker that has the
//     lock and a name keeps both.
//
// Regions without any probe are left when somebody removes files by hand. They
// are unlinked too: a living instance has its probe before its first region and
// until after its last, so a region seen in the directory whose probe is missing
// afterwards has no living owner.
//
// # Adopting
//
// Nodes outlive their broker, and keep what they have mapped: the next broker can
// adopt it. A node holds a lock on its session's byte of the dead broker's probe
// file for as long as it may come; Sweep therefore leaves an instance with such a
// lock alone, and SweepInstances removes it when its time is over. To adopt a
// region is to rename it into one's own instance, so that from one step to the
// next it is no longer the dead one's to sweep.
//
// Who adopts holds the probe of the dead instance locked meanwhile, shared: two
// brokers of the same prefix that start at once may have nodes of the same dead
// one, or of two. A living broker has its own probe locked exclusively, so that
// nobody adopts from the living; and so does a sweeper while it unlinks, so that
// nobody adopts what it is about to find. To look whether an instance is dead
// takes the shared lock, too. Nobody waits for a lock: a sweeper comes again, and
// a node whose region is being swept has come too late.
//
// Only files of the broker's own user are touched. /dev/shm is open to all users.
package alloc
