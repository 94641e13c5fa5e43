package dataflow

// Changes is what differs between two versions of a dataflow.
type Changes struct {
	NodesAdded, NodesRemoved []string // ids
	NodesChanged             []NodeChange
	EdgesAdded, EdgesRemoved []Edge
	EdgesChanged             []EdgeChange
}

// NodeChange tells what differs in a node that is in both versions. Its inputs
// are edges and not part of it.
type NodeChange struct {
	ID   string
	What []string // e.g. "output mask added", "path ./a → ./b"
}

// EdgeChange is an edge (same source, same input) whose settings differ.
type EdgeChange struct {
	Old, New Edge
	What     []string // e.g. "queue_size 10 → 1"
}

// Diff compares two versions of a dataflow. Either may be nil: an empty flow.
func Diff(old, new *Flow) Changes { return Changes{} }

// Empty reports whether nothing differs.
func (c Changes) Empty() bool { return len(c.Strings()) == 0 }

// Strings returns one line a change, for logs.
func (c Changes) Strings() []string { return nil }
