package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/brokerd/brokerd/node"
)

// Report is what a node of the demo says of itself, once a second and at its
// end: one line of JSON.
type Report struct {
	Node    string        `json:"node"`
	Seconds float64       `json:"seconds"` // since the report before
	Final   bool          `json:"final"`   // the node ended in good order
	Inputs  []InputReport `json:"inputs,omitempty"`

	Published      uint64 `json:"published"`       // messages since the start
	PublishedBytes uint64 `json:"published_bytes"` // since the start

	Sink *SinkReport `json:"sink,omitempty"`
}

// InputReport is one input. A message's latency is its age when the node gets
// to see it.
type InputReport struct {
	Input string `json:"input"`

	Received uint64  `json:"received"` // messages since the report before
	Bytes    uint64  `json:"bytes"`    // payload since the report before
	P50MS    float64 `json:"p50_ms"`   // of these messages
	P99MS    float64 `json:"p99_ms"`

	TotalReceived uint64  `json:"total_received"` // messages since the start
	TotalBytes    uint64  `json:"total_bytes"`
	TotalP50MS    float64 `json:"total_p50_ms"`
	TotalP99MS    float64 `json:"total_p99_ms"`
	TotalMaxMS    float64 `json:"total_max_ms"`
	TotalDropped  uint64  `json:"total_dropped"` // as the messages say
}

// SinkReport counts since the start.
type SinkReport struct {
	EdgesVerified uint64 `json:"edges_verified"`
	EdgesWrong    uint64 `json:"edges_wrong"`
	PansVerified  uint64 `json:"pans_verified"` // cuts included
	PansWrong     uint64 `json:"pans_wrong"`
	Cuts          uint64 `json:"cuts"`
	Gaps          uint64 `json:"gaps"`    // messages that did not come
	Problem       string `json:"problem"` // the first one
}

// envReportFD names the inherited pipe for reports. Without it they go to the
// standard output.
const envReportFD = "BROKERD_DEMO_REPORT_FD"

const reportInterval = time.Second

// recorder counts, and reports from a goroutine of its own.
type recorder struct {
	// Immutable.
	out  io.Writer
	stop chan bool // true: the node ended in good order
	done chan struct{}

	mutex   sync.Mutex // guards the rest
	report  Report
	since   time.Time
	inputs  map[string]*inputRecord
	order   []string
	writing error
}

type inputRecord struct {
	received, bytes           uint64 // since the report before
	totalReceived, totalBytes uint64
	totalDropped              uint64
	latency, totalLatency     *hdrhistogram.Histogram // microseconds
}

// Ages outside of 1 µs to a minute are counted as these.
const latencyMicrosecondsMax = 60_000_000

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMicrosecondsMax, 3)
}

func newRecorder(name string) (*recorder, error) {
	var out io.Writer = os.Stdout
	if text := os.Getenv(envReportFD); text != "" {
		fd, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("demo: %s: %w", envReportFD, err)
		}
		out = os.NewFile(uintptr(fd), "reports")
	}
	r := &recorder{
		out:    out,
		stop:   make(chan bool),
		done:   make(chan struct{}),
		report: Report{Node: name},
		since:  time.Now(),
		inputs: make(map[string]*inputRecord),
	}
	go r.run()
	return r, nil
}

func (r *recorder) run() {
	defer close(r.done)
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.emit(false)
		case good := <-r.stop:
			r.emit(good)
			return
		}
	}
}

// close sends the last report.
func (r *recorder) close(good bool) error {
	r.stop <- good
	<-r.done
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.writing
}

func (r *recorder) received(event node.Event) {
	age := min(max(event.Message.Age().Microseconds(), 1), latencyMicrosecondsMax)
	size := uint64(len(event.Message.Payload()))
	r.mutex.Lock()
	defer r.mutex.Unlock()
	input := r.inputs[event.Input]
	if input == nil {
		input = &inputRecord{latency: newHistogram(), totalLatency: newHistogram()}
		r.inputs[event.Input] = input
		r.order = append(r.order, event.Input)
	}
	input.received++
	input.totalReceived++
	input.bytes += size
	input.totalBytes += size
	input.totalDropped += event.Message.Dropped()
	// Cannot fail: the age is within the histogram's range.
	_ = input.latency.RecordValue(age)
	_ = input.totalLatency.RecordValue(age)
}

func (r *recorder) published(bytes uint64) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.report.Published++
	r.report.PublishedBytes += bytes
}

func (r *recorder) checked(sink SinkReport) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.report.Sink == nil {
		r.report.Sink = new(SinkReport)
	}
	*r.report.Sink = sink
}

func (r *recorder) emit(final bool) {
	r.mutex.Lock()
	now := time.Now()
	r.report.Seconds = now.Sub(r.since).Seconds()
	r.report.Final = final
	r.since = now
	r.report.Inputs = r.report.Inputs[:0]
	for _, id := range r.order {
		r.report.Inputs = append(r.report.Inputs, r.inputs[id].report(id))
	}
	line, err := json.Marshal(&r.report)
	broken := r.writing != nil
	r.mutex.Unlock()
	if broken {
		return // nobody reads any more
	}
	if err == nil {
		// Not under the lock: a reader that lags must not hold up the messages.
		_, err = r.out.Write(append(line, '\n'))
	}
	if err != nil {
		r.mutex.Lock()
		r.writing = fmt.Errorf("demo: report: %w", err)
		r.mutex.Unlock()
	}
}

// report also begins the next interval.
func (i *inputRecord) report(id string) InputReport {
	ms := func(h *hdrhistogram.Histogram, quantile float64) float64 {
		return float64(h.ValueAtQuantile(quantile)) / 1000
	}
	out := InputReport{
		Input:         id,
		Received:      i.received,
		Bytes:         i.bytes,
		P50MS:         ms(i.latency, 50),
		P99MS:         ms(i.latency, 99),
		TotalReceived: i.totalReceived,
		TotalBytes:    i.totalBytes,
		TotalP50MS:    ms(i.totalLatency, 50),
		TotalP99MS:    ms(i.totalLatency, 99),
		TotalMaxMS:    float64(i.totalLatency.Max()) / 1000,
		TotalDropped:  i.totalDropped,
	}
	i.received, i.bytes = 0, 0
	i.latency.Reset()
	return out
}
