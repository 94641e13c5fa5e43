package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The first byte on a connection says who is at its other end.
const (
	tagDirect  = 'd' // the sender
	tagRelayed = 'r' // the relay
)

// connectTimeout bounds the wait for the other processes of the benchmark.
const connectTimeout = 10 * time.Second

func dial(addr string, tag byte) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, connectTimeout)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{tag}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func accept(listener net.Listener) (conn net.Conn, tag byte, err error) {
	if tcp, ok := listener.(*net.TCPListener); ok {
		_ = tcp.SetDeadline(time.Now().Add(connectTimeout))
	}
	if conn, err = listener.Accept(); err != nil {
		return nil, 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, 0, errors.Join(err, conn.Close())
	}
	return conn, b[0], nil
}

// serveRelay is the process between: whatever comes is written on.
func serveRelay(peers []string, orders *json.Decoder, answers *json.Encoder) error {
	if len(peers) != 1 {
		return fmt.Errorf("the relay has %d peers, not 1", len(peers))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	out, err := dial(peers[0], tagRelayed)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := answers.Encode(answer{Ready: true, Addr: listener.Addr().String()}); err != nil {
		return err
	}
	in, _, err := accept(listener)
	if err != nil {
		return err
	}
	defer in.Close()
	relayed := make(chan error, 1)
	go func() {
		// Not io.Copy, which would splice inside the kernel: a broker has to
		// look at what it passes on.
		buf := make([]byte, 64<<10)
		for {
			n, err := in.Read(buf)
			if err == nil {
				_, err = out.Write(buf[:n])
			}
			if err != nil {
				relayed <- err
				return
			}
		}
	}()
	// The end of the orders is the end of the run.
	err = serveOrders(orders, answers, func(order) (answer, error) {
		return answer{}, errors.New("the relay takes no orders")
	})
	in.Close()
	<-relayed
	return err
}
