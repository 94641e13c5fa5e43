package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/brokerd/brokerd/broker"
	"github.com/brokerd/brokerd/cmd/internal/cli"
)

const (
	// statusInterval is how often the service manager's status line is renewed.
	statusInterval = 3 * time.Second
	// answerTimeout bounds the wait for the router's answer to a question.
	answerTimeout = 5 * time.Second
	// stopSlack is what giving everything back takes after the nodes had their
	// time; systemd is asked for that much on top.
	stopSlack = 10 * time.Second
	// sameOrder is how far apart two signals are at least that mean two orders.
	// timeout(1), for one, sends its signal to the process and to its group, so
	// that one order comes twice.
	sameOrder = 250 * time.Millisecond
)

// service is a broker with the process around it: signals, files, the service
// manager. All of it runs on the goroutine of run.
type service struct {
	config   *effective
	log      *zap.Logger
	broker   *broker.Broker
	notifier *notifier
	signals  chan os.Signal
	ended    chan error // what Run of the broker returned
}

// serve is `brokerd` itself.
func serve(command *cobra.Command, flags *flagLayer) error {
	config, err := resolve(flags, os.Environ())
	if err != nil {
		return err
	}
	brokerConfig, err := config.brokerConfig()
	if err != nil {
		return cli.Config(err)
	}
	log, err := newLogger(&config.settings, os.Stderr)
	if err != nil {
		return cli.Config(err)
	}
	flows, warnings, err := loadFlows(config.Dataflows, config.Strict)
	if err != nil {
		return cli.Config(err)
	}
	for _, warning := range config.warnings {
		log.Warn("odd configuration", zap.String("warning", warning))
	}
	logWarnings(log, warnings)
	s := &service{
		config:   config,
		log:      log,
		notifier: newNotifier(log),
		// Room for what a hasty operator sends while a reload is under way; more
		// of the same would not change anything.
		signals: make(chan os.Signal, 8),
		ended:   make(chan error, 1),
	}
	brokerConfig.Logger = log
	brokerConfig.Flows = flows
	brokerConfig.Watchdog = s.notifier.alive
	if s.broker, err = broker.New(brokerConfig); err != nil {
		return cli.Config(err)
	}
	return s.run(command.Context())
}

// run serves until a signal or a failure ends it.
func (s *service) run(ctx context.Context) error {
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(s.signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	var pings sync.WaitGroup
	// The watchdog is served until the very end: a drain must not be taken for a
	// hang. So its context is not the broker's.
	pingContext, stopPings := context.WithCancel(context.WithoutCancel(ctx))
	defer pings.Wait()
	defer stopPings()
	pings.Go(func() { s.notifier.run(pingContext) })

	s.log.Info("starting", zap.String("version", versionText()), zap.Int("pid", os.Getpid()),
		zap.String("config_file", s.config.file), zap.Strings("dataflow_files", s.config.Dataflows))
	go func() { s.ended <- s.broker.Run(ctx) }()
	if err := s.untilReady(); err != nil {
		return err
	}
	return s.untilStopped(stop)
}

// untilReady waits until the broker listens. Signals wait in their channel: the
// start is short, and a reload needs a broker.
func (s *service) untilReady() error {
	select {
	case <-s.broker.Ready():
	case err := <-s.ended:
		return startError(err)
	}
	s.notifier.ready(s.broker.Addr().String())
	return nil
}

func startError(err error) error {
	if err == nil {
		err = errors.New("stopped before it could listen")
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w (is another brokerd running? `brokerctl status` asks it)", err)
	}
	return &cli.Exit{Code: cli.ExitFailed, Err: err}
}

// untilStopped is the service's main loop.
func (s *service) untilStopped(stop context.CancelFunc) error {
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	s.tellStatus()
	for {
		select {
		case received := <-s.signals:
			if received == syscall.SIGHUP {
				s.reload()
				continue
			}
			s.log.Info("stopping", zap.String("signal", received.String()), zap.Duration("drain_timeout_s", s.config.DrainTimeout))
			s.notifier.stopping(s.config.DrainTimeout + stopSlack)
			stop()
			return s.untilEnded()
		case err := <-s.ended:
			// Nobody asked it to end: whatever it says, the service failed.
			if err == nil {
				err = errors.New("the broker ended unasked")
			}
			return &cli.Exit{Code: cli.ExitFailed, Err: err}
		case <-ticker.C:
			s.tellStatus()
		}
	}
}

// untilEnded waits for the drain. A second signal cuts it short; what then stays
// behind in /dev/shm goes with the next start's sweep.
func (s *service) untilEnded() error {
	asked := time.Now()
	for {
		select {
		case received := <-s.signals:
			if received == syscall.SIGHUP || time.Since(asked) < sameOrder {
				continue
			}
			s.log.Warn("second signal, exiting at once", zap.String("signal", received.String()))
			return &cli.Exit{Code: cli.ExitFailed}
		case err := <-s.ended:
			if err != nil {
				return &cli.Exit{Code: cli.ExitFailed, Err: err}
			}
			s.log.Info("stopped")
			return nil
		}
	}
}

// tellStatus renews the line of `systemctl status`.
func (s *service) tellStatus() {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	status, err := s.broker.Status(ctx)
	if err != nil {
		s.log.Warn("router does not answer", zap.Error(err))
		return
	}
	s.notifier.status(statusLine(&status))
}
