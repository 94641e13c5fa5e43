package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the broker's end of one connection, driven by the test.
type peer struct {
	t       *testing.T
	conn    net.Conn
	decoder *wire.Decoder
	encoder *wire.Encoder
}

func (p *peer) send(m wire.Message) {
	// The client may be gone already; what it saw is what the test asserts.
	_, _ = p.conn.Write(p.encoder.Append(nil, m))
}

// receive returns the next message that is no Ping; nil at the end.
func (p *peer) receive() wire.Message {
	for {
		body, err := wire.ReadFrame(p.conn, 1<<20, nil)
		if err != nil {
			return nil
		}
		m, err := p.decoder.Decode(body)
		if err != nil {
			p.t.Errorf("the client sent: %v", err)
			return nil
		}
		if ping, ok := m.(*wire.Ping); ok {
			p.send(&wire.Pong{Nonce: ping.Nonce})
			continue
		}
		return m
	}
}

// welcome does the handshake.
func (p *peer) welcome(heartbeat time.Duration) *wire.Hello {
	m, ok := p.receive().(*wire.Hello)
	if !ok {
		p.t.Error("no Hello")
		return nil
	}
	hello := *m
	p.send(&wire.Welcome{Version: 1, Instance: "abc", Session: 7, FrameMax: 1 << 20, HeartbeatMS: uint32(heartbeat.Milliseconds())})
	if attach, ok := p.receive().(*wire.Attach); !ok || len(attach.Nonce) != 0 {
		p.t.Errorf("Attach: %v", attach)
	}
	p.send(&wire.Ping{Nonce: 77}) // as a broker does that has waited for Attach
	if pong, ok := p.receive().(*wire.Pong); !ok || pong.Nonce != 77 {
		p.t.Errorf("Pong: %v", pong)
	}
	p.send(&wire.Ready{})
	return &hello
}

// serve runs script for one connection and returns the address to dial.
func serve(t *testing.T, script func(p *peer)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(&peer{t: t, conn: conn, decoder: wire.NewDecoder(), encoder: wire.NewEncoder()})
	})
	t.Cleanup(func() {
		listener.Close()
		done.Wait()
	})
	return listener.Addr().String()
}

