package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/brokerd/brokerd/wire"
)

// livenessTimeout is how long the router may take to answer before the broker
// counts as stuck.
const livenessTimeout = time.Second

// httpConnectionsMax bounds the connections to the HTTP server, which anybody who
// reaches it may open: they take files of filesReserve.
const httpConnectionsMax = 20

// statusSource is what the HTTP server shows.
type statusSource interface {
	Status(ctx context.Context) (wire.Status, error)
	serving() bool
	connectionCounters() connectionCounters
}

// web is the HTTP server for operators and their tools. It is not part of the
// data path: everything it shows comes from one question to the router.
type web struct {
	server   *http.Server
	listener net.Listener
	open     atomic.Int64 // connections
	ended    chan struct{}
}

// connected closes a connection at once that is one too many.
func (w *web) connected(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if w.open.Add(1) > httpConnectionsMax {
			_ = conn.Close()
		}
	case http.StateClosed:
		w.open.Add(-1)
	}
}

func startWeb(addr string, source statusSource, log *zap.Logger) (*web, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	errorLog, err := zap.NewStdLogAt(log.Named("http"), zap.WarnLevel)
	if err != nil {
		errorLog = zap.NewStdLog(log)
	}
	w := &web{
		listener: listener,
		ended:    make(chan struct{}),
		server: &http.Server{
			Handler:           webHandler(source),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          errorLog,
		},
	}
	w.server.ConnState = w.connected
	go func() {
		defer close(w.ended)
		if err := w.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http server ended", zap.Error(err))
		}
	}()
	return w, nil
}

// stop ends the server; requests under way get until ctx ends.
func (w *web) stop(ctx context.Context) {
	if w.server.Shutdown(ctx) != nil {
		_ = w.server.Close()
	}
	<-w.ended
}

func webHandler(source statusSource) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{source: source},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: 4,
	}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), livenessTimeout)
		defer cancel()
		if _, err := source.Status(ctx); err != nil {
			http.Error(w, "the router does not answer: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if !source.serving() {
			http.Error(w, "not accepting nodes", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		status, err := source.Status(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(status) // the client is gone; nobody to tell
	})
	return mux
}
