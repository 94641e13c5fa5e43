package broker

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brokerd/brokerd/wire"
)

// connectionCounters are the counts of what happened to connections before or
// beside the router.
type connectionCounters struct {
	Accepted, Refused, AuthFailures, AuthUnseen, PushedOut, Greedy, TLSFailures, HandshakeTimeouts, SlowCutOffs, Silent uint64
}

// metric is one name on /metrics.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counterOf(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("brokerd_"+name+"_total", help, labels, nil), prometheus.CounterValue}
}

func gaugeOf(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("brokerd_"+name, help, labels, nil), prometheus.GaugeValue}
}

// The labels of an edge, in the spelling of the drop log.
var edgeLabels = []string{"dataflow", "from", "to"}

// Everything on /metrics that is ours. docs/operations.md lists the same.
var (
	metricInfo        = gaugeOf("info", "Always 1; version and instance are in the labels.", "version", "instance")
	metricUptime      = gaugeOf("uptime_seconds", "Time since the broker's start.")
	metricConnections = gaugeOf("connections", "Connections now, nodes and control together.")
	metricAccepted    = counterOf("connections_accepted", "Connections accepted.")
	metricRefused     = counterOf("connections_refused", "Connections refused for lack of room.")
	metricEnded       = counterOf("connections_ended", "Connections that the broker ended, by reason.", "reason")

	metricNodeConnected = gaugeOf("node_connected", "1 if the node is connected.", "dataflow", "node")
	metricNodeLocal     = gaugeOf("node_local", "1 if the node's payloads go through shared memory.", "dataflow", "node")
	metricNodeRegions   = gaugeOf("node_region_bytes", "Shared memory leased to the node.", "dataflow", "node")
	metricNodeHeld      = gaugeOf("node_held_bytes", "Bytes of other nodes' messages that the node has not given back.", "dataflow", "node")
	metricNodeKept      = gaugeOf("node_kept_bytes", "Memory of the node itself with messages that it has evacuated.", "dataflow", "node")
	metricNodeStuck     = gaugeOf("node_stuck_messages", "Messages that the node holds for too long and could not evacuate.", "dataflow", "node")

	metricPublished  = counterOf("edge_published_messages", "Messages published for the edge.", edgeLabels...)
	metricDelivered  = counterOf("edge_delivered_messages", "Messages delivered to the edge's receiver.", edgeLabels...)
	metricDelivBytes = counterOf("edge_delivered_bytes", "Payload bytes delivered to the edge's receiver.", edgeLabels...)
	metricNoReceiver = counterOf("edge_no_receiver_messages", "Messages published while the edge's receiver was away. Not drops.", edgeLabels...)
	metricDropped    = counterOf("edge_dropped_messages", "Messages that the edge's receiver will never get, by reason.",
		append(append([]string{}, edgeLabels...), "reason")...)
	metricQueued    = gaugeOf("edge_queued_messages", "Messages waiting in the broker.", edgeLabels...)
	metricInFlight  = gaugeOf("edge_in_flight_messages", "Messages delivered but not yet taken by the receiver's code.", edgeLabels...)
	metricHeld      = gaugeOf("edge_held_messages", "Messages that the receiver has not given back.", edgeLabels...)
	metricEvacuated = counterOf("edge_evacuated_messages", "Messages that the receiver held for too long and moved out of shared memory.", edgeLabels...)
	metricLatency   = gaugeOf("edge_latency_seconds", "Time from publish to delivery, of the recent messages.",
		append(append([]string{}, edgeLabels...), "quantile")...)

	metricMessagesIn  = counterOf("messages_in", "Messages published by nodes and timers.")
	metricMessagesOut = counterOf("messages_out", "Messages delivered to nodes.")
	metricBytesIn     = counterOf("payload_in_bytes", "Payload bytes published.")
	metricBytesOut    = counterOf("payload_out_bytes", "Payload bytes delivered.")
	metricCopied      = counterOf("payload_copied_bytes", "Payload bytes that the broker itself copied out of shared memory, for remote nodes.")
	metricDrops       = counterOf("dropped_messages", "Dropped messages of all edges.")
	metricEvacMsgs    = counterOf("evacuated_messages", "Messages that receivers have moved out of shared memory.")
	metricEvacBytes   = counterOf("evacuated_bytes", "Payload bytes of these.")
	metricInlineMsgs  = counterOf("inline_fallback_messages", "Messages that came inside frames because they got no shared memory.")
	metricInlineBytes = counterOf("inline_fallback_bytes", "Payload bytes of these.")
	metricTokens      = gaugeOf("tokens", "Published messages that some receiver is not done with.")

	metricMemLimit   = gaugeOf("memory_limit_bytes", "Shared memory that may be in use.")
	metricMemUsed    = gaugeOf("memory_used_bytes", "Shared memory in use, free regions included.")
	metricMemCached  = gaugeOf("memory_cached_bytes", "Shared memory in free regions.")
	metricMemRetired = gaugeOf("memory_retired_bytes", "Shared memory that has no name any more but is still held.")
	metricRegions    = gaugeOf("memory_regions", "Regions by state.", "state")
	metricRegionOps  = counterOf("memory_regions_handled", "Regions created, reused or unlinked.", "operation")
)

