package node

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// AddrDefault is where a broker listens unless it was told otherwise.
const AddrDefault = "127.0.0.1:7447"

// Names of the environment variables that ConfigFromEnv reads.
const (
	EnvAddr          = "BROKERD_ADDR"
	EnvDataflow      = "BROKERD_DATAFLOW"
	EnvNode          = "BROKERD_NODE"
	EnvAuthTokenFile = "BROKERD_AUTH_TOKEN_FILE"
	EnvNoSharedMem   = "BROKERD_NO_SHM"
	EnvNoLanes       = "BROKERD_NO_LANES"
	EnvSpin          = "BROKERD_SPIN"
	EnvDebug         = "BROKERD_DEBUG"
)

// debugProtect is the option of BROKERD_DEBUG that sets Config.Protect.
const debugProtect = "protect"

const (
	dialTimeoutDefault = 5 * time.Second
	backoffMaxDefault  = 2 * time.Second
	backoffInitial     = 10 * time.Millisecond
)

// Config says which node of which dataflow this process is. The zero value of
// every field but Dataflow and Node is a good default.
type Config struct {
	Addr     string // host:port of the broker; AddrDefault if empty
	Dataflow string // name of the dataflow
	Node     string // id of the node in it

	AuthToken      []byte // content of the broker's token file; nil if it asks for none
	Takeover       bool   // close an older connection of the same node id instead of being refused
	NoSharedMemory bool   // payloads through the connection, as if the broker were on another machine

	// TLS secures the connection, if the broker's are; nil: it is in the clear. The
	// server's name is taken from Addr if it is not set. Payloads of local nodes do not
	// go through the connection, with it or without.
	TLS *tls.Config

	NoLanes bool // all messages through the broker, also where nodes of one machine could do without

	// Spin is for how long a call that waits looks again and again before it sleeps.
	// It saves a wake-up of some 10 µs and costs a processor; on a machine without
	// one to spare it makes everything slower. 0: sleep at once.
	Spin time.Duration

	// Protect finds uses of a message's bytes after its Release, of a loan's after its
	// Publish, writes to payloads and steps past their end: each is a segmentation
	// fault at the spot, and a text that names the message and where it was released.
	// It copies every payload. Linux only. It takes over debug.SetCrashOutput.
	Protect bool

	Logger      *slog.Logger  // slog.Default() if nil
	DialTimeout time.Duration // for one try to connect, handshake included; 5 s if 0
	BackoffMax  time.Duration // longest pause between two tries; 2 s if 0
}

// ConfigFromEnv reads BROKERD_ADDR, BROKERD_DATAFLOW, BROKERD_NODE,
// BROKERD_AUTH_TOKEN_FILE, BROKERD_NO_SHM, BROKERD_NO_LANES, BROKERD_SPIN (like
// "50us") and BROKERD_DEBUG (a list with commas in it; "protect" is the one option
// there is). What TLSFromEnv reads, too. Tools that start the processes of a dataflow set them. Errors (ErrConfig) name the variable and show an example.
func ConfigFromEnv() (Config, error) {
	cfg := Config{
		Addr:     os.Getenv(EnvAddr),
		Dataflow: os.Getenv(EnvDataflow),
		Node:     os.Getenv(EnvNode),
	}
	var problems []error
	for _, v := range []struct{ name, value, example string }{
		{EnvDataflow, cfg.Dataflow, "demo"},
		{EnvNode, cfg.Node, "camera"},
	} {
		if v.value == "" {
			problems = append(problems, fmt.Errorf(
				"%w: environment variable %s is not set; set it to the %s, for example %s=%s, or start the process with `brokerctl run`",
				ErrConfig, v.name, meaningOf(v.name), v.name, v.example))
		}
	}
	for _, v := range []struct {
		name, without string
		off           *bool
	}{
		{EnvNoSharedMem, "shared memory", &cfg.NoSharedMemory},
		{EnvNoLanes, "lanes", &cfg.NoLanes},
	} {
		s := os.Getenv(v.name)
		if s == "" {
			continue
		}
		off, err := strconv.ParseBool(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: environment variable %s=%q is neither true nor false; use %s=1 to go without %s",
				ErrConfig, v.name, s, v.name, v.without))
		}
		*v.off = off
	}
	if s := os.Getenv(EnvSpin); s != "" {
		spin, err := time.ParseDuration(s)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: environment variable %s=%q is no duration; for example %s=50us", ErrConfig, EnvSpin, s, EnvSpin))
		}
		cfg.Spin = spin
	}
	for _, option := range strings.Split(os.Getenv(EnvDebug), ",") {
		switch strings.TrimSpace(option) {
		case "":
		case debugProtect:
			cfg.Protect = true
		default:
			problems = append(problems, fmt.Errorf("%w: environment variable %s: unknown option %q; known is %s (Config.Protect)",
				ErrConfig, EnvDebug, strings.TrimSpace(option), debugProtect))
		}
	}
	if path := os.Getenv(EnvAuthTokenFile); path != "" {
		token, err := os.ReadFile(path)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: %s: %w", ErrConfig, EnvAuthTokenFile, err))
		}
		cfg.AuthToken = bytes.TrimSpace(token)
		if err == nil && len(cfg.AuthToken) == 0 {
			problems = append(problems, fmt.Errorf("%w: %s: %s is empty", ErrConfig, EnvAuthTokenFile, path))
		}
	}
	var err error
	if cfg.TLS, err = TLSFromEnv(); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return Config{}, errors.Join(problems...)
	}
	return cfg, cfg.Validate()
}

func meaningOf(variable string) string {
	if variable == EnvDataflow {
		return "name of the dataflow"
	}
	return "id of this node in the dataflow"
}

// Validate reports everything that is wrong with c, as ErrConfig.
func (c Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	if err := wire.CheckID(c.Dataflow); err != nil {
		bad("Dataflow: %w (example: Dataflow: \"demo\")", err)
	}
	if err := wire.CheckID(c.Node); err != nil {
		bad("Node: %w (example: Node: \"camera\")", err)
	}
	if c.Addr != "" {
		if _, port, err := net.SplitHostPort(c.Addr); err != nil || port == "" {
			bad("Addr %q is not host:port (example: %s)", c.Addr, AddrDefault)
		}
	}
	if len(c.AuthToken) > wire.AuthBytesMax {
		bad("AuthToken has %d bytes, the limit is %d", len(c.AuthToken), wire.AuthBytesMax)
	}
	if c.DialTimeout < 0 || c.BackoffMax < 0 || c.Spin < 0 {
		bad("DialTimeout, BackoffMax and Spin must not be negative")
	}
	return errors.Join(problems...)
}

func (c Config) withDefaults() Config {
	if c.Addr == "" {
		c.Addr = AddrDefault
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("dataflow", c.Dataflow, "node", c.Node)
	if c.DialTimeout == 0 {
		c.DialTimeout = dialTimeoutDefault
	}
	if c.BackoffMax == 0 {
		c.BackoffMax = backoffMaxDefault
	}
	c.AuthToken = bytes.Clone(c.AuthToken)
	c.Addr = strings.TrimSpace(c.Addr)
	return c
}
