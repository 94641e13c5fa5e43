package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"github.com/brokerd/brokerd/broker"
)

// settings is everything that can be set about a serving brokerd: what the
// broker package takes, and what has to be turned into that first.
type settings struct {
	broker.Config
	Dataflows     []string // files
	Strict        bool
	AuthTokenFile string
	TLSCert       string // files
	TLSKey        string
	TLSClientCA   string
	ShmFallback   string // none or inline
	ShmGroup      string // name or number; empty: the group of the process
	LogFormat     string
	LogLevel      string

	warnings []string // what is odd, and no error
}

// defaultSettings are those of the broker package, with sizes that depend on the
// machine cut to whole MiB for people's eyes.
func defaultSettings() settings {
	s := settings{Config: broker.Defaults(), ShmFallback: fallbackNone, LogFormat: logAuto, LogLevel: "info"}
	for _, size := range []*uint64{&s.TotalBytes, &s.NodeBytes, &s.CacheBytes, &s.BuffersBytesMax, &s.QueueTotalMax} {
		if *size > 1<<20 {
			*size &^= 1<<20 - 1
		}
	}
	return s
}

// Values of shm_fallback.
const (
	fallbackNone   = "none"
	fallbackInline = "inline"
)

// option is one setting: a place, and the names that follow from its key.
type option struct {
	key   string // snake_case: its name in the configuration file
	value value
	usage string
	path  bool // a file's name: in a configuration file, relative to that file
	// Lists have plural keys and a flag in the singular, given once an entry.
	flagName string
}

// flag is the option's name on the command line, without the dashes.
func (o option) flag() string {
	if o.flagName != "" {
		return o.flagName
	}
	return strings.ReplaceAll(o.key, "_", "-")
}

// env is the option's name in the environment.
func (o option) env() string { return envPrefix + strings.ToUpper(o.key) }

const envPrefix = "BROKERD_"

// foreignEnv are the names with our prefix that mean something to nodes and
// brokerctl, not to brokerd; they may well be set around it.
var foreignEnv = []string{"BROKERD_ADDR", "BROKERD_DATAFLOW", "BROKERD_NODE", "BROKERD_NO_SHM", "BROKERD_NO_LANES", "BROKERD_SPIN", "BROKERD_DEBUG", "BROKERD_TLS_CA",
	"BROKERD_TLS_NAME", "BROKERD_TLS_CLIENT_CERT", "BROKERD_TLS_CLIENT_KEY"}

// configEnv names the configuration file, in place of --config.
const configEnv = envPrefix + "CONFIG"

