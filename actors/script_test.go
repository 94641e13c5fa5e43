package actors

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool/pool"
	"github.com/brokerd/brokerd/wire"
)

var rewrite = flag.Bool("rewrite", false, "write the output of the scripts in testdata as the expected one")

// TestScripts plays testdata/*.txt against the core. A script is a list of
// commands, each followed by a line of dashes and what the core then did: frames
// to connections (`2 < inputs ...`), requests to the pool (`pool < ...`) and log
// lines (`log: ...`). handlers below has one function a verb.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playScript(t, file) })
	}
}

func playScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var got bytes.Buffer
	steps := parseScript(t, string(text))
	if *rewrite {
		defer func() { // also when a step has failed: then without what it would have given
			for _, step := range steps {
				if got.WriteString(step.text); step.command != "" {
					got.WriteString("----\n")
				}
			}
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Error(err)
			}
		}()
	}
	for len(steps) > 0 {
		if got.WriteString(steps[0].text); steps[0].command != "" {
			got.WriteString("----\n")
		}
		step := steps[0]
		if steps = steps[1:]; step.command != "" {
			got.WriteString(w.play(step.command, step.body))
		}
	}
	if *rewrite {
		return
	}
	if want := string(text); got.String() != want {
		t.Errorf("%s differs; run with -rewrite and look at the difference\n%s", file, firstDifference(want, got.String()))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d\n got: %s\nwant: %s", i+1, g[i], strings.Join(w[min(i, len(w)):min(i+1, len(w))], ""))
		}
	}
	return "output is shorter"
}

// step is a command with its body, and its text as it stands in the file.
type step struct{ text, command, body string }

func parseScript(t *testing.T, text string) []step {
	var steps []step
	var cur step
	output := false
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := sc.Text()
		switch {
		case output && line != "":
			continue // the old output
		case output:
			output = false
			cur = step{text: "\n"}
		case line == "----":
			steps, output = append(steps, cur), true
			cur = step{}
		case cur.command == "" && (line == "" || strings.HasPrefix(line, "#")):
			cur.text += line + "\n"
		case cur.command == "":
			cur.command, cur.text = line, cur.text+line+"\n"
		default:
			cur.body, cur.text = cur.body+line+"\n", cur.text+line+"\n"
		}
	}
	if cur.command != "" {
		t.Fatalf("the last command has no ----: %q", cur.command)
	}
	return append(steps, step{text: cur.text})
}

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
}

// world is a core with everything around it recorded.
type world struct {
	t    tb
	core *core
	now  time.Time
	out  strings.Builder
	pool []poolRequest
	last wire.RegionID
	dead map[ConnID]bool
	full bool // the log takes nothing
	// logged is the sum of the drops in the log, by edge and reason.
	logged   map[string]uint64
	reloaded bool // an edge may have gone and come again, with new counts
	// Memory of lanes, and the nodes' ends of them.
	words map[wire.RegionID][]uint64
	ends  map[wire.RegionID]*laneEnds
}

func newWorld(t tb) *world {
	w := &world{t: t, now: time.Unix(1000, 0), dead: map[ConnID]bool{},
		words: map[wire.RegionID][]uint64{}, ends: map[wire.RegionID]*laneEnds{}}
	w.start("test", false)
	return w
}

// start begins a broker with nothing but what is in shared memory.
func (w *world) start(instance string, lanes bool) {
	cfg := RouterConfig{Instance: instance, FrameBytesMax: 1 << 20, InlineBytesMax: 4096, Lanes: lanes, AdoptGrace: 10 * time.Second,
		HeldBytesMax: 1 << 20, InlineFallback: true}.Defaults()
	w.core = newCore(cfg, w, w, w)
	w.core.started = w.now
	w.pool, w.logged, w.reloaded = nil, map[string]uint64{}, false
}

func (w *world) Probe() (string, uint64, uint32) { return "probe", 64, 16 }
func (w *world) CheckNonce(nonce []byte) bool    { return string(nonce) == "right" }
func (w *world) SessionAlive(s wire.SessionID) (bool, error) {
	return !w.dead[ConnID(s)], nil
}

