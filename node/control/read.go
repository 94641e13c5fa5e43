package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// frameReader reads one message at a time. What next returns is valid until
// the next call.
type frameReader struct {
	conn    net.Conn
	max     uint64 // bytes of one frame's body
	silence time.Duration
	buffer  []byte
	decoder *wire.Decoder
}

func (r *frameReader) next() (wire.Message, error) {
	for {
		if r.silence > 0 {
			if err := r.conn.SetReadDeadline(time.Now().Add(r.silence)); err != nil {
				return nil, err
			}
		}
		body, err := wire.ReadFrame(r.conn, r.max, r.buffer[:0])
		if err != nil {
			return nil, err
		}
		r.buffer = body
		m, err := r.decoder.Decode(body)
		if errors.Is(err, wire.ErrUnknownOptional) {
			continue
		}
		return m, err
	}
}

// read is the goroutine that hands replies to the calls that wait for them.
func (c *Client) read(reader *frameReader) {
	// The keep-alive asks for an answer every heartbeat, so silence means that
	// the broker, or the way to it, is gone.
	reader.silence = silenceFactor * c.heartbeat
	for {
		m, err := reader.next()
		if err != nil {
			c.fail(lost(err))
			return
		}
		switch m := m.(type) {
		case *wire.Reply:
			c.deliver(m)
		case *wire.Ping:
			// A failed write shows as a failed read soon enough.
			_ = c.write(&wire.Pong{Nonce: m.Nonce})
		case *wire.Error:
			c.fail(fmt.Errorf("%w: %w", ErrClosed, &wire.Error{Code: m.Code, Text: m.Text}))
			return
		default:
			// Pong, and the mandatory kinds that only concern nodes (a Stop that
			// announces the broker's own end): nothing to do here.
		}
	}
}

func lost(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w by the broker", ErrClosed)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: the broker fell silent", ErrClosed)
	default:
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
}

func (c *Client) deliver(m *wire.Reply) {
	c.mutex.Lock()
	waiting := c.pending[m.ID]
	c.mutex.Unlock()
	if waiting == nil {
		return // the caller did not wait for it
	}
	// The decoder reuses m's memory.
	r := reply{more: m.More, err: m.Err(), body: slices.Clone(m.Body)}
	select {
	case waiting.replies <- r:
	case <-waiting.abandoned:
	case <-c.done:
	}
}

// keepAlive asks the broker for a sign of life until the connection is over.
func (c *Client) keepAlive() {
	ticker := time.NewTicker(c.heartbeat)
	defer ticker.Stop()
	for nonce := uint64(1); ; nonce++ {
		select {
		case <-c.done:
			return
		case <-ticker.C:
		}
		if err := c.write(&wire.Ping{Nonce: nonce}); err != nil {
			c.fail(lost(err))
			return
		}
	}
}
