package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/wire"
)

// boxUnderTest is an outbox over a real socket, with the other end of it.
type boxUnderTest struct {
	*outbox
	peer    *net.TCPConn
	aborted chan struct{} // closed by abort
	aborts  atomic.Int32
}

// smallBuffers fill quickly. Much smaller ones than the loopback's segments of
// 64 KiB would make TCP itself stall for its timers.
const smallBuffers = 128 << 10

// newBox makes a pair of connected TCP sockets with small buffers, so that the
// path through the flusher is taken often.
func newBox(t testing.TB, bytesMax uint64, bufferBytes int) *boxUnderTest {
	t.Helper()
	f, err := newFlusher()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peer, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if bufferBytes > 0 {
		_ = ours.(*net.TCPConn).SetWriteBuffer(bufferBytes)
		_ = peer.(*net.TCPConn).SetReadBuffer(bufferBytes)
	}
	raw, err := ours.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if err := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || fd < 0 {
		t.Fatal(err)
	}
	ours.Close()
	b := &boxUnderTest{
		outbox:  &outbox{id: 1, fd: -1, bytesMax: bytesMax, flusher: f},
		peer:    peer.(*net.TCPConn),
		aborted: make(chan struct{}),
	}
	b.attach(fd, func() {
		if b.aborts.Add(1) == 1 {
			close(b.aborted)
		}
	})
	t.Cleanup(func() {
		b.detach()
		unix.Close(fd)
		peer.Close()
		f.stop()
	})
	return b
}

// A numbered frame: sender, number, length, and bytes that follow from these.
const testFrameHeader = 12

func appendTestFrame(dst []byte, sender, number uint32, length int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, sender)
	dst = binary.LittleEndian.AppendUint32(dst, number)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(length))
	for i := range length {
		dst = append(dst, byte(number)+byte(i))
	}
	return dst
}

