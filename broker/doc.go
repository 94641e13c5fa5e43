// Package broker is the daemon without its command line: sockets, sessions and
// limits around the router of package actors.
//
// A Broker is made by New, serves in Run until its context ends, and then
// drains within bounded time. It can be embedded: nothing in it is global, and
// several may run in one process.
//
//	cfg := broker.Defaults()
//	cfg.Listen = "127.0.0.1:0"
//	cfg.Flows = flows
//	b, err := broker.New(cfg)
//	...
//	go func() { failed <- b.Run(ctx) }()
//	<-b.Ready()
//	fmt.Println("listening on", b.Addr())
//
// # The way of bytes
//
//	            accept goroutine            loops of gnet
//	listener ─► limits, fd reserve ─► session: frames, handshake ─► actors.Batch ─► router
//	                                                                                  │
//	socket  ◄── outbox: write at once; what does not fit waits for the flusher ◄──────┘
//
// Accepting is done by a listener of our own, not by gnet, for three reasons: a
// failing accept (file descriptors used up, by whatever) would end gnet's engine
// and with it every living connection; a refused peer can still be told why; and
// a broker that drains can stop accepting while its connections go on.
//
// Writing is done by the router's own goroutine, straight to the socket. Going
// through gnet's write queue costs a wake-up of the loop for each message, which
// is most of the latency of a small one; and what waits there can neither be
// counted exactly nor bounded. See outbox.
//
// # Concurrency
//
// Goroutines of a running broker: the accept loop, the loops of gnet (callbacks
// of a session run on one of them), the router and the pool of package actors,
// the flusher (writes what did not fit into a socket), the minder (all timers of
// all sessions), the reporter (log lines of sessions), and the HTTP server if
// there is one. The fields of each struct are grouped by the goroutine that owns
// them. Only the loops may wait for the router; nobody waits for a loop or for a
// peer.
package broker