func dial(t *testing.T, addr string) *Client {
	t.Helper()
	client, err := Dial(t.Context(), Config{Addr: addr, AuthToken: []byte("secret"), Client: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestCall(t *testing.T) {
	var hello *wire.Hello
	addr := serve(t, func(p *peer) {
		hello = p.welcome(time.Hour)
		m := p.receive().(*wire.Request)
		if m.Verb != wire.VerbLoad || !strings.Contains(string(m.Body), `"owner":true`) {
			t.Errorf("request %s %s", m.Verb, m.Body)
		}
		p.send(&wire.Reply{ID: m.ID, Body: []byte(`{"name":"flow"}`)})
		p.receive()
	})
	client := dial(t, addr)
	var answer wire.LoadReply
	err := client.Call(t.Context(), wire.VerbLoad, wire.LoadRequest{Name: "flow", Owner: true}, &answer)
	if err != nil || answer.Name != "flow" {
		t.Fatalf("%+v, %v", answer, err)
	}
	if hello.Role != wire.RoleControl || string(hello.Auth) != "secret" || hello.Client != "test" {
		t.Errorf("hello: %+v", hello)
	}
	if client.Welcome().Instance != "abc" {
		t.Errorf("welcome: %+v", client.Welcome())
	}
	client.Close()
	if err := client.Call(t.Context(), wire.VerbStatus, nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("call after Close: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	addr := serve(t, func(p *peer) {
		p.receive()
		p.send(&wire.Error{Code: wire.CodeAuth, Text: "wrong token"})
	})
	_, err := Dial(t.Context(), Config{Addr: addr})
	if !errors.Is(err, wire.ErrAuth) || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "wrong token") {
		t.Errorf("handshake: %v", err)
	}
	addr = serve(t, func(p *peer) {
		p.welcome(time.Hour)
		m := p.receive().(*wire.Request)
		p.send(&wire.Reply{ID: m.ID, Code: wire.CodeNotFound, Text: "no dataflow x"})
		p.receive()
	})
	err = dial(t, addr).Call(t.Context(), wire.VerbStop, wire.StopRequest{Dataflow: "x"}, nil)
	var refusal *wire.Error
	if !errors.Is(err, wire.ErrNotFound) || !errors.As(err, &refusal) || refusal.Text != "no dataflow x" {
		t.Errorf("call: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	if _, err := Dial(t.Context(), Config{Addr: addr}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	silent := serve(t, func(p *peer) { p.receive(); p.receive() })
	if _, err := Dial(t.Context(), Config{Addr: silent, DialTimeout: 20 * time.Millisecond}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no answer: %v", err)
	}
	foreign := serve(t, func(p *peer) { p.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
	if _, err := Dial(t.Context(), Config{Addr: foreign}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("another protocol: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := serve(t, func(p *peer) { p.receive(); cancel(); p.receive() })
	if _, err := Dial(ctx, Config{Addr: waiting}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Two streams and calls share the connection; answers come mixed.
func TestStreamsAndCallsTogether(t *testing.T) {
	const records = 200
	addr := serve(t, func(p *peer) {
		p.welcome(time.Hour)
		var streams []uint32
		for range 3 {
			m := p.receive().(*wire.Request)
			if m.Verb == wire.VerbDrops {
				streams = append(streams, m.ID)
			} else {
				defer p.send(&wire.Reply{ID: m.ID, Body: []byte(`{"version":"v"}`)})
			}
		}
		for i := range records {
			for _, id := range streams {
				p.send(&wire.Reply{ID: id, More: i < records-1, Body: fmt.Appendf(nil, `{"count":%d}`, i)})
			}
		}
	})
	client := dial(t, addr)
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			next := uint64(0)
			err := client.Stream(t.Context(), wire.VerbDrops, wire.DropsRequest{Follow: true}, func(raw json.RawMessage) error {
				var record wire.DropRecord
				if err := json.Unmarshal(raw, &record); err != nil || record.Count != next {
					return fmt.Errorf("record %d: %s %v", next, raw, err)
				}
				next++
				return nil
			})
			if err != nil || next != records {
				t.Errorf("%d records, %v", next, err)
			}
		})
	}
	work.Go(func() {
		var status wire.Status
		if err := client.Call(t.Context(), wire.VerbStatus, nil, &status); err != nil || status.Version != "v" {
			t.Errorf("%+v, %v", status, err)
		}
	})
	work.Wait()
}

// A stream that its caller leaves must not hold up others.
func TestStreamLeft(t *testing.T) {
	addr := serve(t, func(p *peer) {
		p.welcome(time.Hour)
		id := p.receive().(*wire.Request).ID
		for range 5 * repliesQueued {
			p.send(&wire.Reply{ID: id, More: true, Body: []byte(`{}`)})
		}
		call := p.receive().(*wire.Request).ID
		p.send(&wire.Reply{ID: call, Body: []byte(`{}`)})
		p.receive()
	})
	client := dial(t, addr)
	enough := errors.New("enough")
	err := client.Stream(t.Context(), wire.VerbDrops, nil, func(json.RawMessage) error { return enough })
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if err := client.Call(t.Context(), wire.VerbStatus, nil, nil); err != nil {
		t.Error(err)
	}
}

func TestConnectionLost(t *testing.T) {
	for name, script := range map[string]func(p *peer){
		"closed": func(p *peer) { p.welcome(time.Hour); p.receive() },
		"error": func(p *peer) {
			p.welcome(time.Hour)
			p.receive()
			p.send(&wire.Error{Code: wire.CodeShuttingDown})
		},
		"silent": func(p *peer) {
			p.welcome(5 * time.Millisecond)
			for { // reads, answers nothing
				if _, err := wire.ReadFrame(p.conn, 1<<20, nil); err != nil {
					return
				}
			}
		},
		"nonsense": func(p *peer) {
			p.welcome(time.Hour)
			p.receive()
			p.conn.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0xc1})
			p.receive()
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, serve(t, script))
			err := client.Call(t.Context(), wire.VerbStatus, nil, nil)
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%v", err)
			}
			if name == "error" && !errors.Is(err, wire.ErrShuttingDown) {
				t.Errorf("the broker's reason is lost: %v", err)
			}
			<-client.Done()
		})
	}
}

func TestCallContextAndSize(t *testing.T) {
	addr := serve(t, func(p *peer) { p.welcome(time.Hour); p.receive(); p.receive() })
	client := dial(t, addr)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("reason")
	cancel(reason)
	if err := client.Call(ctx, wire.VerbStatus, nil, nil); !errors.Is(err, reason) {
		t.Errorf("%v", err)
	}
	big := wire.LoadRequest{YAML: strings.Repeat("x", 1<<20)}
	if err := client.Call(t.Context(), wire.VerbLoad, big, nil); !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if client.Err() != nil {
		t.Errorf("the connection ended: %v", client.Err())
	}
}
