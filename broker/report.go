package broker

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// reportsCapacity is how many lines may wait for a slow log.
const reportsCapacity = 256

// reporter writes the log lines of sessions in a goroutine of its own: a log
// that hangs (a full disk, a stopped terminal) must hold up neither a loop nor
// the router. What does not fit is lost, and counted in the next line.
type reporter struct {
	log   *zap.Logger
	lines chan report // full: see above
	lost  atomic.Uint64
	quit  chan struct{}
	ended chan struct{}
}

type report struct {
	level  zapcore.Level
	msg    string
	fields []zap.Field
}

func newReporter(log *zap.Logger) *reporter {
	r := &reporter{
		log: log, lines: make(chan report, reportsCapacity),
		quit: make(chan struct{}), ended: make(chan struct{}),
	}
	go r.run()
	return r
}

func (r *reporter) write(level zapcore.Level, msg string, fields ...zap.Field) {
	if !r.log.Core().Enabled(level) {
		return
	}
	select {
	case r.lines <- report{level, msg, fields}:
	default:
		r.lost.Add(1)
	}
}

func (r *reporter) run() {
	defer close(r.ended)
	for {
		select {
		case line := <-r.lines:
			r.put(line)
		case <-r.quit:
			for {
				select {
				case line := <-r.lines:
					r.put(line)
				default:
					return
				}
			}
		}
	}
}

func (r *reporter) put(line report) {
	if n := r.lost.Swap(0); n > 0 {
		r.log.Warn("log lines lost because the log was slow", zap.Uint64("count", n))
	}
	r.log.Log(line.level, line.msg, line.fields...)
}

// stop writes what waits.
func (r *reporter) stop() {
	close(r.quit)
	<-r.ended
}