var metrics = []metric{
	metricInfo, metricUptime, metricConnections, metricAccepted, metricRefused, metricEnded,
	metricNodeConnected, metricNodeLocal, metricNodeRegions, metricNodeHeld,
	metricNodeKept, metricNodeStuck, metricEvacuated, metricEvacMsgs, metricEvacBytes, metricInlineMsgs, metricInlineBytes,
	metricPublished, metricDelivered, metricDelivBytes, metricNoReceiver, metricDropped,
	metricQueued, metricInFlight, metricHeld, metricLatency,
	metricMessagesIn, metricMessagesOut, metricBytesIn, metricBytesOut, metricCopied, metricDrops, metricTokens,
	metricMemLimit, metricMemUsed, metricMemCached, metricMemRetired, metricRegions, metricRegionOps,
}

// collector asks the router once a scrape, so that all numbers of one scrape
// belong together and cost nothing in between.
type collector struct {
	source statusSource
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), livenessTimeout)
	defer cancel()
	status, err := c.source.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(metricInfo.desc, err)
		return
	}
	out := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	out(metricInfo, 1, status.Version, status.Instance)
	out(metricUptime, status.UptimeSeconds)
	collectConnections(out, &status, c.source.connectionCounters())
	for i := range status.Nodes {
		n := &status.Nodes[i]
		out(metricNodeConnected, oneIf(n.Connected), n.Dataflow, n.Node)
		out(metricNodeLocal, oneIf(n.Local), n.Dataflow, n.Node)
		out(metricNodeRegions, float64(n.RegionBytes), n.Dataflow, n.Node)
		out(metricNodeHeld, float64(n.HeldBytes), n.Dataflow, n.Node)
		out(metricNodeKept, float64(n.KeptBytes), n.Dataflow, n.Node)
		out(metricNodeStuck, float64(n.Stuck), n.Dataflow, n.Node)
	}
	for i := range status.Edges {
		collectEdge(out, &status.Edges[i])
	}
	collectCounters(out, &status.Counters)
	collectMemory(out, &status.Memory)
}

type emit func(m metric, v float64, labels ...string)

// collectConnections takes the ends for the protocol's sake from the status: only
// there those that the router found are in, too.
func collectConnections(out emit, status *wire.Status, n connectionCounters) {
	out(metricConnections, float64(status.Connections))
	out(metricAccepted, float64(n.Accepted))
	out(metricRefused, float64(n.Refused))
	out(metricEnded, float64(n.AuthFailures), wire.CodeAuth.String())
	out(metricEnded, float64(n.AuthUnseen), "auth_unseen")
	out(metricEnded, float64(n.PushedOut), "pushed_out")
	out(metricEnded, float64(n.TLSFailures), "tls")
	out(metricEnded, float64(n.Greedy), "buffers_full")
	out(metricEnded, float64(status.Counters.ProtocolErrors), wire.CodeProtocol.String())
	out(metricEnded, float64(n.HandshakeTimeouts), wire.CodeHandshakeTimeout.String())
	out(metricEnded, float64(n.SlowCutOffs), wire.CodeSlowConnection.String())
	out(metricEnded, float64(n.Silent), wire.CodeTimeout.String())
}

func collectEdge(out emit, e *wire.EdgeStatus) {
	edge := []string{e.Dataflow, e.From, e.To}
	with := func(label string) []string { return append(edge[:3:3], label) }
	out(metricPublished, float64(e.Published), edge...)
	out(metricDelivered, float64(e.Delivered), edge...)
	out(metricDelivBytes, float64(e.Bytes), edge...)
	out(metricNoReceiver, float64(e.NoReceiver), edge...)
	out(metricQueued, float64(e.Queued), edge...)
	out(metricInFlight, float64(e.InFlight), edge...)
	out(metricHeld, float64(e.Held), edge...)
	out(metricEvacuated, float64(e.Evacuated), edge...)
	for _, reason := range wire.DropReasons() {
		// All reasons of the closed set, also at 0: a series that appears with
		// its first drop would show no increase for it.
		out(metricDropped, float64(e.Drops[reason.String()]), with(reason.String())...)
	}
	out(metricLatency, e.LatencyP50MS/1000, with("0.5")...)
	out(metricLatency, e.LatencyP99MS/1000, with("0.99")...)
}

func collectCounters(out emit, n *wire.Counters) {
	out(metricMessagesIn, float64(n.MessagesIn))
	out(metricMessagesOut, float64(n.MessagesOut))
	out(metricBytesIn, float64(n.BytesIn))
	out(metricBytesOut, float64(n.BytesOut))
	out(metricCopied, float64(n.PayloadCopyBytes))
	out(metricDrops, float64(n.Drops))
	out(metricTokens, float64(n.Tokens))
	out(metricEvacMsgs, float64(n.EvacuatedMessages))
	out(metricEvacBytes, float64(n.EvacuatedBytes))
	out(metricInlineMsgs, float64(n.InlineFallbackMessages))
	out(metricInlineBytes, float64(n.InlineFallbackBytes))
}

func collectMemory(out emit, m *wire.MemoryStatus) {
	out(metricMemLimit, float64(m.LimitBytes))
	out(metricMemUsed, float64(m.UsedBytes))
	out(metricMemCached, float64(m.CachedBytes))
	out(metricMemRetired, float64(m.RetiredBytes))
	out(metricRegions, float64(m.Regions-m.CachedRegions-m.RetiredRegions), "leased")
	out(metricRegions, float64(m.CachedRegions), "cached")
	out(metricRegions, float64(m.RetiredRegions), "retired")
	out(metricRegionOps, float64(m.CreatedTotal), "created")
	out(metricRegionOps, float64(m.ReusedTotal), "reused")
	out(metricRegionOps, float64(m.UnlinkedTotal), "unlinked")
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
