package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/brokerd/brokerd/node"
)

// Roles of the child processes.
const (
	RoleSender   = "sender"
	RoleReceiver = "receiver"
	RoleRelay    = "relay"
)

// Serve is the main function of a child: it follows the orders on in until its
// end. The configuration of a node comes from the environment. peers are the
// addresses that the role connects to: none for the receiver, the receiver's for
// the relay, the receiver's and the relay's for the sender.
func Serve(ctx context.Context, role string, peers []string, in io.Reader, out io.Writer) error {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	if role == RoleRelay {
		return serveRelay(peers, orders, answers)
	}
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		return err
	}
	n, err := node.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	if role == RoleSender {
		return serveSender(ctx, n, peers, orders, answers)
	}
	return serveReceiver(ctx, n, orders, answers)
}

// serveOrders calls each for every order; its error is the answer.
func serveOrders(orders *json.Decoder, answers *json.Encoder, each func(order) (answer, error)) error {
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := each(o)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// sender holds what the sending process needs.
type sender struct {
	small, large *node.Output
	conns        map[string]net.Conn // by path: tcp, relay
	frame        []byte              // length and payload on them
}

func serveSender(ctx context.Context, n *node.Node, peers []string, orders *json.Decoder, answers *json.Encoder) error {
	if len(peers) != 2 {
		return fmt.Errorf("the sender has %d peers, not 2", len(peers))
	}
	var s sender
	var err error
	if s.small, err = n.Output("small"); err != nil {
		return err
	}
	if s.large, err = n.Output("large"); err != nil {
		return err
	}
	for _, o := range []*node.Output{s.small, s.large} {
		if err := o.WaitReceivers(ctx, 1); err != nil {
			return err
		}
	}
	s.conns = map[string]net.Conn{}
	for i, path := range []string{PathTCP, PathRelay} {
		conn, err := dial(peers[i], tagDirect)
		if err != nil {
			return err
		}
		defer conn.Close()
		s.conns[path] = conn
	}
	if err := answers.Encode(answer{Ready: true}); err != nil {
		return err
	}
	return serveOrders(orders, answers, func(o order) (answer, error) {
		if o.Memcpy {
			return answer{TimesNS: memcpy(o)}, nil
		}
		send, payload, err := s.path(ctx, o)
		if err != nil {
			return answer{}, err
		}
		if o.Unpaced > 0 {
			return sendUnpaced(o, send, payload)
		}
		return sendPaced(o, send, payload)
	})
}

// path returns how to send one message, and the buffer to stamp before.
func (s *sender) path(ctx context.Context, o order) (send func() error, payload []byte, err error) {
	output := s.small
	if o.Size >= largeFrom {
		output = s.large
	}
	payload = filled(o.Size)
	switch o.Path {
	case PathBrokered:
		return func() error { return output.Send(ctx, payload) }, payload, nil
	case PathLoan:
		payload = payload[:headerBytes]
		return func() error {
			loan, err := output.Loan(ctx, o.Size)
			if err != nil {
				return err
			}
			// In place: a real sender would render here. The header is what
			// the receiver has to see.
			copy(loan.Bytes(), payload)
			return loan.Publish(ctx)
		}, payload, nil
	case PathTCP, PathRelay:
		conn := s.conns[o.Path]
		if len(s.frame) != 8+o.Size {
			s.frame = make([]byte, 8+o.Size)
			copy(s.frame[8:], payload)
		}
		binary.LittleEndian.PutUint64(s.frame, uint64(o.Size))
		// One write a message, and the copy into the frame that every path
		// with a copy makes.
		return func() error {
			copy(s.frame[8:], payload)
			_, err := conn.Write(s.frame)
			return err
		}, payload, nil
	}
	return nil, nil, fmt.Errorf("no path %q", o.Path)
}

func filled(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 31)
	}
	return p
}

func sendPaced(o order, send func() error, payload []byte) (answer, error) {
	next := time.Now()
	for i := range o.Count {
		next = next.Add(o.Pace)
		time.Sleep(time.Until(next))
		stamp(payload, o.Series, i == o.Count-1)
		if err := send(); err != nil {
			return answer{}, err
		}
	}
	return answer{Messages: o.Count}, nil
}