// options lists every option, in the order of --help, over the fields of s.
func (s *settings) options() []option {
	return []option{
		{key: "listen", value: addressValue(&s.Listen, false),
			usage: "where nodes connect to; port 0 takes any free one"},
		{key: "dataflows", flagName: "dataflow", path: true, value: listValue{&s.Dataflows, "FILE"},
			usage: "dataflow file to load (repeatable; in the environment separated by ':')"},
		{key: "strict", value: boolValue(&s.Strict),
			usage: "refuse keys in dataflow files that brokerd would ignore"},
		{key: "http", value: addressValue(&s.HTTP, true),
			usage: "serve /metrics, /livez, /readyz and /status here; empty is off"},
		{key: "auth_token_file", path: true, value: textValue(&s.AuthTokenFile, "FILE"),
			usage: "file with the token that every connection must show"},
		{key: "tls_cert", path: true, value: textValue(&s.TLSCert, "FILE"),
			usage: "certificate of the broker in PEM form, with those that lead to its root; connections are by TLS then"},
		{key: "tls_key", path: true, value: textValue(&s.TLSKey, "FILE"),
			usage: "private key of the certificate"},
		{key: "tls_client_ca", path: true, value: textValue(&s.TLSClientCA, "FILE"),
			usage: "who connects must have a certificate that is signed by one in this file"},
		{key: "insecure", value: boolValue(&s.Insecure),
			usage: "allow a --listen address that others can reach, without TLS or without a token"},

		{key: "shared_memory", value: boolValue(&s.SharedMemory),
			usage: "offer shared memory to nodes of this machine"},
		{key: "lanes", value: boolValue(&s.Lanes),
			usage: "give nodes of this machine direct paths to each other, through shared memory"},
		{key: "adopt_grace", value: durationValue(&s.AdoptGrace),
			usage: "how long nodes of a brokerd that died may bring along what it gave them"},
		{key: "shm_limit", value: bytesValue(&s.TotalBytes),
			usage: "shared memory of all nodes together"},
		{key: "shm_node_limit", value: bytesValue(&s.NodeBytes),
			usage: "shared memory of one node"},
		{key: "shm_fallback", value: choiceValue(&s.ShmFallback, fallbackNone, fallbackInline),
			usage: "what becomes of a message that gets no shared memory: none is an error (or the sender waits), inline sends it through brokerd"},
		{key: "shm_cache", value: bytesValue(&s.CacheBytes),
			usage: "free shared memory that is kept warm for the next node"},
		{key: "shm_cache_age", value: durationValue(&s.CacheAge),
			usage: "how long free shared memory is kept"},
		{key: "shm_regions_max", value: countValue(&s.RegionsMax, 1),
			usage: "shared memory objects at a time, those of lanes too; each takes file descriptors"},
		{key: "shm_mode", value: modeValue(&s.ShmMode),
			usage: "who may map it: 0600 this user, 0660 a group too"},
		{key: "shm_group", value: textValue(&s.ShmGroup, "GROUP"),
			usage: "group of the shared memory, a name or a number"},
		{key: "shm_prefix", value: textValue(&s.ShmPrefix, "NAME"),
			usage: "start of the names in /dev/shm"},

		{key: "connections_max", value: countValue(&s.ConnectionsMax, 1),
			usage: "connections at a time; more are refused"},
		{key: "frame_max", value: bytesValue(&s.FrameBytesMax),
			usage: "longest frame that a node may send or get"},
		{key: "inline_max", value: bytesValue(&s.InlineBytesMax),
			usage: "payloads up to here travel inside the frame"},
		{key: "outbound_max", value: bytesValue(&s.OutboundBytesMax),
			usage: "unread bytes of a connection before it is cut off"},
		{key: "buffers_max", value: bytesValue(&s.BuffersBytesMax),
			usage: "bytes that all connections together may leave unread or unfinished"},
		{key: "queue_bytes_max", value: bytesValue(&s.QueueBytesMax),
			usage: "payload inside frames that may wait for one input"},
		{key: "queue_total_max", value: bytesValue(&s.QueueTotalMax),
			usage: "payload inside frames that may wait for all inputs together"},
		{key: "outstanding_messages_max", value: countValue(&s.OutstandingMax, 1),
			usage: "messages of one node that receivers are not done with"},
		{key: "held_messages_max", value: countValue(&s.HeldMessagesMax, 1),
			usage: "messages that one node may hold before it gets no more"},
		{key: "held_max", value: bytesValue(&s.HeldBytesMax),
			usage: "of what one node holds for too long, so much it may move out of shared memory; 0 is off"},
		{key: "dataflows_max", value: countValue(&s.FlowsMax, 1),
			usage: "dataflows at a time, those of brokerctl run included"},
		{key: "handshake_timeout", value: durationValue(&s.HandshakeTimeout),
			usage: "time for a new connection to say who it is"},
		{key: "heartbeat", value: durationValue(&s.HeartbeatInterval),
			usage: "silence after which a node is asked for a sign of life"},
		{key: "slow_timeout", value: durationValue(&s.SlowTimeout),
			usage: "time that a remote node may leave waiting bytes unread"},
		{key: "drain_timeout", value: durationValue(&s.DrainTimeout),
			usage: "time that nodes get to end when brokerd is stopped"},

		{key: "log_format", value: choiceValue(&s.LogFormat, logAuto, logJSON, logConsole),
			usage: "auto: console on a terminal, journal fields under systemd, else json"},
		{key: "log_level", value: choiceValue(&s.LogLevel, "debug", "info", "warn", "error"),
			usage: "least level that is logged"},
	}
}

// brokerConfig is what the broker package takes. It reads the token file and
// looks up the group; the error joins everything that is wrong. What is only odd
// goes to the warnings.
func (s *settings) brokerConfig() (broker.Config, error) {
	config := s.Config
	config.Version = versionText()
	config.InlineFallback = s.ShmFallback == fallbackInline
	var wrong []error
	credentials, warnings, err := s.credentials()
	if err != nil {
		wrong = append(wrong, err)
	}
	s.warnings = append(s.warnings, warnings...)
	config.Credentials = credentials
	if err := s.exposed(); err != nil {
		return config, err
	}
	if s.ShmGroup != "" {
		gid, err := groupID(s.ShmGroup)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("shm_group: %w", err))
		}
		config.ShmGID = gid
		if s.ShmMode == 0o600 {
			wrong = append(wrong, errors.New("shm_group: has no effect with shm_mode 0600; set shm_mode 0660 too"))
		}
	}
	if len(wrong) == 0 {
		if err := config.Validate(); err != nil {
			wrong = append(wrong, err)
		}
	}
	return config, errors.Join(wrong...)
}

// exposed refuses an address that other machines reach, without what keeps them
// from reading and sending messages. The broker package would refuse it too, but
// knows no flags to name.
func (s *settings) exposed() error {
	if s.Insecure || isLoopback(s.Listen) {
		return nil
	}
	var missing []string
	if s.TLSCert == "" {
		missing = append(missing, "--tls-cert FILE --tls-key FILE")
	}
	if s.AuthTokenFile == "" && s.TLSClientCA == "" {
		missing = append(missing, "--auth-token-file FILE (or --tls-client-ca FILE)")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("listen: %s can be reached from other machines, and whoever reaches it, or hears the traffic, reads and sends messages; "+
		"give %s, or --insecure if that is meant", s.Listen, strings.Join(missing, " and "))
}

func groupID(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil && gid >= 0 {
		return gid, nil
	}
	group, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(group.Gid)
}
