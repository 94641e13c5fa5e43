package actors

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/shmpool/alloc"
	"github.com/brokerd/brokerd/shmpool/lane"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

// realMemory is an allocator of regions in /dev/shm.
type realMemory struct{ *alloc.Allocator }

func (m realMemory) Create(id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	r, err := m.Allocator.Create(id, g)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (m realMemory) Adopt(name string, id wire.RegionID, g shmpool.Geometry) (pool.Region, error) {
	r, err := m.Allocator.Adopt(name, id, g)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// poolRig is a running pool actor over /dev/shm.
type poolRig struct {
	t     *testing.T
	actor *PoolActor
	logs  *observer.ObservedLogs
}

// deadBrokerEnv makes TestDeadBroker a broker with that prefix.
const deadBrokerEnv = "BROKERD_ACTORS_TEST_PREFIX"

func poolTestPrefix() string { return fmt.Sprintf("brokerdpooltest%d", os.Getpid()) }

func newPoolRig(t *testing.T) *poolRig {
	t.Helper()
	a, err := alloc.Open(alloc.Config{Prefix: poolTestPrefix(), GID: alloc.NoGID})
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	p, err := NewPoolActor(testLimits, 7, realMemory{a}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	go p.Run()
	t.Cleanup(func() {
		p.Stop()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if left := poolTestObjects(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if _, mappings := poolTestMappings(t, poolTestPrefix()); mappings != 0 {
			t.Errorf("%d mappings are left", mappings)
		}
	})
	return &poolRig{t: t, actor: p, logs: logs}
}

func poolTestObjects(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(shmpool.Dir, poolTestPrefix()+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// poolTestMappings counts this process's mappings of an object, and whether it
// still has its name.
func poolTestMappings(t *testing.T, name string) (named bool, mappings int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	_, err = os.Lstat(filepath.Join(shmpool.Dir, name))
	return err == nil, strings.Count(string(maps), filepath.Join(shmpool.Dir, name))
}

// ask sends a request that is answered.
func (g *poolRig) ask(r poolRequest) poolReply {
	g.actor.requests <- r
	return <-g.actor.replies
}

// stats also waits for the requests before it.
func (g *poolRig) stats() pool.Stats { return g.ask(poolRequest{kind: poolStats}).stats }

// lane leases a lane for owner 1.
func (g *poolRig) lane(tag uint64) poolReply {
	g.t.Helper()
	rep := g.ask(poolRequest{kind: poolLane, session: 3, owner: 1, tag: tag, geometry: lane.Geometry(16)})
	if rep.err != nil {
		g.t.Fatal(rep.err)
	}
	return rep
}

func TestPoolLane(t *testing.T) {
	g := newPoolRig(t)
	first := g.lane(41)
	if first.tag != 41 || first.session != 3 || first.region>>32 != 7 || uint64(len(first.words)) != lane.Geometry(16).SlotBytes/8 {
		t.Fatalf("%+v, %d words", first.poolRequest, len(first.words))
	}
	node, err := lane.Map(first.name, first.region, first.geometry.SlotBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	atomic.StoreUint64(&first.words[5], 77)
	if got := atomic.LoadUint64(&node.Words()[5]); got != 77 {
		t.Fatalf("the node reads %d", got)
	}
	if st := g.stats(); st.UsedBytes != first.geometry.Bytes() || st.Regions != 1 {
		t.Errorf("charged: %+v", st)
	}

	// Given back, it is mapped here no more, and is there for the next lane.
	_, before := poolTestMappings(t, first.name)
	g.actor.requests <- poolRequest{kind: poolReturn, region: first.region}
	if st := g.stats(); st.CachedRegions != 1 {
		t.Errorf("given back: %+v", st)
	}
	if _, after := poolTestMappings(t, first.name); after != before-1 {
		t.Errorf("%d mappings, %d before", after, before)
	}
	again := g.lane(42)
	if again.region != first.region || again.name != first.name || again.words[5] != 77 {
		t.Errorf("region %d, not %d again", again.region, first.region)
	}

	// Discarded, it is gone.
	g.actor.requests <- poolRequest{kind: poolDiscard, region: again.region}
	if st := g.stats(); st.Regions != 0 {
		t.Errorf("discarded: %+v", st)
	}
	g.lane(43) // the end of the pool takes it
}

func TestPoolLaneQuota(t *testing.T) {
	g := newPoolRig(t)
	rep := g.ask(poolRequest{kind: poolLane, owner: 1, tag: 9, geometry: shmpool.Geometry{SlotBytes: 2 << 20, Slots: 1}})
	if rep.code != wire.CodeQuota || !errors.Is(rep.err, pool.ErrNodeQuota) || rep.tag != 9 || rep.words != nil {
		t.Errorf("%v, %v, %d words", rep.code, rep.err, len(rep.words))
	}
}

// TestPoolLedger gives regions back with a bit in their ledger, and with a header
// that somebody has written over.
func TestPoolLedger(t *testing.T) {
	geometry := shmpool.Geometry{SlotBytes: 128, Slots: 4}
	for what, damage := range map[string]func(name string, id wire.RegionID) error{
		"a bit of the last slot": func(name string, id wire.RegionID) error {
			m, err := shmpool.Map(name, id, geometry, shmpool.ReadLedger)
			if err != nil {
				return err
			}
			atomic.StoreUint64(&m.LedgerWords()[3], 1<<63)
			return m.Close()
		},
		"no header": func(name string, _ wire.RegionID) error {
			return os.WriteFile(filepath.Join(shmpool.Dir, name), make([]byte, geometry.Bytes()), 0o600)
		},
		"a short file": func(name string, _ wire.RegionID) error {
			return os.Truncate(filepath.Join(shmpool.Dir, name), 512)
		},
		"nothing": nil,
	} {
		t.Run(what, func(t *testing.T) {
			g := newPoolRig(t)
			grant := g.ask(poolRequest{kind: poolGrant, owner: 1, geometry: geometry})
			if grant.err != nil || grant.words != nil {
				t.Fatal(grant.err)
			}
			want := 1
			if damage != nil {
				want = 0
				if err := damage(grant.name, grant.region); err != nil {
					t.Fatal(err)
				}
			}
			g.actor.requests <- poolRequest{kind: poolReturn, region: grant.region}
			// The room of a region that is given back is there for who asks next.
			if st := g.stats(); st.CachedRegions != want || st.Regions != want {
				t.Errorf("%+v, want %d cached", st, want)
			}
			if lines := g.logs.FilterMessage("region is not used again").Len(); lines != 1-want {
				t.Errorf("%d lines in the log", lines)
			}
		})
	}
}

// TestDeadBroker is no test, but the broker that the tests of adoption let die.
func TestDeadBroker(t *testing.T) {
	prefix := os.Getenv(deadBrokerEnv)
	if prefix == "" {
		t.Skip("only as a process of another test")
	}
	a, err := alloc.Open(alloc.Config{Prefix: prefix, GID: alloc.NoGID})
	if err != nil {
		t.Fatal(err)
	}
	names := []any{"names"}
	for id := range wire.RegionID(3) {
		r, err := a.Create(1<<32|(id+1), lane.Geometry(16))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, r.Name())
	}
	fmt.Println(names...)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// deadBroker returns the names of regions 1<<32|1 to 3 of a broker that is dead.
func deadBroker(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeadBroker$")
	cmd.Env = append(os.Environ(), deadBrokerEnv+"="+poolTestPrefix())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_ = in.Close()
	names := strings.Fields(line)
	if err != nil || len(names) != 4 || names[0] != "names" {
		t.Fatalf("%q, %v", line, err)
	}
	return names[1:]
}

func TestPoolAdopt(t *testing.T) {
	names := deadBroker(t)
	g := newPoolRig(t)
	t.Cleanup(func() { // before the rig looks for what is left
		if _, err := alloc.Sweep(poolTestPrefix()); err != nil {
			t.Error(err)
		}
	})
	adopt := func(i int, mapped bool) poolReply {
		return g.ask(poolRequest{kind: poolAdopt, owner: 1, tag: uint64(i), region: 1<<32 | wire.RegionID(i),
			oldName: names[i-1], geometry: lane.Geometry(16), mapped: mapped})
	}
	region, ring := adopt(1, false), adopt(2, true)
	for _, rep := range []poolReply{region, ring} {
		if rep.err != nil || rep.name == rep.oldName || rep.region != 1<<32|wire.RegionID(rep.tag) {
			t.Fatalf("%+v", rep)
		}
		if named, _ := poolTestMappings(t, rep.name); !named {
			t.Errorf("%s is not there", rep.name)
		}
	}
	if region.words != nil || uint64(len(ring.words)) != ring.geometry.SlotBytes/8 {
		t.Errorf("%d and %d words", len(region.words), len(ring.words))
	}
	if again := adopt(2, true); again.code != wire.CodeNotYours || !errors.Is(again.err, pool.ErrRegionExists) {
		t.Errorf("twice: %v, %v", again.code, again.err)
	}
	g.actor.requests <- poolRequest{kind: poolReturn, region: ring.region}
	if st := g.stats(); st.Regions != 1 || st.CachedRegions != 0 {
		t.Errorf("an adopted region is kept for others: %+v", st)
	}
	// It can neither come back nor leave anything in the books.
	if gone := adopt(2, true); gone.code != wire.CodeNotFound || gone.err == nil || gone.words != nil {
		t.Errorf("after its end: %v, %v", gone.code, gone.err)
	}
	names[2] = "nonsense"
	if bad := adopt(3, false); bad.code != wire.CodeNotFound || !errors.Is(bad.err, alloc.ErrNotAdoptable) {
		t.Errorf("a bad name: %v, %v", bad.code, bad.err)
	}
	if st := g.stats(); st.Regions != 1 || st.UsedBytes != region.geometry.Bytes() {
		t.Errorf("the books at the end: %+v", st)
	}
}
