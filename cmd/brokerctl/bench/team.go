package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/node"
	"github.com/brokerd/brokerd/wire"
)

// team is the processes of one path.
type team struct {
	env       *Env
	path      *Path
	flow      string // name of its dataflow; empty: it needs none
	between   *child
	receivers []*child
	sender    *child
}

// callTimeout bounds one question to the broker.
const callTimeout = 10 * time.Second

// teamTimeout bounds what is no series: starting, joining, preparing memory.
const teamTimeout = 60 * time.Second

// newTeam starts the processes of a path with so many receivers. number makes
// the name of the dataflow unique within the run.
func newTeam(ctx context.Context, env *Env, path *Path, receivers, number int) (t *team, err error) {
	t = &team{env: env, path: path}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path.Name, err), t.stop())
		}
	}()
	if path.Broker {
		if err := t.load(ctx, receivers, number); err != nil {
			return t, err
		}
	}
	var s Setup
	if path.Between != nil {
		if t.between, s.Between, err = t.start(ctx, roleBetween, roleBetween, s); err != nil {
			return t, err
		}
	}
	for i := range receivers {
		c, addr, err := t.start(ctx, roleReceiver, receiverNode(i), s)
		if c != nil {
			t.receivers = append(t.receivers, c)
		}
		if err != nil {
			return t, err
		}
		s.Receivers = append(s.Receivers, addr)
	}
	t.sender, _, err = t.start(ctx, roleSender, "sender", s)
	return t, err
}

// load has the broker load the dataflow of the path.
func (t *team) load(ctx context.Context, receivers, number int) error {
	if t.env.Call == nil {
		return errors.New("there is no broker")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := fmt.Sprintf("bench-%d-%s", number, t.path.Name)
	// The broker unloads it when the connection is gone, whatever becomes of us.
	load := wire.LoadRequest{Name: name, YAML: Flow(receivers), Owner: true}
	if err := t.env.Call(ctx, wire.VerbLoad, load, nil); err != nil {
		return err
	}
	t.flow = name
	return nil
}

func (t *team) start(ctx context.Context, role, name string, s Setup) (*child, string, error) {
	var environ []string
	if t.path.Broker {
		environ = []string{node.EnvDataflow + "=" + t.flow, node.EnvNode + "=" + name}
	}
	c, err := t.env.start(ctx, name, environ, t.path.Name, role)
	if err != nil {
		return nil, "", err
	}
	late := time.AfterFunc(teamTimeout, c.kill)
	defer late.Stop()
	a, err := c.ask(order{Verb: verbSetup, Setup: s})
	return c, a.Addr, err
}

// children lists those that run, in the order in which they end.
func (t *team) children() []*child {
	all := slices.Concat([]*child{t.sender}, t.receivers, []*child{t.between})
	return slices.DeleteFunc(all, func(c *child) bool { return c == nil })
}

// stop ends all processes of the team. Their dataflow goes too.
func (t *team) stop() error {
	var all []error
	for _, c := range t.children() {
		all = append(all, c.stop())
	}
	if t.flow != "" {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		all = append(all, t.env.Call(ctx, wire.VerbUnload, wire.UnloadRequest{Name: t.flow}, nil))
	}
	return errors.Join(all...)
}

// within kills the team when f does not return in time, which ends f.
func (t *team) within(limit time.Duration, f func() error) error {
	var late atomic.Bool
	timer := time.AfterFunc(limit, func() {
		late.Store(true)
		for _, c := range t.children() {
			c.kill()
		}
	})
	defer timer.Stop()
	err := f()
	if err != nil && late.Load() {
		err = fmt.Errorf("nothing more came for %v: %w", limit, err)
	}
	return err
}

// prepare makes all processes ready for messages of a size.
func (t *team) prepare(ctx context.Context, size int) error {
	o := order{Verb: verbPrepare, Size: size}
	err := t.within(teamTimeout, func() error {
		for _, c := range t.receivers {
			if err := c.tell(o); err != nil {
				return err
			}
		}
		if _, err := t.sender.ask(o); err != nil {
			return err
		}
		for _, c := range t.receivers {
			if _, err := c.answer(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && t.flow != "" {
		return fmt.Errorf("%w\n%s", err, t.edges(ctx))
	}
	return err
}

// edges says which way the broker has chosen for each edge of the team, and why.
func (t *team) edges(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var status wire.Status
	if err := t.env.Call(ctx, wire.VerbStatus, nil, &status); err != nil {
		return fmt.Sprintf("the broker does not tell its edges: %v", err)
	}
	var lines []string
	for _, e := range status.Edges {
		if e.Dataflow == t.flow {
			lines = append(lines, fmt.Sprintf("  %s→%s: %s (%s)", e.From, e.To, e.Path, e.PathReason))
		}
	}
	return "the broker's edges:\n" + strings.Join(lines, "\n")
}

// outcome is what the processes say of one series.
type outcome struct {
	oneWayNS []int64 // of each message at each receiver
	costNS   []int64 // of each Send
	elapsed  time.Duration
	busyNS   int64 // of the sender's process

	sendMallocs, receiveMallocs uint64
}

// series has messages sent and received.
func (t *team) series(ctx context.Context, o order) (out outcome, err error) {
	o.Verb = verbSeries
	if err := ctx.Err(); err != nil {
		return out, err
	}
	err = t.within(seriesLimit(o), func() error {
		for _, c := range t.receivers {
			if _, err := c.ask(o); err != nil { // it waits
				return err
			}
		}
		sent, err := t.sender.ask(o)
		if err != nil {
			return err
		}
		out.costNS, out.sendMallocs, out.busyNS = sent.CostNS, sent.Mallocs, sent.CPUNS
		for _, c := range t.receivers {
			got, err := c.answer()
			if err != nil {
				return err
			}
			if len(got.TimesNS) != len(sent.TimesNS) {
				return fmt.Errorf("%s: %d of %d messages arrived", c.name, len(got.TimesNS), len(sent.TimesNS))
			}
			for i, at := range got.TimesNS {
				out.oneWayNS = append(out.oneWayNS, at-sent.TimesNS[i])
			}
			out.elapsed = max(out.elapsed, time.Duration(got.EndNS-sent.StartNS))
			out.receiveMallocs += got.Mallocs
		}
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("%s, %s: %w", t.path.Name, FormatBytes(o.Size), err)
	}
	return out, nil
}

// seriesLimit is more than any series takes on any machine worth measuring on: a
// lost message would otherwise be waited for in vain.
func seriesLimit(o order) time.Duration {
	const bytesPerSecond, messagesPerSecond = 100 << 20, 5000
	each := o.Pace + time.Second/messagesPerSecond + time.Duration(float64(o.Size)/bytesPerSecond*float64(time.Second))
	return 20*time.Second + 2*time.Duration(o.Count)*each
}
