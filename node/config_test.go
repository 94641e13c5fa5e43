package node

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestConfigFromEnv(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		env  map[string]string
		want []string // parts of the error
	}{
		{"nothing", nil, []string{"BROKERD_DATAFLOW=demo", "BROKERD_NODE=camera"}},
		{"all", map[string]string{EnvAddr: "[::1]:9", EnvDataflow: "d", EnvNode: "n", EnvAuthTokenFile: token, EnvNoSharedMem: "1", EnvNoLanes: "true", EnvSpin: "50us", EnvDebug: " protect,"}, nil},
		{"address", map[string]string{EnvAddr: "localhost", EnvDataflow: "d", EnvNode: "n"}, []string{`"localhost"`, "127.0.0.1:7447"}},
		{"id", map[string]string{EnvDataflow: "d", EnvNode: "a/b"}, []string{"Node", "a/b"}},
		{"switch", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvNoSharedMem: "maybe"}, []string{"BROKERD_NO_SHM=1", "maybe"}},
		{"other switch", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvNoLanes: "maybe"}, []string{"BROKERD_NO_LANES=1", "maybe"}},
		{"spin", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvSpin: "50"}, []string{"BROKERD_SPIN=50us"}},
		{"negative spin", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvSpin: "-1s"}, []string{"Spin"}},
		{"debug option", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvDebug: "protect,spee"}, []string{EnvDebug, `"spee"`, "known is protect"}},
		{"no token", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvAuthTokenFile: token + "x"}, []string{EnvAuthTokenFile, "no such file"}},
		{"empty token", map[string]string{EnvDataflow: "d", EnvNode: "n", EnvAuthTokenFile: empty}, []string{"is empty"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{EnvAddr, EnvDataflow, EnvNode, EnvAuthTokenFile, EnvNoSharedMem, EnvNoLanes, EnvSpin, EnvDebug} {
				t.Setenv(name, tt.env[name])
			}
			cfg, err := ConfigFromEnv()
			if tt.want == nil {
				if err != nil || string(cfg.AuthToken) != "secret" || !cfg.NoSharedMemory || !cfg.NoLanes || !cfg.Protect || cfg.Spin != 50*time.Microsecond || cfg.Addr != "[::1]:9" {
					t.Errorf("%+v, %v", cfg, err)
				}
				return
			}
			wantErr(t, err, ErrConfig)
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error lacks %q: %v", part, err)
				}
			}
		})
	}
}

func TestConnectChecksConfig(t *testing.T) {
	_, err := Connect(context.Background(), Config{Dataflow: "d", Node: "n", DialTimeout: -1})
	wantErr(t, err, ErrConfig)
}

// TestQueue compares the ring with a slice.
func TestQueue(t *testing.T) {
	var q queue
	var model []uint64
	next := uint64(0)
	for step := range 20_000 {
		if len(model) == 0 || step%7 < 4 && step < 15_000 {
			next++
			q.push().item.Dropped = next
			model = append(model, next)
		} else {
			if got := q.pop().item.Dropped; got != model[0] {
				t.Fatalf("step %d: got %d, want %d", step, got, model[0])
			}
			model = model[1:]
		}
		if q.len() != len(model) {
			t.Fatalf("step %d: length %d, want %d", step, q.len(), len(model))
		}
	}
	if len(q.ring) > queueKept {
		t.Errorf("empty queue keeps %d entries", len(q.ring))
	}
}

// TestWaitersEitherWay races wake-ups against contexts: nobody may hang, and no
// wake-up may reach a later waiter.
func TestWaitersEitherWay(t *testing.T) {
	p := newPeer(t)
	n, _ := p.connect(p.config())
	o := mustOutput(t, n, "out")
	for i := range 2000 {
		ctx, cancel := context.WithCancel(context.Background())
		waited := make(chan error, 1)
		go func() {
			o.mu.Lock()
			waited <- o.waitUnlock(ctx)
		}()
		go cancel()
		if i%2 == 0 {
			o.mu.Lock()
			o.unlockChanged()
		}
		<-waited
	}
	o.mu.Lock()
	left := o.waiting
	o.mu.Unlock()
	if left != 0 {
		t.Errorf("%d waiters left", left)
	}
}

// TestClosedNodeIsCollected: cleanups of unused states must not keep a node alive.
func TestClosedNodeIsCollected(t *testing.T) {
	collected := make(chan struct{})
	func() {
		p := newPeer(t)
		connected := make(chan *Node)
		go func() {
			n, err := Connect(testContext(t), p.config())
			if err != nil {
				t.Error(err)
			}
			connected <- n
		}()
		c := p.accept().welcomeIn()
		n := <-connected
		ended := make(chan struct{})
		go func() { c.drain(); _ = c.conn.Close(); close(ended) }()
		loan, err := mustOutput(t, n, "out").Loan(testContext(t), 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := loan.Publish(testContext(t)); err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(n, func(done chan struct{}) { close(done) }, collected)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		<-ended
	}()
	for deadline := time.Now().Add(testTimeout); ; {
		runtime.GC()
		select {
		case <-collected:
			return
		case <-time.After(time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("a closed node without references is still in memory")
			}
		}
	}
}
