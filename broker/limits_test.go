package broker

import (
	"context"
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