func sendUnpaced(o order, send func() error, payload []byte) (answer, error) {
	start := time.Now()
	for n := 1; ; n++ {
		// Looking at the clock costs as much as a small message.
		last := n%64 == 0 && time.Since(start) > o.Unpaced || o.Size >= largeFrom && time.Since(start) > o.Unpaced
		stamp(payload, o.Series, last)
		if err := send(); err != nil {
			return answer{}, err
		}
		if last {
			return answer{Messages: n}, nil
		}
	}
}

// memcpy times warm copies of the payload.
func memcpy(o order) []int64 {
	from, to := filled(o.Size), filled(o.Size)
	times := make([]int64, 0, o.Count)
	for range o.Count {
		start := time.Now()
		copy(to, from)
		times = append(times, int64(time.Since(start)))
	}
	return times
}

// receiver holds what the receiving process needs.
type receiver struct {
	n     *node.Node
	conns map[string]*bufio.Reader // by path: tcp, relay
	buf   []byte
}

func serveReceiver(ctx context.Context, n *node.Node, orders *json.Decoder, answers *json.Encoder) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := answers.Encode(answer{Ready: true, Addr: listener.Addr().String()}); err != nil {
		return err
	}
	r := receiver{n: n, conns: map[string]*bufio.Reader{}}
	for len(r.conns) < 2 {
		conn, tag, err := accept(listener)
		if err != nil {
			return err
		}
		defer conn.Close()
		path := PathTCP
		if tag == tagRelayed {
			path = PathRelay
		}
		r.conns[path] = bufio.NewReaderSize(conn, 64<<10)
	}
	return serveOrders(orders, answers, func(o order) (answer, error) {
		if err := answers.Encode(answer{Ready: true}); err != nil {
			return answer{}, err
		}
		return r.series(ctx, o)
	})
}

// series receives until the last message of a series.
func (r *receiver) series(ctx context.Context, o order) (answer, error) {
	var a answer
	var first, last int64
	times := make([]int64, 0, o.Count)
	for {
		done, err := r.one(ctx, o, func(p []byte) {
			touch(p)
			last = time.Now().UnixNano()
			if a.Messages++; a.Messages == 1 {
				first = last
			}
			if o.Unpaced == 0 {
				times = append(times, last-sentAt(p))
			}
		})
		if err != nil {
			return a, err
		}
		if done {
			a.TimesNS, a.ElapsedNS = times, last-first
			return a, nil
		}
	}
}

// one receives one message and calls use for it if it belongs to the series.
func (r *receiver) one(ctx context.Context, o order, use func([]byte)) (last bool, err error) {
	if conn := r.conns[o.Path]; conn != nil {
		p, err := r.read(conn)
		if err != nil {
			return false, err
		}
		use(p)
		return isLast(p), nil
	}
	ev, err := r.n.Next(ctx)
	if err != nil {
		return false, err
	}
	switch ev.Kind {
	case node.EventInput:
		p := ev.Message.Payload()
		ours := len(p) >= headerBytes && seriesOf(p) == o.Series
		if ours {
			use(p)
			last = isLast(p)
		}
		ev.Message.Release()
		return last, nil
	case node.EventInputClosed, node.EventStop:
		return false, fmt.Errorf("%v: %s", ev.Kind, ev.Reason)
	case node.EventError:
		return false, ev.Err
	}
	return false, nil
}

// read reads one message of a TCP connection into a buffer that stays warm.
func (r *receiver) read(conn *bufio.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint64(head[:]))
	if n < headerBytes || n > SizeMax {
		return nil, fmt.Errorf("tcp: a message of %d bytes", n)
	}
	if cap(r.buf) < n {
		r.buf = slices.Grow(r.buf[:0], n)
	}
	p := r.buf[:n]
	// bufio hands large reads through to the socket once it is empty.
	_, err := io.ReadFull(conn, p)
	return p, err
}
