//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// siegeEnv is how many frames the besieger sends; see doc.go.
const siegeEnv = "BROKERD_SIEGE"

var siegeFrames string // its value

const guests = 16

// siegeFlow has two pairs of honest nodes, one on a lane and one through the
// broker, one that comes late, and the besieger's.
func siegeFlow() string {
	var b strings.Builder
	b.WriteString("nodes:\n")
	for _, pair := range []string{"", "b"} {
		fmt.Fprintf(&b, "  - {id: %ssource, path: dynamic, outputs: [frames]}\n", pair)
		fmt.Fprintf(&b, "  - {id: %ssink, path: dynamic, inputs: {frames: {source: %ssource/frames, policy: block, queue_size: 8}}}\n", pair, pair)
	}
	b.WriteString("  - {id: late, path: dynamic, inputs: {frames: {source: source/frames, queue_size: 8}}}\n")
	for i := range guests {
		fmt.Fprintf(&b, "  - {id: guest%d, path: dynamic, outputs: [words], inputs: {frames: {source: source/frames, queue_size: 8}, words: {source: guest%d/words, queue_size: 8}}}\n", i, (i+1)%guests)
	}
	return b.String()
}

// pairs are the honest nodes.
type pairs struct {
	lane, brokered bystanders
}

// settle starts the honest nodes, and measures them undisturbed.
func (w *world) settle(quiet time.Duration) (*pairs, [2]*inputReport) {
	w.t.Helper()
	p := &pairs{}
	for _, pair := range []struct {
		b      *bystanders
		prefix string
		env    []string
	}{{&p.lane, "", nil}, {&p.brokered, "b", []string{noLanes}}} {
		b := pair.b
		b.w, b.sink, b.source = w, w.start(pair.prefix+"sink", program{Receive: true}, pair.env...), w.start(pair.prefix+"source", program{}, pair.env...)
		b.source.do(order{Do: "await", Output: "frames", Count: 1})
	}
	w.onLanes("sink/frames")
	for _, b := range []*bystanders{&p.lane, &p.brokered} {
		b.reply = b.source.begin(order{Do: "send", Output: "frames", Sizes: []int{100, 50_000}, Every: 2 * time.Millisecond})
	}
	w.eventually("the sinks' first messages", w.more(p.lane.sink, 100))
	w.eventually("the sinks' first messages", w.more(p.brokered.sink, 100))
	p.mark()
	time.Sleep(quiet) // this is what is measured
	return p, p.reports()
}

func (p *pairs) mark() {
	p.lane.sink.do(order{Do: "mark"})
	p.brokered.sink.do(order{Do: "mark"})
}

func (p *pairs) reports() [2]*inputReport {
	return [2]*inputReport{p.lane.sink.report().Inputs["frames"], p.brokered.sink.report().Inputs["frames"]}
}

// check ends them. What the whole machine was late by is no fault of the daemon's.
func (p *pairs) check(g *gauge) {
	for _, b := range []*bystanders{&p.lane, &p.brokered} {
		b.late = 2 * g.late
		b.check()
	}
}

// gauge looks at a process again and again, and keeps the most.
type gauge struct {
	stop   chan struct{}
	done   sync.WaitGroup
	rss    uint64 // its own memory, without shared memory
	files  int
	tasks  uint64
	rss0   uint64
	files0 int
	late   time.Duration // most that the test itself was late: others have the machine
	answer time.Duration // longest answer to a status request: the router's
}