func (w *world) drop(r wire.DropRecord, written func()) bool {
	if w.full {
		return false
	}
	fmt.Fprintf(&w.out, "log: drop %s→%s %s %s count=%d total=%d bytes=%d seq=%d..%d age_max_ms=%g",
		r.From, r.To, r.Reason, r.Policy, r.Count, r.Total, r.Bytes, r.SeqFirst, r.SeqLast, r.AgeMaxMS)
	key := r.From + " " + r.To + " " + r.Reason
	if w.logged[key] += r.Count; w.logged[key] != r.Total && !w.reloaded {
		w.t.Errorf("%s: %d drops in the log, and the record says %d", key, w.logged[key], r.Total)
	}
	if r.Path != pathBrokered.String() {
		fmt.Fprintf(&w.out, " path=%s", r.Path)
	}
	w.out.WriteByte('\n')
	if written != nil {
		written()
	}
	return true
}
func (w *world) dropAtLast(r wire.DropRecord, written func()) bool {
	return w.drop(r, written)
}
func (w *world) debug(string, ...zap.Field)           {}
func (w *world) info(msg string, fields ...zap.Field) { w.log("info", msg, fields) }
func (w *world) warn(msg string, fields ...zap.Field) { w.log("warn", msg, fields) }
func (w *world) log(level, msg string, fields []zap.Field) {
	enc := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{})
	buf, err := enc.EncodeEntry(zapcore.Entry{}, fields)
	if err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(&w.out, "log: %s: %s %s\n", level, msg, strings.TrimSpace(buf.String()))
}

// testConn records what is sent, in the text form of the messages.
type testConn struct {
	w  *world
	id ConnID
}

func (c *testConn) Send(b []byte) {
	dec := wire.NewDecoder()
	for len(b) > 0 {
		body, rest, err := wire.NextFrame(b, 1<<30)
		if err != nil || body == nil {
			c.w.t.Fatalf("conn %d was sent half a frame: %v", c.id, err)
		}
		m, err := dec.Decode(body)
		if err != nil {
			c.w.t.Fatalf("conn %d was sent what it cannot decode: %v", c.id, err)
		}
		fmt.Fprintf(&c.w.out, "%d < %s\n", c.id, m)
		b = rest
	}
}
func (c *testConn) Established(local bool) {}
func (c *testConn) Close()                 { fmt.Fprintf(&c.w.out, "%d closed\n", c.id) }
func (c *testConn) RemoteAddr() string     { return fmt.Sprintf("peer%d", c.id) }

// play runs one command and returns what came of it.
func (w *world) play(command, body string) string {
	w.out.Reset()
	words := strings.Fields(command)
	handler, ok := handlers[words[0]]
	if !ok {
		w.t.Fatalf("unknown verb %q", words[0])
	}
	handler(w, args(words[1:]), body)
	w.core.flush(w.now)
	for _, r := range w.core.poolOut {
		w.pool = append(w.pool, r)
		switch r.kind {
		case poolGrant:
			fmt.Fprintf(&w.out, "pool < grant session=%d request=%d %dx%d\n", r.session, r.request, r.geometry.Slots, r.geometry.SlotBytes)
		case poolLane:
			fmt.Fprintf(&w.out, "pool < lane session=%d %d bytes\n", r.session, r.geometry.SlotBytes)
		case poolAdopt:
			fmt.Fprintf(&w.out, "pool < adopt session=%d region=%d name=%q %dx%d mapped=%v\n", r.session, r.region, r.oldName, r.geometry.Slots, r.geometry.SlotBytes, r.mapped)
		case poolRead:
			fmt.Fprintf(&w.out, "pool < read session=%d region=%d offset=%d length=%d\n", r.session, r.region, r.offset, r.length)
		default:
			fmt.Fprintf(&w.out, "pool < %s region=%d\n", map[poolRequestKind]string{poolReturn: "return", poolDiscard: "discard", poolRetire: "retire", poolStats: "stats"}[r.kind], r.region)
		}
	}
	w.core.poolOut = nil
	w.core.check(w.t)
	return w.out.String()
}

// args are the words of a command: positional ones, then key=value.
type args []string

