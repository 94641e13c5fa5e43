package broker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/dataflow"
	"github.com/brokerd/brokerd/shmpool"
	"github.com/brokerd/brokerd/wire"
)

func TestHTTP(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.HTTP = "127.0.0.1:0" })
	base := "http://" + tb.running().web.listener.Addr().String()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, bad := range [][]byte{frameBytes(&wire.Publish{Output: 9, Seq: 1}), raw(0x91, 63)} { // found by the router, by the session
		p := tb.join("camera")
		if _, err := p.Write(bad); err != nil {
			t.Fatal(err)
		}
		until[*wire.Error](p)
		p.Close()
		eventually(t, "the connection is forgotten", func() bool { return tb.status().Connections == 0 })
	}
	camera, sink := tb.join("camera"), tb.join("sink")
	sink.send(&wire.Next{Limit: 10})
	camera.send(&wire.Publish{Seq: 1, Length: 3, Payload: []byte("abc")})
	until[*wire.Inputs](sink)

	if code, body := get("/livez"); code != 200 {
		t.Errorf("/livez: %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	code, body := get("/status")
	var status wire.Status
	if err := json.Unmarshal([]byte(body), &status); code != 200 || err != nil || len(status.Nodes) != 2 {
		t.Errorf("/status: %d %v %s", code, err, body)
	}
	code, body = get("/metrics")
	if code != 200 {
		t.Fatalf("/metrics: %d %s", code, body)
	}
	edge := `{dataflow="test",from="camera/image",to="sink/image"`
	for _, want := range []string{
		"brokerd_edge_published_messages_total" + edge + "} 1",
		"brokerd_edge_delivered_messages_total" + edge + "} 1",
		"brokerd_edge_delivered_bytes_total" + edge + "} 3",
		`brokerd_edge_dropped_messages_total{dataflow="test",from="camera/image",reason="queue_full",to="sink/image"} 0`,
		`brokerd_node_connected{dataflow="test",node="camera"} 1`,
		"brokerd_connections 2",
		"brokerd_connections_accepted_total 4",
		`brokerd_connections_ended_total{reason="protocol"} 2`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("/debug/pprof/: %d", code)
	}
	if resp, err := client.Post(base+"/status", "text/plain", nil); err != nil || resp.StatusCode != 405 {
		t.Errorf("POST /status: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	// Stuck and draining brokers say so.
	tb.mu.Lock()
	tb.isServing = false
	tb.mu.Unlock()
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("/readyz while draining: %d", code)
	}
	tb.running().router.Stop()
	if code, _ := get("/livez"); code != 503 {
		t.Errorf("/livez without a router: %d", code)
	}
	if code, _ := get("/metrics"); code != 500 {
		t.Errorf("/metrics without a router: %d", code)
	}
}

// The operators' page lists every metric that there is, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range metrics {
		name := m.desc.String()
		name = name[strings.Index(name, `"`)+1:]
		name = name[:strings.Index(name, `"`)]
		known[name] = true
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
	for _, word := range strings.FieldsFunc(string(page), func(r rune) bool { return r == '`' || r == ' ' || r == '\n' }) {
		if strings.HasPrefix(word, "brokerd_") && !known[word] {
			t.Errorf("%s is documented and does not exist", word)
		}
	}
}

// The operators' page has every limit with its default.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	for name, value := range map[string]string{
		"connections_max":          fmt.Sprint(cfg.ConnectionsMax),
		"frame_max":                fmt.Sprintf("%d KiB", cfg.FrameBytesMax>>10),
		"inline_max":               fmt.Sprintf("%d KiB", cfg.InlineBytesMax>>10),
		"outbound_max":             fmt.Sprintf("%d MiB", cfg.OutboundBytesMax>>20),
		"slow_timeout":             fmt.Sprintf("%.0f s", cfg.SlowTimeout.Seconds()),
		"handshake_timeout":        fmt.Sprintf("%.0f s", cfg.HandshakeTimeout.Seconds()),
		"heartbeat":                fmt.Sprintf("%.0f s", cfg.HeartbeatInterval.Seconds()),
		"adopt_grace":              fmt.Sprintf("%.0f s", cfg.AdoptGrace.Seconds()),
		"drain_timeout":            fmt.Sprintf("%.0f s", cfg.DrainTimeout.Seconds()),
		"buffers_max":              "a quarter of RAM, 256 MiB to 2 GiB",
		"queue_total_max":          "a quarter of RAM, 256 MiB to 4 GiB",
		"outstanding_messages_max": fmt.Sprint(cfg.OutstandingMax),
		"queue_bytes_max":          fmt.Sprintf("%d MiB", cfg.QueueBytesMax>>20),
		"held_messages_max":        fmt.Sprint(cfg.HeldMessagesMax),
		"held_max":                 fmt.Sprintf("%d MiB", cfg.HeldBytesMax>>20),
		"dataflows_max":            fmt.Sprint(cfg.FlowsMax),
		"shm_regions_max":          fmt.Sprint(cfg.RegionsMax),
		"shm_cache_age":            fmt.Sprintf("%.0f s", cfg.CacheAge.Seconds()),
	} {
		if row := fmt.Sprintf("| `%s` | %s |", name, value); !strings.Contains(string(page), row) {
			t.Errorf("not there: %s", row)
		}
	}
	// Those that depend on the machine.
	total := min(shmSizeBytes(), ramBytes()) / 2
	if total > 0 && (cfg.TotalBytes != total || cfg.NodeBytes != min(1<<30, total/2) || cfg.CacheBytes != min(256<<20, total/4)) {
		t.Errorf("shared memory: %d, %d a node, %d cached", cfg.TotalBytes, cfg.NodeBytes, cfg.CacheBytes)
	}
	if quarter := max(ramBytes()/4, 256<<20); cfg.BuffersBytesMax != min(quarter, 2<<30) || cfg.QueueTotalMax != min(quarter, 4<<30) {
		t.Errorf("buffers %d, queues %d", cfg.BuffersBytesMax, cfg.QueueTotalMax)
	}
	for _, row := range []string{
		"| `shm_limit` | half of `/dev/shm`, at most half of RAM |", "| `shm_node_limit` | 1 GiB, at most half of `shm_limit` |",
		"| `shm_cache` | 256 MiB, at most a quarter of `shm_limit` |",
		fmt.Sprintf("| tokens in a frame, items in a frame | %d |", max(wire.TokensMax, wire.ItemsMax)),
		fmt.Sprintf("| depth of nesting in a frame | %d |", wire.NestingMax),
		fmt.Sprintf("| a message | %d GiB |", shmpool.SlotBytesMax>>30),
		fmt.Sprintf("| `queue_size` | at most %d |", dataflow.QueueSizeMax),
		fmt.Sprintf("| TLS handshakes at a time | %d |", tlsHandshakesMax),
		fmt.Sprintf("| connections to HTTP | %d |", httpConnectionsMax),
		fmt.Sprintf("| wrong tokens of one address | %d at once, %d a second |", wrongTokensBurst, wrongTokensPerSecond),
		fmt.Sprintf("| addresses whose wrong tokens are remembered | %d |", suspectsMax),
		fmt.Sprintf("within %d ms is pushed out", strangerSafe.Milliseconds()),
	} {
		if !strings.Contains(string(page), row) {
			t.Errorf("not there: %s", row)
		}
	}
	fixed := fmt.Sprintf("has %.0f s to read what is\nleft for it; one event loop reads all sockets, at most %d KiB", cfg.LingerTimeout.Seconds(), cfg.ReadBytes>>10)
	if cfg.EventLoops != 1 || !strings.Contains(string(page), fixed) {
		t.Errorf("not there: %s", fixed)
	}
	for name, bytes := range map[string]int{
		"frame before Ready":            wire.HandshakeFrameBytesMax,
		"frame of a control connection": wire.ControlFrameBytesMax,
		"frame of Adopt, Adopted":       wire.AdoptFrameBytesMax,
	} {
		if row := fmt.Sprintf("| %s | %d KiB", name, bytes>>10); !strings.Contains(string(page), row) {
			t.Errorf("not there: %s", row)
		}
	}
}

// Connections to HTTP take files from nobody else, and make room when they end.
func TestHTTPConnectionsMax(t *testing.T) {
	tb := startBroker(t, func(cfg *Config) { cfg.HTTP = "127.0.0.1:0" })
	url := "http://" + tb.running().web.listener.Addr().String() + "/readyz"
	get := func() (*http.Client, error) { // over a connection of its own, which stays
		client := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(client.CloseIdleConnections)
		resp, err := client.Get(url)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return client, err
	}
	var clients []*http.Client
	for range httpConnectionsMax {
		client, err := get()
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	if _, err := get(); err == nil {
		t.Error("one more is answered")
	}
	clients[0].CloseIdleConnections()
	eventually(t, "there is room again", func() bool {
		_, err := get()
		return err == nil
	})
}
