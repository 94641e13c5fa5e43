package dataflow

import "fmt"

// What a key is to us.
type keyClass uint8

const (
	keyUnknown keyClass = iota
	keyOurs             // read
	keyNote             // for people; skipped silently
	keyDora             // known to dora only; skipped with a warning
	keyCannot           // a kind of node that cannot run here; an error
)

// keySet is the vocabulary of one kind of mapping.
type keySet struct {
	what string // the mapping, for messages: "a node"
	keys map[string]keyClass
	ours []string // in the order of the documentation, for suggestions
}

func newKeySet(what string, ours, notes, dora, cannot []string) keySet {
	set := keySet{what: what, keys: map[string]keyClass{}, ours: ours}
	for class, names := range map[keyClass][]string{keyOurs: ours, keyNote: notes, keyDora: dora, keyCannot: cannot} {
		for _, name := range names {
			set.keys[name] = class
		}
	}
	return set
}

// The keys of dora are those of its schema, of all versions up to 1.0.
var (
	fileKeys = newKeySet("a dataflow",
		[]string{"name", "nodes", "env"}, []string{"description"},
		[]string{
			"communication", "debug", "_unstable_debug", "deploy", "_unstable_deploy",
			"health_check_interval", "strict_types", "exit_when_nodes_finish", "type_rules",
		}, nil)
	nodeKeys = newKeySet("a node",
		[]string{"id", "path", "args", "env", "outputs", "inputs", "custom"},
		[]string{"name", "description"},
		doraNodeKeys, []string{"operator", "operators", "hub", "module", "ros2"})
	customKeys = newKeySet("custom",
		[]string{"source", "path", "args", "env", "envs", "outputs", "inputs"}, nil,
		doraNodeKeys, nil)
	inputKeys = newKeySet("an input",
		[]string{"source", "queue_size", "policy", "queue_policy", "hold_timeout"}, nil,
		[]string{"input_timeout"}, nil)
	doraNodeKeys = []string{
		"build", "git", "branch", "tag", "rev", "path_sha256", "working_dir",
		"deploy", "_unstable_deploy", "cpu_affinity", "params", "pattern",
		"restart_policy", "max_restarts", "restart_delay", "max_restart_delay", "restart_window",
		"startup_timeout", "health_check_timeout", "finish_grace_secs",
		"send_stdout_as", "send_logs_as", "min_log_level", "max_log_size", "max_rotated_files",
		"output_types", "output_framing", "output_metadata", "input_types", "shared_memory_pool_size",
	}
)

// cannotRun says what to do about kinds of nodes that only dora can start.
var cannotRun = map[string]string{
	"operator":  "make the operator a program of its own that connects as a node, and give its path",
	"operators": "make each operator a program of its own that connects as a node, and give its path",
	"hub":       "install the package and give the path of its program",
	"module":    "write the nodes of the module into this file",
	"ros2":      "start a bridge program of your own and give its path",
}

// classify sorts the entries of a mapping: ours come back by key, all others
// are reported. ok is false if the mapping cannot be used at all.
func (r *reader) classify(list []entry, set keySet) (ours map[string]entry, ok bool) {
	ours, ok = make(map[string]entry, len(list)), true
	for _, e := range list {
		switch set.keys[e.key] {
		case keyOurs:
			ours[e.key] = e
		case keyNote:
		case keyDora:
			r.ignored(e.at, fmt.Sprintf("the key %s is dora's and is ignored", e.key), "")
		case keyCannot:
			r.problem(e.at, fmt.Sprintf("a node with the key %s needs dora's runtime and cannot run here", e.key), cannotRun[e.key])
			ok = false
		default:
			r.unknownKey(e, set)
		}
	}
	return ours, ok
}

func (r *reader) unknownKey(e entry, set keySet) {
	suggestion := ""
	if !r.full() {
		if near, ok := nearest(e.key, set.ours); ok {
			suggestion = "did you mean " + near + "?"
		} else {
			suggestion = "the keys of " + set.what + " are: " + joined(set.ours)
		}
	}
	r.problem(e.at, fmt.Sprintf("%s has no key %s", set.what, quote(e.key)), suggestion)
}