func (a args) conn() ConnID { n, _ := strconv.Atoi(a[0]); return ConnID(n) }
func (a args) get(key, otherwise string) string {
	for _, word := range a {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v
		}
	}
	return otherwise
}
func (a args) num(key string) uint64 {
	n, err := strconv.ParseUint(a.get(key, "0"), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
func (a args) has(word string) bool {
	for _, w := range a {
		if w == word {
			return true
		}
	}
	return false
}
func (a args) tokens(key string) (tokens []wire.Token) {
	for _, s := range strings.Split(a.get(key, ""), ",") {
		if s != "" {
			n, err := strconv.ParseUint(s, 0, 64)
			if err != nil {
				panic(err)
			}
			tokens = append(tokens, wire.Token(n))
		}
	}
	return tokens
}

// say gives the core one message of a connection.
func (w *world) say(id ConnID, m wire.Message) {
	b := NewBatch()
	b.AddMessage(m, false)
	w.core.connEvent(w.now, &ConnEvent{Type: ConnMessages, ID: id, Batch: b})
}

func (w *world) open(id ConnID) {
	w.core.connEvent(w.now, &ConnEvent{Type: ConnOpened, ID: id, Conn: &testConn{w, id}})
}

var handlers = map[string]func(w *world, a args, body string){
	"flow": func(w *world, a args, body string) { // flow NAME, YAML follows: (re)loads the configuration
		f, _, err := dataflow.Parse(a[0], []byte(body), dataflow.Options{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.reloaded = len(w.core.flows) > 0
		if err := w.core.reload(w.now, []*dataflow.Flow{f}); err != nil {
			fmt.Fprintln(&w.out, "error:", err)
		}
	},
	"join": func(w *world, a args, _ string) { // join CONN NODE [remote] [takeover] [plain] [adopting] [evacuating] [inlining]: the whole handshake
		w.open(a.conn())
		h := &wire.Hello{VersionMin: 1, VersionMax: 1, Dataflow: a.get("flow", "f"), Node: a[1], Client: "test"}
		if w.core.cfg.Lanes && !a.has("plain") {
			h.Features = wire.FeatureLanes
		}
		if a.has("inlining") {
			h.Features |= wire.FeatureInline
		}
		if a.has("evacuating") {
			h.Features |= wire.FeatureEvacuation
		}
		if a.has("takeover") {
			h.Flags = wire.FlagTakeover
		}
		nonce := "right"
		if a.has("remote") {
			nonce = ""
		}
		w.say(a.conn(), h)
		w.say(a.conn(), &wire.Attach{Nonce: []byte(nonce), Adopting: a.has("adopting")})
	},
	"control": func(w *world, a args, _ string) { // control CONN
		w.open(a.conn())
		w.say(a.conn(), &wire.Hello{VersionMin: 1, VersionMax: 1, Role: wire.RoleControl})
		w.say(a.conn(), &wire.Attach{})
	},
	"request": func(w *world, a args, body string) { // request CONN VERB, JSON follows
		w.say(a.conn(), &wire.Request{ID: uint32(a.num("id")), Verb: a[1], Body: []byte(body)})
	},
	"close": func(w *world, a args, _ string) { // close CONN [alive]: the connection breaks off
		w.dead[a.conn()] = !a.has("alive")
		w.core.connEvent(w.now, &ConnEvent{Type: ConnClosed, ID: a.conn(), Err: errors.New("broken off")})
	},
	"die": func(w *world, a args, _ string) { w.dead[a.conn()] = true }, // die CONN: an orphan's process ends
	"bye": func(w *world, a args, _ string) { w.say(a.conn(), &wire.Bye{Reason: a.get("reason", "")}) },
	"publish": func(w *world, a args, _ string) { // publish CONN seq=N [out= epoch= len= | token= region= offset= len=] [n=COUNT]
		for i := range max(1, a.num("n")) {
			p := &wire.Publish{
				Output: wire.OutputIndex(a.num("out")), Epoch: uint32(a.num("epoch")), Seq: wire.Seq(a.num("seq") + i),
				TimeNS: w.now.UnixNano(), Token: wire.Token(a.num("token")), Region: wire.RegionID(a.num("region")),
				Offset: a.num("offset"), Length: a.num("len"), Lanes: a.num("lanes"),
			}
			if p.Token != 0 {
				p.Token += wire.Token(i)
			}
			if p.Region == 0 {
				p.Payload = make([]byte, p.Length)
			}
			w.say(a.conn(), p)
		}
	},
	"next": func(w *world, a args, _ string) { // next CONN limit=N consumed=N [done=T,T]
		w.say(a.conn(), &wire.Next{Limit: a.num("limit"), Consumed: a.num("consumed"), Done: a.tokens("done")})
	},
	"done": func(w *world, a args, _ string) { w.say(a.conn(), &wire.Done{Tokens: a.tokens("tokens")}) },
	"evacuate": func(w *world, a args, _ string) { // evacuate CONN [in=N] [tokens=T,T | count=N bytes=N seq=N held=MS region=N]
		m := &wire.Evacuated{
			Input: wire.InputIndex(a.num("in")), Tokens: a.tokens("tokens"), Region: wire.RegionID(a.num("region")),
			Seq: wire.Seq(a.num("seq")), Bytes: a.num("bytes"), HeldMS: a.num("held"), Count: uint32(a.num("count")),
		}
		if len(m.Tokens) > 0 {
			m.Count = uint32(len(m.Tokens))
		}
		w.say(a.conn(), m)
	},
	"kept": func(w *world, a args, _ string) { // kept CONN messages=N bytes=N [stuck=N text=WHY]
		w.say(a.conn(), &wire.Kept{Messages: a.num("messages"), Bytes: a.num("bytes"), Stuck: a.num("stuck"), Text: a.get("text", "")})
	},
	"evacuated": func(w *world, a args, _ string) { // evacuated: what status says of it
		counters := w.core.counters
		fmt.Fprintf(&w.out, "all: %d messages, %d bytes\n", counters.EvacuatedMessages, counters.EvacuatedBytes)
		w.core.eachEdge(func(e *edge) {
			if st := w.core.edgeStatus(e); st.Evacuated > 0 {
				fmt.Fprintf(&w.out, "%s→%s evacuated=%d held=%d\n", st.From, st.To, st.Evacuated, st.Held)
			}
		})
		for _, f := range w.core.flows {
			for _, n := range f.sorted() {
				if st := n.status(w.now); st.KeptMessages+st.Stuck > 0 {
					fmt.Fprintf(&w.out, "%s keeps %d messages, %d bytes; %d stuck: %s\n", st.Node, st.KeptMessages, st.KeptBytes, st.Stuck, st.StuckReason)
				}
			}
		}
	},
	"reject": func(w *world, a args, _ string) {
		w.say(a.conn(), &wire.Reject{Token: a.tokens("token")[0], Reason: wire.DropBadDescriptor})
	},
	"short": func(w *world, a args, _ string) { // short CONN [out=N] len=N: no shared memory for a message of len bytes
		w.say(a.conn(), &wire.Shortage{Output: wire.OutputIndex(a.num("out")), Bytes: a.num("len")})
	},
	"failed": func(w *world, a args, _ string) { // failed CONN count=N bytes=N first=N last=N
		w.say(a.conn(), &wire.SendFailed{Reason: wire.DropNoMemory, Count: a.num("count"), Bytes: a.num("bytes"), SeqFirst: wire.Seq(a.num("first")), SeqLast: wire.Seq(a.num("last"))})
	},
	"end": func(w *world, a args, _ string) {
		w.say(a.conn(), &wire.OutputClose{Output: wire.OutputIndex(a.num("out"))})
	},
	"region": func(w *world, a args, _ string) { // region CONN slot=BYTES slots=N: asks for a region
		w.say(a.conn(), &wire.RegionRequest{Request: uint32(a.num("request")), SlotBytes: a.num("slot"), Slots: uint32(a.num("slots"))})
	},
	"return": func(w *world, a args, _ string) {
		w.say(a.conn(), &wire.RegionReturn{Region: wire.RegionID(a.num("region"))})
	},
	"answer": func(w *world, a args, _ string) { // answer [deny=TEXT]: the pool answers its oldest question
		for len(w.pool) > 0 {
			r := w.pool[0]
			w.pool = w.pool[1:]
			rep := &poolReply{poolRequest: r, at: w.now}
			switch r.kind {
			case poolGrant:
				if text := a.get("deny", ""); text != "" {
					rep.code, rep.err = wire.CodeQuota, errors.New(text)
				} else {
					w.last++
					rep.region, rep.name = w.last, fmt.Sprintf("r%d", w.last)
				}
				w.core.regionGranted(rep)
			case poolRead:
				rep.payload = bytes.Repeat([]byte{'x'}, int(r.length))
				w.core.payloadRead(w.now, rep)
			case poolStats:
				w.core.statusReady(w.now, pool.Stats{})
			case poolLane, poolAdopt:
				w.answerLane(rep, a.get("deny", ""))
			default:
				continue
			}
			return
		}
		w.t.Fatal("the pool was asked nothing")
	},
	"wait": func(w *world, a args, _ string) { // wait DURATION: ticks on the way
		d, err := time.ParseDuration(a[0])
		if err != nil {
			w.t.Fatal(err)
		}
		for end := w.now.Add(d); w.now.Before(end); {
			w.now = w.now.Add(min(tickInterval, end.Sub(w.now)))
			w.core.tickTimers(w.now)
			w.core.tick(w.now)
			w.core.flush(w.now)
		}
	},
	"log": func(w *world, a args, _ string) { w.full = a.has("full") }, // log full|ok: whether the log takes lines
	"edges": func(w *world, a args, _ string) { // edges: the counts of every edge
		w.core.eachEdge(func(e *edge) {
			st := w.core.edgeStatus(e)
			if st.Path == "lane" {
				fmt.Fprintf(&w.out, "lane ")
			}
			fmt.Fprintf(&w.out, "%s→%s published=%d delivered=%d dropped=%d no_receiver=%d queued=%d in_flight=%d held=%d\n",
				st.From, st.To, st.Published, st.Delivered, st.Dropped, st.NoReceiver, st.Queued, st.InFlight, st.Held)
		})
	},
	"gone": func(w *world, a args, _ string) { // gone INSTANCE: of a broker that died, no process is left that has not come
		w.core.dead = append(w.core.dead, a[0])
		w.core.processesGone()
	},
	"flush": func(*world, args, string) {},
	"stop":  func(w *world, a args, _ string) { w.core.stop(w.now) },
}

// check holds the core against what must always be true.
func (c *core) check(t tb) {
	t.Helper()
	refs := map[*message]int{}
	held := map[*session]int{}
	holds := 0
	edges := map[*edge]bool{}
	c.eachEdge(func(e *edge) { edges[e] = true })
	for i := range c.holds.holds {
		if m := c.holds.holds[i].message; m != nil {
			refs[m]++
			held[c.holds.holds[i].session]++
			holds++
		}
	}
	if holds != c.holds.n {
		t.Errorf("%d holds, counted %d", holds, c.holds.n)
	}
	onLanes := c.checkLaneBooks(t)
	for e := range edges {
		var queued uint64
		for i := range e.queue.len() {
			refs[e.queue.at(i)]++
			queued += e.queue.at(i).inlineBytes()
		}
		if queued != e.queued {
			t.Errorf("%s: %d inline bytes queued, counted %d", e.to, queued, e.queued)
		}
		// A receive that is cancelled in the very moment of a delivery can put
		// one message too many into an input whose sender has a window for it.
		most := e.queueSize
		if e.policy == wire.PolicyBlock || e.epoch > 0 { // it may have been block before a reload
			most = e.most + 1
		} else if e.out > most {
			most = e.out // a reload made the queue smaller than what is out already
		}
		if n := e.queue.len() + e.out; n > most {
			t.Errorf("%s: %d messages between Publish and Recv, queue_size is %d", e.to, n, e.queueSize)
		}
		if e.sess == nil && e.queue.len() > 0 {
			t.Errorf("%s: messages wait for nobody", e.to)
		}
		st := &e.stats
		copying := uint64(0)
		if e.sess != nil && e.sess.copying == e {
			copying = 1
		}
		sum := st.delivered + st.dropped + st.unlogged + st.noReceiver + uint64(e.queue.len()) + onLanes[e]
		if sum+copying != st.published || st.delivered > st.published || st.dropped > st.published {
			t.Errorf("%s: %d published, but %d delivered + %d dropped + %d unlogged + %d without receiver + %d queued + %d on lanes", e.to, st.published, st.delivered, st.dropped, st.unlogged, st.noReceiver, e.queue.len(), onLanes[e])
		}
	}
	for m, n := range refs {
		if m.refs < n {
			t.Errorf("message %d has %d references, counted %d", m.seq, n, m.refs)
		}
	}
	for s, n := range held {
		if s.held != n {
			t.Errorf("session %d holds %d, counted %d", s.id, n, s.held)
		}
	}
}