func (w *world) gauge() *gauge {
	w.t.Helper()
	g := &gauge{stop: make(chan struct{})}
	look := func() (uint64, int, uint64) {
		n, _ := procNumbers(w.broker.pid, "status")
		f, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.broker.pid))
		return n["RssAnon"], len(f), n["Threads"]
	}
	g.rss0, g.files0, _ = look()
	g.rss, g.files = g.rss0, g.files0
	g.done.Go(func() {
		for {
			begun := time.Now()
			w.status()
			g.answer = max(g.answer, time.Since(begun))
			select {
			case <-g.stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	g.done.Go(func() {
		for last := time.Now(); ; {
			now := time.Now()
			g.late = max(g.late, now.Sub(last)-50*time.Millisecond)
			last = now
			rss, files, tasks := look()
			g.rss, g.files, g.tasks = max(g.rss, rss), max(g.files, files), max(g.tasks, tasks)
			select {
			case <-g.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return g
}

func (g *gauge) end(t *testing.T) {
	close(g.stop)
	g.done.Wait()
	t.Logf("brokerd: own memory %d MiB before, at most %d MiB; descriptors %d before, at most %d; at most %d threads; status within %v",
		g.rss0>>20, g.rss>>20, g.files0, g.files, g.tasks, g.answer.Round(time.Millisecond))
	t.Logf("the test itself was late by up to %v", g.late.Round(time.Millisecond))
}

// besiege runs an attacker to its end; meanwhile may do something beside it.
func (w *world) besiege(s siege, meanwhile func()) besieged {
	w.t.Helper()
	var err error
	if s.Vectors, err = filepath.Abs("../../testdata/wire/vectors.json"); err != nil {
		w.t.Fatal(err)
	}
	s.Addr = w.broker.addr
	for _, name := range shmNames(w.prefix) {
		if parts := strings.Split(name, "-"); len(parts) == 4 {
			id, err := strconv.ParseUint(parts[2], 16, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			s.Objects = append(s.Objects, wire.RegionID(id))
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(self)
	stderr := &lockedBuffer{}
	cmd.Env, cmd.Stderr = append(os.Environ(), besiegerEnv+"="+string(text)), stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := startProcess(cmd); err != nil {
		w.t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	var result besieged
	err = json.NewDecoder(out).Decode(&result)
	if err = errors.Join(err, cmd.Wait()); err != nil || result.Fault != "" {
		w.t.Fatalf("besieger: %v %s\n%s", err, result.Fault, stderr)
	}
	return result
}

// told prints what the honest nodes had of it.
func told(t *testing.T, before, during [2]*inputReport) {
	for i, path := range []string{"lane", "brokered"} {
		t.Logf("honest, %-8s  p50 %v before, %v during; p99 %v before, %v during; longest gap %v before, %v during", path,
			before[i].P50.Round(time.Microsecond), during[i].P50.Round(time.Microsecond),
			before[i].P99.Round(time.Microsecond), during[i].P99.Round(time.Microsecond),
			before[i].MaxGap.Round(time.Microsecond), during[i].MaxGap.Round(time.Microsecond))
	}
}

// siegeSize is the number of frames, and the time that they may take.
func siegeSize(t *testing.T) (frames int64, seconds int) {
	t.Helper()
	frames, seconds = 5_000, 25
	if siegeFrames != "" {
		n, err := strconv.ParseInt(siegeFrames, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", siegeEnv, err)
		}
		frames, seconds = n, max(seconds, int(n/1000))
	}
	return frames, seconds
}

// Fuzzed and forged frames in all states, over many connections, beside slow
// handshakes, half frames, long frames and endless questions: the daemon lives, its
// memory and descriptors stay within bounds, and honest nodes go on.
func TestSiege(t *testing.T) {
	t.Parallel()
	frames, seconds := siegeSize(t)
	w := laneWorld(t, siegeFlow(), "--handshake-timeout", "2s", "--buffers-max", "80MiB")
	w.vague, w.crowded, w.regionFiles = true, true, 2
	p, before := w.settle(2 * time.Second)
	g := w.gauge()
	p.mark()
	var during [2]*inputReport
	result := w.besiege(siege{Frames: frames, Seconds: seconds, Workers: guests, Loris: 50, Halves: 200, Swells: 60, SwellMB: 2}, nil)
	during = p.reports()
	g.end(t)
	t.Logf("%d frames judged in %v (%d a second) over %d connections; %d of them went on; %d half frames, %d slow handshakes, %d long frames that never end",
		result.Frames, result.Elapsed.Round(time.Millisecond), int(float64(result.Frames)/result.Elapsed.Seconds()),
		result.Connections, result.Survived, result.Halves, result.Loris, result.Swells)
	told(t, before, during)
	if result.Frames < frames {
		// Who asks for a number relies on it; what runs by default is as much as fits.
		report := t.Logf
		if siegeFrames != "" {
			report = t.Errorf
		}
		report("the time was over after %d of %d frames", result.Frames, frames)
	}
	if result.Survived == 0 || result.Survived == result.Frames {
		t.Errorf("%d of %d frames were taken", result.Survived, result.Frames)
	}
	if grown := g.rss - g.rss0; grown > 256<<20 && !raceDetector {
		t.Errorf("the broker grew by %d MiB", grown>>20)
	}
	p.check(g)
	if w.broker.ended() {
		t.Fatal("brokerd has ended")
	}
}

// Control connections that ask without end, and read no answer: each is cut off when
// too much waits for it.
func TestSiegeOfQuestions(t *testing.T) {
	t.Parallel()
	seconds := 3
	if siegeFrames != "" {
		seconds = 20
	}
	w := laneWorld(t, siegeFlow())
	p, before := w.settle(2 * time.Second)
	g := w.gauge()
	p.mark()
	result := w.besiege(siege{Seconds: seconds, Askers: 4}, nil)
	during := p.reports()
	g.end(t)
	t.Logf("%d questions in %v, with dataflows of 900 nodes", result.Asked, result.Elapsed.Round(time.Millisecond))
	told(t, before, during)
	if grown := g.rss - g.rss0; grown > 512<<20 && !raceDetector {
		t.Errorf("the broker grew by %d MiB", grown>>20)
	}
	p.check(g)
}

// Thousands of connections that say nothing, of a daemon with 256 descriptors: who
// is there stays, and who says who he is comes in.
func TestSiegeOfConnections(t *testing.T) {
	t.Parallel()
	connections, seconds := 1000, 4
	if siegeFrames != "" {
		connections, seconds = 5000, 20
	}
	w := prepare(t, siegeFlow(), "--handshake-timeout", "5s")
	w.lanes, w.filesLimit, w.regionFiles = true, 256, 2
	w.startBroker("127.0.0.1:0")
	p, before := w.settle(2 * time.Second)
	g := w.gauge()
	p.mark()
	var joins []time.Duration
	result := w.besiege(siege{Seconds: seconds, Flood: connections}, func() {
		time.Sleep(time.Second)
		for range 3 {
			begun := time.Now()
			w.start("late", program{Receive: true}).close()
			joins = append(joins, time.Since(begun).Round(time.Millisecond))
			w.gone("late")
		}
	})
	during := p.reports()
	g.end(t)
	t.Logf("%d connections in %v, at most %d at a time; RLIMIT_NOFILE %d", result.Floods, result.Elapsed.Round(time.Millisecond), result.FloodMax, w.filesLimit)
	t.Logf("an honest process that came in the middle of it was connected after %v", joins)
	told(t, before, during)
	if g.files > w.filesLimit {
		t.Errorf("%d descriptors", g.files)
	}
	if grown := g.rss - g.rss0; grown > 64<<20 && !raceDetector {
		t.Errorf("the broker grew by %d MiB", grown>>20)
	}
	p.check(g)
}

// ended reports whether the process is gone.
func (b *daemon) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}
