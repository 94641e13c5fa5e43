package control

// Verb names an order or a question. The bodies are the JSON types beside each.
type Verb string

// The verbs that a broker knows.
const (
	// VerbStatus: no request; answers wire.Status.
	VerbStatus Verb = "status"
	// VerbDrops: DropsRequest; answers []wire.DropRecord, the totals so far. With
	// Follow it is a stream: the totals first, then one wire.DropRecord for each
	// line of the drop log.
	VerbDrops Verb = "drops"
	// VerbLoad: LoadRequest; answers LoadReply.
	VerbLoad Verb = "load"
	// VerbUnload: UnloadRequest; answers nothing.
	VerbUnload Verb = "unload"
	// VerbStop: StopRequest; sends Stop to every node of a dataflow, answers
	// nothing.
	VerbStop Verb = "stop"
)

// DropsRequest asks for the counted drops.
type DropsRequest struct {
	Follow bool `json:"follow"` // keep sending records as they are logged
}

// LoadRequest brings a dataflow to the broker.
type LoadRequest struct {
	Name  string `json:"name"`
	YAML  string `json:"yaml"`
	Owner bool   `json:"owner"` // unload it when this connection closes
}

// LoadReply names the dataflow that was loaded.
type LoadReply struct {
	Name string `json:"name"`
}

// UnloadRequest takes a dataflow away; its nodes are sent off.
type UnloadRequest struct {
	Name string `json:"name"`
}

// StopRequest asks the nodes of a dataflow to end.
type StopRequest struct {
	Dataflow string `json:"dataflow"`
}
