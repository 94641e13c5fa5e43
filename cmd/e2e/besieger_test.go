//go:build linux

package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// besiegerEnv makes the test binary an attacker; its value is a siege.
const besiegerEnv = "TEST_AS_BESIEGER"

// siege says what an attacker does.
type siege struct {
	Addr    string
	Vectors string // file of frames to start from
	Frames  int64  // to send, and to have answered
	Workers int    // at a time; each is a node of its own
	Seconds int    // after which it ends in any case
	Objects []wire.RegionID

	Loris   int // connections that send a byte now and then
	Halves  int // connections a second that end in the middle of a frame
	Askers  int // control connections that ask for much
	Swells  int // connections that send the better part of a long frame
	SwellMB int // bytes of which, in MiB
	Flood   int // connections that say nothing, and come again when they are closed
}

// besieged is what came of it.
type besieged struct {
	Frames      int64 // that the broker has judged: each was answered
	Survived    int64 // of them, with the connection going on
	Connections int64
	Refused     int64 // connections, for lack of room
	Halves      int64
	Loris       int64 // connections of slow ones that were ended
	Asked       int64
	Swells      int64
	Floods      int64            // connections of the flood
	FloodMax    int64            // of it at a time
	Codes       map[string]int64 // of errors
	Elapsed     time.Duration
	Fault       string
}

// besieger is the state of an attacker.
type besieger struct {
	siege
	seeds [][]byte // bodies
	ctx   context.Context
	halt  context.CancelFunc
	left  atomic.Int64 // frames to go

	mu    sync.Mutex
	done  besieged
	slots [16]atomic.Int64
}

func runBesieger(text string) int {
	b := &besieger{done: besieged{Codes: map[string]int64{}}}
	err := json.Unmarshal([]byte(text), &b.siege)
	if err == nil {
		err = b.load()
	}
	// It stands for other machines: what it takes of this one's processors, those
	// do not take.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
	begun := time.Now()
	if err == nil {
		b.attack()
	} else {
		b.done.Fault = err.Error()
	}
	b.done.Elapsed = time.Since(begun)
	_ = json.NewEncoder(os.Stdout).Encode(b.done) // who started it reads it, or is gone
	return 0
}

// load reads the frames that are in the repository for clients of all languages.
func (b *besieger) load() error {
	text, err := os.ReadFile(filepath.Clean(b.Vectors))
	if err != nil {
		return err
	}
	var vectors map[string][]struct{ Frame, Bytes string }
	if err := json.Unmarshal(text, &vectors); err != nil {
		return err
	}
	for _, list := range vectors {
		for _, v := range list {
			frame, err := hex.DecodeString(v.Frame + v.Bytes)
			if err != nil {
				return err
			}
			if len(frame) > wire.FrameHeaderBytes {
				b.seeds = append(b.seeds, frame[wire.FrameHeaderBytes:])
			}
		}
	}
	if len(b.seeds) < 100 {
		return fmt.Errorf("%d frames in %s", len(b.seeds), b.Vectors)
	}
	return nil
}

func (b *besieger) attack() {
	b.ctx, b.halt = context.WithTimeout(context.Background(), time.Duration(b.Seconds)*time.Second)
	defer b.halt()
	b.left.Store(b.Frames)
	var workers, others sync.WaitGroup
	for i := range b.Workers {
		workers.Go(func() { b.fuzz(i) })
	}
	for range b.Loris {
		others.Go(b.loris)
	}
	for range b.Askers {
		others.Go(b.ask)
	}
	for range b.Swells {
		others.Go(b.swell)
	}
	for range b.Flood {
		others.Go(b.flood)
	}
	if b.Halves > 0 {
		others.Go(b.halves)
	}
	workers.Wait()
	if b.Workers > 0 {
		b.halt() // the rest lasts as long as there are frames to send
	}
	others.Wait()
}

func (b *besieger) note(change func(*besieged)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.done)
}

func (b *besieger) noteError(code wire.Code) {
	b.note(func(d *besieged) { d.Codes[code.String()]++ })
}

// dial connects from one of many addresses of this machine, so that ports do not
// run out. nil: the siege is over.
func (b *besieger) dial() *net.TCPConn {
	for b.ctx.Err() == nil {
		from := &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+rand.IntN(8)), byte(1+rand.IntN(250)))}
		dialer := net.Dialer{LocalAddr: from, Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(b.ctx, "tcp", b.Addr)
		if err == nil {
			tcp := conn.(*net.TCPConn)
			_ = tcp.SetLinger(0) // nothing of it is to stay
			return tcp
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// pause sleeps, and reports whether the siege goes on.
func (b *besieger) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-b.ctx.Done():
		return false
	}
}

// loris says hello, a byte at a time, and never comes to the end.
func (b *besieger) loris() {
	frame := wire.NewEncoder().Append(nil, hello("guest0"))
	for b.ctx.Err() == nil {
		conn := b.dial()
		if conn == nil {
			return
		}
		for i := 0; i < len(frame)-1 && b.pause(100*time.Millisecond); i++ {
			if _, err := conn.Write(frame[i : i+1]); err != nil {
				break
			}
		}
		conn.Close()
		b.note(func(d *besieged) { d.Loris++ })
	}
}

// halves ends connections in the middle of a frame.
func (b *besieger) halves() {
	for b.pause(time.Second / time.Duration(b.Halves)) {
		conn := b.dial()
		if conn == nil {
			return
		}
		seed := b.seeds[rand.IntN(len(b.seeds))]
		frame := raw(seed...)
		_, _ = conn.Write(frame[:rand.IntN(len(frame))])
		if rand.IntN(2) == 0 {
			_ = conn.SetLinger(-1)
		}
		conn.Close()
		b.note(func(d *besieged) { d.Halves++ })
	}
}

// flood holds a connection that says nothing, or the beginning of something.
func (b *besieger) flood() {
	if !b.pause(rand.N(500 * time.Millisecond)) {
		return
	}
	for b.ctx.Err() == nil {
		conn := b.dial()
		if conn == nil {
			return
		}
		b.note(func(d *besieged) {
			d.Floods++
			d.FloodMax = max(d.FloodMax, b.slots[0].Add(1))
		})
		stop := context.AfterFunc(b.ctx, func() { conn.Close() })
		_, _ = conn.Write(make([]byte, rand.IntN(8)))
		for buffer := make([]byte, 512); ; {
			if _, err := conn.Read(buffer); err != nil {
				break
			}
		}
		stop()
		conn.Close()
		b.slots[0].Add(-1)
		if !b.pause(200*time.Millisecond + rand.N(300*time.Millisecond)) {
			return
		}
	}
}
