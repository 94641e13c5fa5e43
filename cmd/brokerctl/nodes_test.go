package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/brokerd/brokerd/node"
)

// runTestNode is a node's main, for the parts that tests need. It returns the
// exit status.
func runTestNode(part string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	switch part {
	case "environment": // says what it was started with; needs no broker
		dir, _ := os.Getwd()
		fmt.Println("dir", dir)
		fmt.Println("args", strings.Join(os.Args[1:], ","))
		for _, name := range []string{node.EnvDataflow, node.EnvNode, node.EnvAuthTokenFile, "COLOUR"} {
			fmt.Println(name, os.Getenv(name))
		}
		fmt.Fprintln(os.Stderr, "a line for stderr")
		fmt.Print("no newline at the end")
		return 0
	case "leaves-one-behind": // ends, and its own child does not
		child := exec.Command("sleep", "1000")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("left", child.Process.Pid)
		return 0
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	cfg, err := node.ConfigFromEnv()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	n, err := node.Connect(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer n.Close()
	switch part {
	case "source":
		return sendSome(ctx, n, 3, 0)
	case "trickle":
		return sendSome(ctx, n, 1<<30, 20*time.Millisecond)
	case "sink":
		return printAll(ctx, n)
	case "stall": // takes its time, so that its queue runs over
		for event := range n.Events(ctx) {
			if event.Kind == node.EventStop {
				return 0
			}
			event.Message.Release()
			time.Sleep(100 * time.Millisecond) // it is slow: that is its part
		}
	case "fail":
		fmt.Println("failing")
		return 7
	case "stubborn": // ends neither by Stop nor by SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("pid", os.Getpid())
		select {}
	case "tidy": // does not listen to Stop, and takes its time after SIGTERM
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("pid", os.Getpid())
		<-signals
		time.Sleep(2 * termInterval) // its part
		fmt.Println("tidied up")
		return 0
	case "deaf": // does not listen to Stop
		fmt.Println("pid", os.Getpid())
		<-ctx.Done()
	}
	return 1
}

func sendSome(ctx context.Context, n *node.Node, count int, pause time.Duration) int {
	out, err := n.Output("out")
	if err == nil {
		err = out.WaitReceivers(ctx, 1)
	}
	stop := stopped(ctx, n)
	for i := 1; i <= count && err == nil; i++ {
		err = out.Send(ctx, fmt.Appendf(nil, "message %d", i))
		select {
		case <-stop:
			fmt.Println("source saw Stop")
			return 0
		case <-time.After(pause):
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// stopped is closed when the node is asked to end.
func stopped(ctx context.Context, n *node.Node) <-chan struct{} {
	stop := make(chan struct{})
	go func() {
		for {
			event, err := n.Next(ctx)
			if err != nil {
				return
			}
			if event.Kind == node.EventStop {
				close(stop)
				return
			}
		}
	}()
	return stop
}

func printAll(ctx context.Context, n *node.Node) int {
	fmt.Println("sink ready")
	for event := range n.Events(ctx) {
		switch event.Kind {
		case node.EventInput:
			fmt.Printf("got %s\n", event.Message.Payload())
			event.Message.Release()
		case node.EventReconnected:
			fmt.Println("reconnected")
		case node.EventInputClosed:
			fmt.Println("input closed")
			return 0
		case node.EventStop:
			fmt.Println("sink saw Stop")
			return 0
		}
	}
	return 1
}
