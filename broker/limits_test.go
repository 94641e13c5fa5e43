package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/wire"
)

// The router's limits are those of the configuration.

func TestQueueBytesMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.QueueBytesMax = 128 << 10 })
	tb.join("sink") // takes nothing
	camera := tb.join("camera")
	until[*wire.Flow](camera)
	payload := make([]byte, 50<<10)
	for seq := range wire.Seq(5) {
		camera.send(&wire.Publish{Seq: seq + 1, Length: uint64(len(payload)), Payload: payload})
	}
	eventually(t, "two are kept, the older ones dropped", func() bool {
		e := tb.status().Edges[0]
		return e.Queued == 2 && e.Dropped == 3
	})
}

func TestHeldMessagesMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.HeldMessagesMax = 3 })
	sink, camera := tb.joinLocal("sink"), tb.joinLocal("camera")
	until[*wire.Flow](camera)
	sink.send(&wire.Next{Limit: 100})
	camera.send(&wire.RegionRequest{Request: 1, SlotBytes: 4096, Slots: 8})
	grant := until[*wire.RegionGrant](camera)
	for i := range uint64(5) {
		camera.send(&wire.Publish{Seq: wire.Seq(i + 1), Token: wire.Token(i + 1), Region: grant.Region,
			Offset: 4096 * (1 + i), Length: 10})
	}
	eventually(t, "three are held, the others wait", func() bool {
		e := tb.status().Edges[0]
		return e.Held == 3 && e.Queued == 2
	})
}

func TestFlowsMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.FlowsMax = 2 })
	control := tb.control()
	for i, code := range []wire.Code{wire.CodeOK, wire.CodeQuota} {
		body, err := json.Marshal(wire.LoadRequest{Name: fmt.Sprintf("more-%d", i), YAML: testFlow})
		if err != nil {
			t.Fatal(err)
		}
		control.send(&wire.Request{ID: 1, Verb: wire.VerbLoad, Body: body})
		if reply := until[*wire.Reply](control); reply.Code != code {
			t.Errorf("load %d: %v", i, reply.Err())
		}
	}
	_, err := tb.Reload(context.Background(), make([]*dataflow.Flow, 3))
	if !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), "dataflows_max is 2") {
		t.Errorf("a reload with too many: %v", err)
	}
}

// Who asks questions may send a dataflow file, and nothing that keeps the router
// busy for long. Nodes may send more, and still can.
func TestControlFrameBytesMax(t *testing.T) {
	tb := startBroker(t, nil)
	camera, control := tb.join("camera"), tb.control()
	largest := &wire.Request{ID: 1, Verb: "x", Body: make([]byte, wire.ControlFrameBytesMax-10)}
	if n := len(frameBytes(largest)) - wire.FrameHeaderBytes; n != wire.ControlFrameBytesMax {
		t.Fatalf("a request of %d bytes", n)
	}
	control.send(largest)
	if reply := until[*wire.Reply](control); reply.ID != 1 || reply.Code == wire.CodeOK {
		t.Errorf("the longest request, of no known verb: %v", reply)
	}
	if _, err := control.Write(binary.LittleEndian.AppendUint64(nil, wire.ControlFrameBytesMax+1)); err != nil {
		t.Fatal(err)
	}
	if e := control.refusal(); e.Code != wire.CodeFrameTooLong || !strings.Contains(e.Text, fmt.Sprint(wire.ControlFrameBytesMax)) {
		t.Errorf("refused with %v", e)
	}
	payload := make([]byte, wire.ControlFrameBytesMax)
	camera.send(&wire.Publish{Seq: 1, Length: uint64(len(payload)), Payload: payload}, &wire.Ping{Nonce: 3})
	until[*wire.Pong](camera)
	// A dataflow of the largest file is a request of legal length.
	load, err := json.Marshal(wire.LoadRequest{Name: "x", YAML: strings.Repeat("- \"ä\"\n", dataflow.FileBytesMax/8)})
	if err != nil || len(load) > wire.ControlFrameBytesMax-100 {
		t.Errorf("%d bytes of JSON, %v", len(load), err)
	}
}

// control does the handshake of a control connection.
func (tb *testBroker) control() *peer {
	tb.t.Helper()
	p := tb.dial()
	p.send(controlHello())
	until[*wire.Welcome](p)
	p.send(&wire.Attach{})
	until[*wire.Ready](p)
	return p
}

func TestQueueTotalMax(t *testing.T) {
	const sinks, size, total = 3, 20 << 10, 256 << 10
	tb := startBroker(t, func(cfg *Config) {
		cfg.QueueBytesMax, cfg.QueueTotalMax = 128<<10, total
		cfg.Flows = []*dataflow.Flow{parseFlow(t, `
nodes:
  - {id: camera, outputs: [image]}
  - {id: a, inputs: {image: {source: camera/image, queue_size: 2000}}}
  - {id: b, inputs: {image: {source: camera/image, queue_size: 2000}}}
  - {id: c, inputs: {image: {source: camera/image, queue_size: 2000, policy: block}}}
`)}
	})
	for _, id := range []string{"a", "b", "c"} {
		tb.join(id) // takes nothing
	}
	camera := tb.join("camera")
	flow := until[*wire.Flow](camera)
	if flow.Window != 1 { // one of any size, until it is known how large messages are
		t.Errorf("the first window is %d", flow.Window)
	}
	for seq := wire.Seq(1); seq <= 60; seq++ {
		// The window of the third has to let it pass.
		for uint64(seq) > flow.Window {
			if _, waits := peek(camera); waits {
				break
			}
			flow = until[*wire.Flow](camera)
		}
		if uint64(seq) > flow.Window {
			break
		}
		camera.send(&wire.Publish{Epoch: flow.Epoch, Seq: seq, Length: size, Payload: make([]byte, size)})
	}
	eventually(t, "all inputs have something waiting, and together no more than the limit", func() bool {
		var all uint64
		for _, e := range tb.status().Edges {
			if e.Queued == 0 {
				return false
			}
			all += uint64(e.Queued) * size
		}
		return all <= total
	})
}

