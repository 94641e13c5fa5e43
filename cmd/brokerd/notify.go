package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// notifier tells the service manager how we are. Without one (no
// NOTIFY_SOCKET) its methods do nothing.
type notifier struct {
	log      *zap.Logger
	send     func(state string) (bool, error)
	interval time.Duration // between two watchdog messages; 0: no watchdog
	pings    chan struct{} // from the router; one is as good as many
}

// newNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
func newNotifier(log *zap.Logger) *notifier {
	n := &notifier{
		log:   log,
		send:  func(state string) (bool, error) { return daemon.SdNotify(false, state) },
		pings: make(chan struct{}, 1), // a full one is dropped: the waiting one says the same
	}
	deadline, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog settings cannot be read; no watchdog messages are sent", zap.Error(err))
		return n
	}
	// Half of it is what systemd recommends; a quarter lets one be lost.
	n.interval = deadline / 4
	return n
}

// alive is called by the router as it goes round. It never blocks: a service
// manager that does not read must not stop the routing.
func (n *notifier) alive() {
	select {
	case n.pings <- struct{}{}:
	default:
	}
}

// run passes the router's signs of life on, not more often than needed, until
// ctx ends. If the router stands still, so do the messages.
func (n *notifier) run(ctx context.Context) {
	if n.interval <= 0 {
		return
	}
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.pings:
			if now := time.Now(); now.Sub(last) >= n.interval {
				last = now
				n.say(daemon.SdNotifyWatchdog)
			}
		}
	}
}

// ready says that nodes can connect to addr. The address goes along for whoever
// started us with port 0; systemd ignores names with X_.
func (n *notifier) ready(addr string) {
	n.say(daemon.SdNotifyReady, "X_BROKERD_ADDR="+addr, "STATUS=Listening on "+addr)
}

// reloading opens a reload, reloaded closes it.
func (n *notifier) reloading() {
	n.say(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS=Reloading dataflow files")
}

func (n *notifier) reloaded() { n.say(daemon.SdNotifyReady) }

// stopping opens the shutdown, which may take as long as given.
func (n *notifier) stopping(longest time.Duration) {
	n.say(daemon.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", longest.Microseconds()), "STATUS=Draining")
}

// status replaces the line that `systemctl status` shows.
func (n *notifier) status(line string) { n.say("STATUS=" + strings.ReplaceAll(line, "\n", " ")) }

func (n *notifier) say(lines ...string) {
	if _, err := n.send(strings.Join(lines, "\n")); err != nil {
		n.log.Warn("service manager cannot be told", zap.String("state", lines[0]), zap.Error(err))
	}
}
