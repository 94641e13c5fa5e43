package demo

import (
	"strings"
	"sync"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Snapshot is what there is to show at a moment.
type Snapshot struct {
	Elapsed time.Duration
	Phase   string // "starting", "running", "stopping"
	Addr    string // of the broker
	Frames  uint64 // published by the camera
	Sink    SinkReport
	Memory  wire.MemoryStatus
	Edges   []EdgeRow
}

// EdgeRow is one edge of the table.
type EdgeRow struct {
	From, To, Policy string
	Path             string
	HZ, MBPerSecond  float64 // received; a MB is 1,000,000 bytes
	P50MS, P99MS     float64 // age of the messages when they are received
	Queue, QueueSize int     // messages on the way to the receiver
	Dropped          uint64  // messages
	Messages         uint64  // received since the start
}

// watch collects what the children report and the broker says.
type watch struct {
	mutex   sync.Mutex
	reports map[string]Report // the last of each node
	status  wire.Status       // the last one
	logged  map[edge]uint64   // drops by the broker's drop log
	remote  map[string]string // nodes without shared memory, and why
}

// edge names an edge of the demo's dataflow.
type edge struct{ from, to string }

func newWatch() *watch {
	return &watch{
		reports: make(map[string]Report),
		logged:  make(map[edge]uint64),
		remote:  make(map[string]string),
	}
}

func (w *watch) report(r Report) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.reports[r.Node] = r
}

// dropped takes one record of the drop log.
func (w *watch) dropped(record wire.DropRecord) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.logged[edge{record.From, record.To}] += record.Count
}

// update takes a status, and keeps the edges of one dataflow.
func (w *watch) update(dataflow string, status wire.Status) {
	edges := status.Edges
	status.Edges = nil
	for _, e := range edges {
		if e.Dataflow == dataflow {
			status.Edges = append(status.Edges, e)
		}
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.status = status
	for _, n := range status.Nodes {
		if n.Dataflow == dataflow && n.Connected && !n.Local {
			w.remote[n.Node] = n.LocalReason
		}
	}
}

// settled reports whether the log has told of all drops that are counted.
func (w *watch) settled() bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, e := range w.status.Edges {
		if w.logged[edge{e.From, e.To}] != e.Dropped {
			return false
		}
	}
	return true
}

// snapshot gives rates of the last second, or with total those of the whole
// run.
func (w *watch) snapshot(elapsed time.Duration, phase string, total bool) Snapshot {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	s := Snapshot{
		Elapsed: elapsed,
		Phase:   phase,
		Addr:    w.status.Addr,
		Frames:  w.reports["camera"].Published,
		Memory:  w.status.Memory,
	}
	if sink := w.reports["sink"].Sink; sink != nil {
		s.Sink = *sink
	}
	for _, e := range w.status.Edges {
		row := EdgeRow{
			From: e.From, To: e.To, Policy: e.Policy, Path: e.Path,
			Queue: e.Queued + e.InFlight, QueueSize: e.QueueSize, Dropped: e.Dropped,
		}
		report, input := w.input(e.To)
		row.Messages = input.TotalReceived
		if total {
			row.P50MS, row.P99MS = input.TotalP50MS, input.TotalP99MS
			row.HZ, row.MBPerSecond = rates(input.TotalReceived, input.TotalBytes, elapsed.Seconds())
		} else {
			row.P50MS, row.P99MS = input.P50MS, input.P99MS
			row.HZ, row.MBPerSecond = rates(input.Received, input.Bytes, report.Seconds)
		}
		s.Edges = append(s.Edges, row)
	}
	return s
}

// input finds what the receiver of an edge last said about it.
func (w *watch) input(to string) (Report, InputReport) {
	name, id, _ := strings.Cut(to, "/")
	report := w.reports[name]
	for _, input := range report.Inputs {
		if input.Input == id {
			return report, input
		}
	}
	return report, InputReport{}
}

func rates(messages, bytes uint64, seconds float64) (hz, mbPerSecond float64) {
	if seconds <= 0 {
		return 0, 0
	}
	return float64(messages) / seconds, float64(bytes) / seconds / 1e6
}
