package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

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
