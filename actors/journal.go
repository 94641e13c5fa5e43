package actors

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/brokerd/brokerd/wire"
)

// journal is where the core's log lines go. No method blocks: a full disk or a
// stuck terminal must not stop the router.
type journal interface {
	// drop takes a drop record, or returns false when it cannot take it now.
	// written, unless it is nil, is called once the line has been written, by
	// another goroutine.
	drop(rec wire.DropRecord, written func()) bool
	// dropAtLast is drop for a router that has nothing else to do: it waits, but
	// not for ever.
	dropAtLast(rec wire.DropRecord, written func()) bool
	debug(msg string, fields ...zap.Field)
	info(msg string, fields ...zap.Field)
	warn(msg string, fields ...zap.Field)
}

// journalCapacity is how many lines may wait for a log that is slow. Past it,
// drop records stay in the router's counts, and other lines are lost and
// counted.
const journalCapacity = 1024

type journalLine struct {
	level  zapcore.Level
	msg    string
	fields []zap.Field
	drop   *wire.DropRecord
	// written is told of the line, if it is a drop that somebody waits for.
	written func()
}

// Journal writes log lines in a goroutine of its own.
type Journal struct {
	// immutable
	log, drops *zap.Logger
	lines      chan journalLine // capacity: see journalCapacity; full: see journal
	done       chan struct{}

	lost atomic.Uint64

	// owned by the router's stop
	patience <-chan time.Time
}

// closedTime is a patience that is over.
var closedTime = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// NewJournal starts a journal over log. Drop records go to its child "drop".
func NewJournal(log *zap.Logger) *Journal {
	j := &Journal{
		log:   log,
		drops: log.Named("drop"),
		lines: make(chan journalLine, journalCapacity),
		done:  make(chan struct{}),
	}
	go j.run()
	return j
}

func (j *Journal) run() {
	defer close(j.done)
	for l := range j.lines {
		if n := j.lost.Swap(0); n > 0 {
			j.log.Warn("log lines lost because the log was slow", zap.Uint64("count", n))
		}
		if l.drop != nil {
			j.drops.Warn("message dropped", dropFields(l.drop)...)
			if l.written != nil {
				l.written()
			}
		} else {
			j.log.Log(l.level, l.msg, l.fields...)
		}
	}
}

// Close writes what waits and ends the goroutine. It waits for at most timeout:
// a log that hangs must not hang the stop.
func (j *Journal) Close(timeout time.Duration) {
	close(j.lines)
	select {
	case <-j.done:
	case <-time.After(timeout):
	}
}

// dropFields are the fields of a drop line, in the order that operators read.
func dropFields(r *wire.DropRecord) []zap.Field {
	return []zap.Field{
		zap.String("dataflow", r.Dataflow),
		zap.String("from", r.From),
		zap.String("to", r.To),
		zap.String("reason", r.Reason),
		zap.String("policy", r.Policy),
		zap.Uint64("count", r.Count),
		zap.Uint64("total", r.Total),
		zap.Uint64("bytes", r.Bytes),
		zap.Uint64("seq_first", r.SeqFirst),
		zap.Uint64("seq_last", r.SeqLast),
		zap.Int("queue_size", r.QueueSize),
		zap.Float64("age_max_ms", r.AgeMaxMS),
		zap.String("path", r.Path),
		zap.Uint64("sender_session", r.Sender),
	}
}

func (j *Journal) drop(r wire.DropRecord, written func()) bool {
	select {
	case j.lines <- journalLine{drop: &r, written: written}:
		return true
	default:
		return false
	}
}

// lastPatience is how long the last drop records, all together, may wait for a
// log that is stuck.
const lastPatience = 5 * time.Second

func (j *Journal) dropAtLast(r wire.DropRecord, written func()) bool {
	if j.patience == nil {
		j.patience = time.After(lastPatience)
	}
	select {
	case j.lines <- journalLine{drop: &r, written: written}:
		return true
	case <-j.patience:
		j.patience = closedTime // for the others, too
		return false
	}
}

// line drops below the level before it takes a place in the channel.
func (j *Journal) line(level zapcore.Level, msg string, fields []zap.Field) {
	if !j.log.Core().Enabled(level) {
		return
	}
	select {
	case j.lines <- journalLine{level: level, msg: msg, fields: fields}:
	default:
		j.lost.Add(1)
	}
}

func (j *Journal) debug(msg string, fields ...zap.Field) { j.line(zapcore.DebugLevel, msg, fields) }
func (j *Journal) info(msg string, fields ...zap.Field)  { j.line(zapcore.InfoLevel, msg, fields) }
func (j *Journal) warn(msg string, fields ...zap.Field)  { j.line(zapcore.WarnLevel, msg, fields) }
