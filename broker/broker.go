package broker

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/dataflow"
)

// Errors of Broker's methods.
var (
	// ErrRunTwice is what Run returns when it is called again.
	ErrRunTwice = errors.New("broker: Run was called before")
	// ErrNotRunning is what questions to a broker return before it has begun to
	// listen and after it has ended.
	ErrNotRunning = errors.New("broker: not running")
	// ErrBadConfig wraps what Config.Validate found.
	ErrBadConfig = errors.New("broker: bad configuration")
)

// Broker is one running daemon.
type Broker struct {
	// Immutable.
	cfg   Config
	log   *zap.Logger
	ready chan struct{} // closed once listening

	// Guarded by mu.
	mu        sync.Mutex
	started   bool
	addr      net.Addr
	isServing bool
	parts     *parts // nil before Ready and after the end

	reloading sync.Mutex       // one Reload at a time
	flows     []*dataflow.Flow // as last loaded; guarded by reloading
}

// New checks the configuration and makes a broker that holds no resource yet.
// Errors wrap ErrBadConfig.
func New(cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	cfg.Credentials = cfg.Credentials.withDefaults()
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Broker{cfg: cfg, log: cfg.Logger, flows: cfg.Flows, ready: make(chan struct{})}, nil
}

// Ready is closed when the broker listens. It stays open if Run fails before.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addr is the address that the broker listens on, with the real port. nil before
// Ready.
func (b *Broker) Addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr
}
