// Package control asks a running broker questions and gives it orders: what
// brokerctl and the demo do, and what a test or a tool of yours can do.
//
// A control connection is no node. It has no inputs and outputs, maps no shared
// memory and may be opened any number of times:
//
//	client, err := control.Dial(ctx, control.Config{Addr: "127.0.0.1:7447"})
//	if err != nil {
//		return err // errors.Is(err, control.ErrUnreachable): nobody listens there
//	}
//	defer client.Close()
//	var status wire.Status
//	err = client.Call(ctx, wire.VerbStatus, nil, &status)
//
// A refusal by the broker is a *wire.Error and matches its sentinel, such as
// wire.ErrNotFound, with errors.Is.
//
// All methods of a Client may be used by several goroutines at once. One
// goroutine of the client reads the connection, another one keeps it alive;
// both end with Close.
package control
