package control

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// Errors that callers handle. What the broker refuses is a *wire.Error.
var (
	// ErrUnreachable means that no broker answered at the address.
	ErrUnreachable = errors.New("control: broker unreachable")
	// ErrClosed means that the connection is gone: the client was closed, or the
	// broker ended or fell silent.
	ErrClosed = errors.New("control: connection closed")
)

// Config says where the broker is. The zero value is the default address
// without a token.
type Config struct {
	Addr        string        // host:port; DefaultAddr if empty
	AuthToken   []byte        // what the broker's auth token file holds; nil if it asks for none
	TLS         *tls.Config   // nil: in the clear. The server's name is that of Addr if it is not set
	Client      string        // shown in the broker's log; the name of this library if empty
	DialTimeout time.Duration // for connect and handshake together; 5 s if zero
}

// DefaultAddr is where a broker listens unless it is told otherwise.
const DefaultAddr = "127.0.0.1:7447"

const (
	dialTimeoutDefault = 5 * time.Second
	heartbeatDefault   = 5 * time.Second // for a broker that announces none
	silenceFactor      = 3               // heartbeats without a byte until the broker is given up
	writeTimeout       = 10 * time.Second
	// requestOverheadBytes is more than a Request needs besides its body: kind,
	// id, length words and a verb of the longest kind.
	requestOverheadBytes = 2048
	repliesQueued        = 64 // of one call; a stream's callback that lags further holds up the reader
)

// Client is one control connection.
type Client struct {
	// Immutable after Dial.
	conn      net.Conn
	welcome   wire.Welcome
	heartbeat time.Duration
	done      chan struct{} // closed when the connection is over
	workers   sync.WaitGroup

	requestID atomic.Uint32

	writing sync.Mutex // guards encoder, buffer and writes to conn
	encoder *wire.Encoder
	buffer  []byte

	mutex   sync.Mutex // guards what follows
	pending map[uint32]*call
	err     error // why done was closed
}

// reply is one answer of the broker, owning its memory.
type reply struct {
	err  error // a refusal
	more bool
	body json.RawMessage
}

// call is one request that waits for replies.
type call struct {
	replies   chan reply
	abandoned chan struct{} // closed when nobody receives from replies any more
}

// Welcome returns what the broker said of itself at the handshake.
func (c *Client) Welcome() wire.Welcome { return c.welcome }

// RemoteAddr returns the broker's address.
func (c *Client) RemoteAddr() string { return c.conn.RemoteAddr().String() }

// Done is closed when the connection is over; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection is over, or nil while it lasts.
func (c *Client) Err() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.err
}

// Close ends the connection. Calls that wait return ErrClosed. A dataflow that
// was loaded with Owner is unloaded by the broker. Close may be called twice.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.workers.Wait()
	return nil
}

// Call sends one request and waits for its answer. Verbs and their types are in
// package wire: VerbStatus with Status, and so on. request is encoded as JSON
// (nil: an empty object), response is filled from the answer's JSON (nil: it is
// thrown away).
//
// Errors: the context's; *wire.Error for a refusal; ErrClosed.
func (c *Client) Call(ctx context.Context, verb string, request, response any) error {
	var answer json.RawMessage
	first := true
	err := c.exchange(ctx, verb, request, func(body json.RawMessage) error {
		if first {
			answer, first = body, false
		}
		return nil
	})
	if err != nil {
		return err
	}
	if response == nil {
		return nil
	}
	if err := json.Unmarshal(answer, response); err != nil {
		return fmt.Errorf("control: answer to %q: %w", verb, err)
	}
	return nil
}

// Stream sends one request and calls each for every answer until the broker
// sends its last one, each returns an error (which Stream then returns), the
// context ends or the connection is lost. each runs on the caller's goroutine.
// The slice is its own to keep. While each lags behind, other calls on the same
// client may have to wait.
//
// There is no order to end a stream early: the broker goes on sending until the
// client is closed. Use a client of its own for a stream that you may leave.
func (c *Client) Stream(ctx context.Context, verb string, request any, each func(json.RawMessage) error) error {
	return c.exchange(ctx, verb, request, each)
}

func (c *Client) exchange(ctx context.Context, verb string, request any, each func(json.RawMessage) error) error {
	body := []byte("{}")
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return fmt.Errorf("control: request %q: %w", verb, err)
		}
	}
	id, waiting, err := c.register()
	if err != nil {
		return err
	}
	defer c.unregister(id, waiting)
	if n := uint64(len(body)) + requestOverheadBytes; n > c.welcome.FrameMax {
		return fmt.Errorf("control: request %q: %w: a frame of %d bytes, the broker takes %d", verb, wire.ErrTooLarge, n, c.welcome.FrameMax)
	}
	if err := c.write(&wire.Request{ID: id, Verb: verb, Body: body}); err != nil {
		c.fail(lost(err))
		return c.Err()
	}
	for {
		select {
		case r := <-waiting.replies:
			if r.err != nil {
				return r.err
			}
			if err := each(r.body); err != nil {
				return err
			}
			if !r.more {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.done:
			return c.lastReplies(waiting, each)
		}
	}
}

// lastReplies hands out what arrived before the connection ended.
func (c *Client) lastReplies(waiting *call, each func(json.RawMessage) error) error {
	for {
		select {
		case r := <-waiting.replies:
			if r.err != nil {
				return r.err
			}
			if err := each(r.body); err != nil {
				return err
			}
			if !r.more {
				return nil
			}
		default:
			return c.Err()
		}
	}
}

func (c *Client) register() (uint32, *call, error) {
	waiting := &call{
		replies:   make(chan reply, repliesQueued),
		abandoned: make(chan struct{}),
	}
	id := c.requestID.Add(1)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.pending[id] = waiting
	return id, waiting, nil
}

func (c *Client) unregister(id uint32, waiting *call) {
	close(waiting.abandoned)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	delete(c.pending, id)
}

// fail ends the connection once, with the first reason that is given.
func (c *Client) fail(err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	// The reader sees the closed socket and ends; nothing is left to be said.
	_ = c.conn.Close()
}

func (c *Client) write(m wire.Message) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.buffer = c.encoder.Append(c.buffer[:0], m)
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(c.buffer)
	return err
}
