package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Env is what a run needs of its surroundings.
type Env struct {
	// Command makes the command of a child process, which calls Serve with these
	// arguments. A child that gets its own process group ends in order when the
	// run is interrupted.
	Command func(ctx context.Context, args ...string) *exec.Cmd
	// Environ is added to the children's environment: where the broker is.
	Environ []string
	// Call asks the broker (see wire.Request). nil: there is none, and paths that
	// need one cannot be measured.
	Call func(ctx context.Context, verb string, request, reply any) error
	// Stderr gets what the children say.
	Stderr io.Writer
	// Progress, if not nil, is called before each series; done is between 0 and 1.
	Progress func(done float64, what string)
}

// stopTimeout is more than a child takes to end.
const stopTimeout = 5 * time.Second

// child is one of the processes.
type child struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

func (e *Env) start(ctx context.Context, name string, environ []string, args ...string) (*child, error) {
	c := &child{name: name, cmd: e.Command(ctx, args...)}
	c.cmd.Env = slices.Concat(os.Environ(), e.Environ, environ)
	c.cmd.Stderr = e.Stderr
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = stopTimeout
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c.orders, c.answers = json.NewEncoder(c.in), json.NewDecoder(out)
	return c, nil
}

func (c *child) tell(o order) error {
	if err := c.orders.Encode(o); err != nil {
		return fmt.Errorf("%s is gone: %w", c.name, err)
	}
	return nil
}

func (c *child) answer() (answer, error) {
	var a answer
	err := c.answers.Decode(&a)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed):
		return a, fmt.Errorf("%s ended early", c.name)
	case err != nil:
		return a, fmt.Errorf("%s: %w", c.name, err)
	case a.Error != "":
		return a, fmt.Errorf("%s: %s", c.name, a.Error)
	}
	return a, nil
}

func (c *child) ask(o order) (answer, error) {
	if err := c.tell(o); err != nil {
		return answer{}, err
	}
	return c.answer()
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// stop ends the process: the end of its input is the end of its work.
func (c *child) stop() error {
	_ = c.in.Close()
	late := time.AfterFunc(stopTimeout, c.kill)
	defer late.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}