// readTestFrames checks that frames arrive whole, and those of each sender in
// order, until each of senders has sent count.
func readTestFrames(r io.Reader, senders int, count uint32) error {
	next := make([]uint32, senders)
	header := make([]byte, testFrameHeader)
	for done := 0; done < senders; {
		if _, err := io.ReadFull(r, header); err != nil {
			return err
		}
		sender, number := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint32(header[4:])
		if int(sender) >= senders || number != next[sender] {
			return errors.New("a frame is torn or out of order")
		}
		body := make([]byte, binary.LittleEndian.Uint32(header[8:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		for i, b := range body {
			if b != byte(number)+byte(i) {
				return errors.New("a frame's bytes are wrong")
			}
		}
		if next[sender]++; next[sender] == count {
			done++
		}
	}
	return nil
}

// slowReader reads in odd pieces and makes pauses.
type slowReader struct {
	r   io.Reader
	rnd *rand.Rand
}

func (s *slowReader) Read(p []byte) (int, error) {
	switch n := s.rnd.IntN(100); {
	case n == 0:
		time.Sleep(time.Millisecond) // not for synchronisation: a reader that is slow
	case n < 30:
		p = p[:min(len(p), 1+s.rnd.IntN(3000))]
	}
	return s.r.Read(p)
}

// Whatever the sizes, and however the socket fills and empties, no byte
// overtakes another.
func TestOutboxKeepsOrder(t *testing.T) {
	const senders, count = 3, 1500
	for seed := range uint64(3) {
		box := newBox(t, 1<<40, smallBuffers)
		var sending sync.WaitGroup
		for sender := range uint32(senders) {
			rnd := rand.New(rand.NewPCG(seed, uint64(sender)))
			sending.Go(func() {
				var b []byte
				for number := range uint32(count) {
					length := rnd.IntN(200)
					if rnd.IntN(20) == 0 {
						length = rnd.IntN(100 << 10)
					}
					b = appendTestFrame(b[:0], sender, number, length)
					if _, ok := box.send(b); !ok {
						t.Error("cut off")
						return
					}
					clear(b) // it is ours again; the outbox must not look at it any more
				}
			})
		}
		err := readTestFrames(&slowReader{box.peer, rand.New(rand.NewPCG(seed, 99))}, senders, count)
		sending.Wait()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if st := box.look(false); st.queued != 0 || st.ended {
			t.Fatalf("seed %d: after everything has arrived, %d bytes are counted as waiting, ended %v", seed, st.queued, st.ended)
		}
	}
}

// A peer that does not read costs no more than the limit, and is cut off once.
func TestOutboxCutsOffAtLimit(t *testing.T) {
	const limit = 1 << 20
	box := newBox(t, limit, smallBuffers)
	frame := make([]byte, 10_000)
	sent := 0
	for {
		waiting, ok := box.send(frame)
		if !ok {
			if waiting > limit || waiting < limit-uint64(len(frame)) {
				t.Fatalf("cut off with %d bytes waiting, the limit is %d", waiting, limit)
			}
			break
		}
		if sent += len(frame); sent > 100*limit {
			t.Fatal("not cut off")
		}
	}
	<-box.aborted
	if _, ok := box.send(frame); !ok {
		t.Fatal("cut off twice")
	}
	if n := box.aborts.Load(); n != 1 {
		t.Fatalf("aborted %d times", n)
	}
	if reason, ours := box.detach(); !ours || !errors.Is(reason, wire.ErrSlowConnection) {
		t.Fatalf("reason %v", reason)
	}
	if len(box.waiting.chunks) != 0 || box.queued != 0 {
		t.Fatal("the waiting bytes are still there")
	}
}

// One send that is larger than the limit goes through if nothing waits; the next
// one then is too much.
func TestOutboxTakesOneLargeFrame(t *testing.T) {
	box := newBox(t, 64<<10, smallBuffers)
	large := appendTestFrame(nil, 0, 0, 8<<20)
	if _, ok := box.send(large); !ok {
		t.Fatal("a single large frame was refused")
	}
	if err := readTestFrames(box.peer, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, ok := box.send(large); !ok {
		t.Fatal("refused although nothing waits")
	}
	if _, ok := box.send([]byte("x")); ok {
		t.Fatal("accepted although the limit is exceeded")
	}
}

// finish delivers what waits and the last frame, then the end of the stream.
func TestOutboxFinish(t *testing.T) {
	box := newBox(t, 1<<30, smallBuffers)
	box.send(appendTestFrame(nil, 0, 0, 4<<20))
	if !box.finish(appendTestFrame(nil, 0, 1, 10), wire.ErrShuttingDown, time.Now().Add(time.Minute)) {
		t.Fatal("not accepted")
	}
	if box.finish(nil, nil, time.Time{}) {
		t.Fatal("finished twice")
	}
	box.send([]byte("too late"))
	if err := readTestFrames(box.peer, 1, 2); err != nil {
		t.Fatal(err)
	}
	if n, err := box.peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("after the last frame: %d bytes, %v", n, err)
	}
	if reason, ours := box.detach(); !ours || reason != wire.ErrShuttingDown {
		t.Fatalf("reason %v", reason)
	}
}

// A socket that breaks while bytes wait ends the connection.
func TestOutboxPeerGone(t *testing.T) {
	box := newBox(t, 1<<30, smallBuffers)
	box.send(make([]byte, 4<<20))
	_ = box.peer.SetLinger(0)
	box.peer.Close() // a reset
	<-box.aborted
	if reason, ours := box.detach(); !ours || reason == nil {
		t.Fatalf("reason %v", reason)
	}
}

// detach while the flusher is at work: the descriptor must not be used after it.
func TestOutboxDetachRaces(t *testing.T) {
	for range 50 {
		box := newBox(t, 1<<30, smallBuffers)
		var work sync.WaitGroup
		work.Go(func() { _, _ = io.CopyN(io.Discard, box.peer, 1<<20) })
		work.Go(func() {
			for range 100 {
				box.send(make([]byte, 64<<10))
			}
		})
		work.Go(func() {
			_, _ = io.CopyN(io.Discard, box.peer, 256<<10)
			box.detach()
			box.peer.Close()
		})
		work.Wait()
		if st := box.look(true); !st.ended || st.queued != 0 {
			t.Fatalf("after detach: %+v", st)
		}
	}
}

// The chunks hold what was put in, in any mixture of sizes.
func TestChunkQueue(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var q chunkQueue
	var wrote, read byte
	var length int
	for range 3000 {
		if rnd.IntN(2) == 0 {
			b := make([]byte, rnd.IntN(3*chunkBytes/2))
			for i := range b {
				b[i] = wrote
				wrote++
			}
			q.append(b)
			length += len(b)
			continue
		}
		n := rnd.IntN(length + 1)
		left := n
		for left > 0 {
			piece := q.front()
			piece = piece[:min(len(piece), left)]
			for _, b := range piece {
				if b != read {
					t.Fatalf("got byte %d, want %d", b, read)
				}
				read++
			}
			left -= len(piece)
			q.discard(len(piece))
		}
		length -= n
	}
}

func BenchmarkOutboxSend(b *testing.B) {
	for _, size := range []int{64, 4096} {
		b.Run(byteCount(size), func(b *testing.B) {
			box := newBox(b, 1<<40, 0)
			go func() { _, _ = io.Copy(io.Discard, box.peer) }()
			frame := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				box.send(frame)
			}
		})
	}
}

func byteCount(n int) string {
	if n >= 1024 {
		return string(rune('0'+n/1024)) + "KiB"
	}
	return "64B"
}