// peek reports whether nothing comes for a while.
func peek(p *peer) (b byte, waits bool) {
	defer func() { _ = p.SetDeadline(time.Now().Add(patience)) }()
	_ = p.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	one := make([]byte, 1)
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		n, _, _ = unix.Recvfrom(int(fd), one, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n > 0
	})
	return one[0], err != nil
}

func TestOutstandingMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.OutstandingMax = 3 })
	tb.joinLocal("sink") // takes nothing
	camera := tb.joinLocal("camera")
	until[*wire.Flow](camera)
	camera.send(&wire.RegionRequest{Request: 1, SlotBytes: 4096, Slots: 8})
	grant := until[*wire.RegionGrant](camera)
	for i := range uint64(4) {
		camera.send(&wire.Publish{Seq: wire.Seq(i + 1), Token: wire.Token(i + 1), Region: grant.Region, Offset: 4096 * (1 + i), Length: 10})
	}
	if e := camera.refusal(); e.Code != wire.CodeQuota || !strings.Contains(e.Text, "3 messages") {
		t.Errorf("refused with %v", e)
	}
}

// All connections together: those with the most are cut off, and only they.
func TestBuffersMax(t *testing.T) {
	const frame, limit = 1 << 20, 4 << 20
	tb := startBroker(t, func(cfg *Config) { cfg.FrameBytesMax, cfg.BuffersBytesMax = frame, limit })
	bystander := tb.join("camera")
	half := frameBytes(&wire.Ping{Nonce: 3})
	if _, err := bystander.Write(half[:10]); err != nil {
		t.Fatal(err)
	}
	var greedy []*peer
	for range 8 {
		p := tb.control()
		if _, err := p.Write(append(binary.LittleEndian.AppendUint64(nil, frame), make([]byte, frame-100)...)); err != nil {
			t.Log(err) // cut off already
		}
		greedy = append(greedy, p)
	}
	held := func() int64 { return tb.running().srv.buffers.held.Load() }
	eventually(t, "some are cut off", func() bool { return tb.connectionCounters().Greedy > 0 })
	eventually(t, "the rest is within the limit", func() bool { return held() <= limit })
	if _, err := bystander.Write(half[10:]); err != nil {
		t.Fatal(err)
	}
	until[*wire.Pong](bystander)
	eventually(t, "it is in the log", func() bool { return len(tb.linesWith("code", "quota")) > 0 })
	for _, p := range greedy {
		p.Close()
	}
	eventually(t, "nothing is left", func() bool { return held() == 0 || tb.running().srv.count() == 1 && held() < 4096 })

	// What is not read counts as well: the status of many nodes, again and again.
	var nodes strings.Builder
	for i := range 400 {
		fmt.Fprintf(&nodes, "  - {id: n%d, outputs: [a], inputs: {x: n%d/a}}\n", i, (i+1)%400)
	}
	if _, err := tb.Reload(context.Background(), []*dataflow.Flow{parseFlow(t, testFlow+nodes.String())}); err != nil {
		t.Fatal(err)
	}
	var deaf []*peer
	question := frameBytes(&wire.Request{ID: 1, Verb: wire.VerbStatus})
	before := tb.connectionCounters().Greedy
	for range 6 {
		p := tb.control()
		deaf = append(deaf, p)
		go func() {
			for {
				if _, err := p.Write(question); err != nil {
					return
				}
				time.Sleep(time.Millisecond) // only so many are answered at a time
			}
		}()
	}
	eventually(t, "some are cut off", func() bool { return tb.connectionCounters().Greedy > before })
	for _, p := range deaf {
		p.Close()
	}
	eventually(t, "nothing is left of them", func() bool { return held() < 4096 })
	bystander.send(&wire.Ping{Nonce: 4})
	until[*wire.Pong](bystander)
}

// Those who have not done their handshake do not have one cut off who has, however
// many they are and however little each of them has.
func TestBuffersMaxOfStrangers(t *testing.T) {
	const frame, limit = 1 << 20, 4 << 20
	tb := startBroker(t, func(cfg *Config) {
		cfg.FrameBytesMax, cfg.BuffersBytesMax, cfg.HandshakeTimeout = frame, limit, 2*patience
	})
	camera := tb.join("camera")
	long := frameBytes(&wire.Publish{Seq: 1, Length: frame / 2, Payload: make([]byte, frame/2)})
	if _, err := camera.Write(long[:len(long)-1]); err != nil {
		t.Fatal(err)
	}
	held := func() int64 { return tb.running().srv.buffers.held.Load() }
	eventually(t, "the beginning of its frame is there", func() bool { return held() >= frame/2 })
	const hello = wire.HandshakeFrameBytesMax
	for range 2 * limit / hello {
		p := tb.dial()
		if _, err := p.Write(append(binary.LittleEndian.AppendUint64(nil, hello), make([]byte, hello-100)...)); err != nil {
			t.Log(err) // cut off already
		}
	}
	eventually(t, "some are cut off", func() bool { return tb.connectionCounters().Greedy > 0 })
	eventually(t, "the rest is within the limit", func() bool { return held() <= limit })
	if _, err := camera.Write(long[len(long)-1:]); err != nil {
		t.Fatal(err)
	}
	camera.send(&wire.Ping{Nonce: 1})
	until[*wire.Pong](camera)
}
