package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// Roles of the child processes.
const (
	roleSender   = "sender"
	roleReceiver = "receiver"
	roleBetween  = "between"
)

// Serve is the main function of a child: args are what Env.Command was given, in
// has the parent's orders, out gets the answers. It returns at the end of in or
// of the context.
func Serve(ctx context.Context, paths []*Path, args []string, in io.Reader, out io.Writer) (err error) {
	if len(args) != 2 {
		return fmt.Errorf("a child needs a path and a role, not %q", args)
	}
	path, err := Find(paths, args[0])
	if err != nil {
		return err
	}
	stop, err := profile(args[0], args[1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	// Whatever a child waits for, it does not outlive its parent, whose end is
	// that of in.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &serving{path: path, role: args[1], answers: json.NewEncoder(out)}
	defer c.close()
	orders := make(chan order)
	go func() {
		defer cancel()
		decoder := json.NewDecoder(in)
		for {
			var o order
			if decoder.Decode(&o) != nil {
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case o := <-orders:
			a, err := c.follow(ctx, o)
			if err != nil {
				a = answer{Error: err.Error()}
			}
			if err := c.answers.Encode(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// serving is the state of a child.
type serving struct {
	path     *Path
	role     string
	answers  *json.Encoder
	sender   Sender
	receiver Receiver
	between  Between
	payload  []byte
}

func (c *serving) close() {
	for _, end := range []io.Closer{c.sender, c.receiver, c.between} {
		if end != nil {
			_ = end.Close() // the process ends anyway
		}
	}
}

var errOutOfPlace = errors.New("not an order for this role")

func (c *serving) follow(ctx context.Context, o order) (answer, error) {
	switch {
	case o.Verb == verbSetup:
		return c.setUp(ctx, o.Setup)
	case c.sender != nil:
		return c.send(ctx, o)
	case c.receiver != nil && o.Verb == verbPrepare:
		return answer{}, c.receiver.Prepare(ctx, o.Size)
	case c.receiver != nil && o.Verb == verbSeries:
		if err := c.answers.Encode(answer{}); err != nil {
			return answer{}, err
		}
		return c.receiveSeries(ctx, o)
	}
	return answer{}, fmt.Errorf("%s of a %s: %w", o.Verb, c.role, errOutOfPlace)
}

func (c *serving) setUp(ctx context.Context, s Setup) (a answer, err error) {
	// An interface that holds a nil pointer is not nil: assign only what is there.
	switch c.role {
	case roleBetween:
		b, err := c.path.Between(ctx, s)
		if err != nil {
			return a, err
		}
		c.between, a.Addr = b, b.Addr()
	case roleReceiver:
		r, err := c.path.Receive(ctx, s)
		if err != nil {
			return a, err
		}
		c.receiver, a.Addr = r, r.Addr()
	case roleSender:
		if c.sender, err = c.path.Send(ctx, s); err != nil {
			c.sender = nil
			return a, err
		}
	default:
		return a, fmt.Errorf("no role %q", c.role)
	}
	return a, nil
}

func (c *serving) send(ctx context.Context, o order) (answer, error) {
	switch o.Verb {
	case verbPrepare:
		if len(c.payload) != o.Size {
			c.payload = filled(o.Size)
		}
		return answer{}, c.sender.Prepare(ctx, o.Size)
	case verbReserve:
		r, ok := c.sender.(Reserver)
		if !ok {
			return answer{}, fmt.Errorf("%s cannot reserve memory", c.path.Name)
		}
		return answer{}, r.Reserve(ctx, o.Size, o.Count)
	case verbMemcpy:
		return answer{TimesNS: memcpy(o)}, nil
	case verbSeries:
		return c.sendSeries(ctx, o)
	}
	return answer{}, errOutOfPlace
}

func (c *serving) sendSeries(ctx context.Context, o order) (a answer, err error) {
	if o.Times {
		a.TimesNS, a.CostNS = make([]int64, 0, o.Count), make([]int64, 0, o.Count)
	}
	payload := c.payload
	before, busy := mallocs(), cpuTime()
	next := time.Now()
	a.StartNS = now()
	for i := range o.Count {
		if o.Pace > 0 {
			next = next.Add(o.Pace)
			time.Sleep(time.Until(next))
		}
		if len(payload) > 0 {
			payload[0] = mark(i)
		}
		if !o.Times {
			if err := c.sender.Send(ctx, payload); err != nil {
				return a, err
			}
			continue
		}
		start := now()
		if err := c.sender.Send(ctx, payload); err != nil {
			return a, err
		}
		a.TimesNS, a.CostNS = append(a.TimesNS, start), append(a.CostNS, now()-start)
	}
	a.CPUNS = cpuTime() - busy
	a.Mallocs = mallocs() - before
	if checker, ok := c.sender.(Checker); ok {
		return a, checker.Check(o.Count)
	}
	return a, nil
}

func (c *serving) receiveSeries(ctx context.Context, o order) (a answer, err error) {
	if o.Times {
		a.TimesNS = make([]int64, 0, o.Count)
	}
	before := mallocs()
	for i := range o.Count {
		p, err := c.receiver.Next(ctx)
		if err != nil {
			return a, fmt.Errorf("after %d of %d messages: %w", i, o.Count, err)
		}
		if len(p) != o.Size {
			return a, fmt.Errorf("message %d has %d bytes, not %d", i, len(p), o.Size)
		}
		if c.path.FirstByte {
			touch(p[:min(1, len(p))])
		} else {
			touch(p)
		}
		if o.Times {
			a.TimesNS = append(a.TimesNS, now())
		}
		if err := checkMark(p, i); err != nil {
			return a, err
		}
		c.receiver.Release()
	}
	a.EndNS = now()
	a.Mallocs = mallocs() - before
	return a, nil
}

// mallocs is how many objects this process has allocated.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// memcpy times warm copies of a payload.
func memcpy(o order) []int64 {
	from, to := filled(o.Size), filled(o.Size)
	times := make([]int64, 0, o.Count)
	for range o.Count {
		start := now()
		copy(to, from)
		times = append(times, now()-start)
	}
	return times
}
