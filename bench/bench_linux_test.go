package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brokerd/brokerd/cmd/brokerctl/bench"
)

// mainVariable makes the test program the real one; processes that it starts are
// the real one anyway.
const mainVariable = "BROKERD_BENCH_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" || len(os.Args) > 1 && os.Args[1] == childCommand {
		main()
	}
	goleak.VerifyTestMain(m)
}

// brokerProgram builds brokerd once for all tests.
func brokerProgram(t *testing.T) string {
	t.Helper()
	path, err := build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// drawn reports what is wrong with a picture: it must have some colours.
func drawn(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		return err
	}
	colours := make(map[color.Color]bool)
	for x := range picture.Bounds().Dx() {
		for y := range picture.Bounds().Dy() {
			colours[picture.At(x, y)] = true
		}
	}
	if len(colours) < len(curves) {
		return fmt.Errorf("%s has %d colours for %d curves", path, len(colours), len(curves))
	}
	return nil
}

// TestEveryPathDelivers runs everything with real processes, as short as it goes:
// what it finds is not judged, only that all is there.
func TestEveryPathDelivers(t *testing.T) {
	var out, errOut bytes.Buffer
	picture := filepath.Join(t.TempDir(), "latency.png")
	status := run([]string{"--brokerd", brokerProgram(t), "--plot", picture, "--sizes", "0,64,300K", "--count", "5", "--rounds", "2",
		"--unpaced", "10ms", "--unpaced-sizes", "64", "--fanout", "1,2", "--fanout-size", "64K", "--first-size", "1M", "--json"}, &out, &errOut)
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, errOut.String())
	}
	var report bench.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if len(report.Latency) != 3 || len(report.Throughput) != 1 || len(report.Fanout) == 0 {
		t.Fatalf("report %s", out.String())
	}
	for _, row := range report.Latency {
		want := len(paths())
		if row.Bytes == 0 {
			want-- // shmipc
		}
		if len(row.Paths) != want {
			t.Errorf("%d bytes: %d paths, not %d", row.Bytes, len(row.Paths), want)
		}
		for _, p := range row.Paths {
			if p.Messages != 10 || p.P50NS <= 0 {
				t.Errorf("%d bytes, %s: %d messages, median %d ns", row.Bytes, p.Path, p.Messages, p.P50NS)
			}
			if row.Bytes > 0 && (p.Ratios[bench.PathLimit].Median <= 0) != (p.Path == bench.PathLimit) {
				t.Errorf("%d bytes, %s: ratios %v", row.Bytes, p.Path, p.Ratios)
			}
		}
	}
	if err := drawn(picture); err != nil {
		t.Error(err)
	}
	for _, p := range report.Throughput[0].Paths {
		if p.PerSecond <= 0 {
			t.Errorf("%s sends %v messages a second", p.Path, p.PerSecond)
		}
	}
}

// TestLimitDeliversAFullRing has the sender of the limit far ahead of its
// receiver, over and over, with payloads that must not be mixed up.
func TestLimitDeliversAFullRing(t *testing.T) {
	path := limitPath()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	receiver, err := path.Receive(ctx, bench.Setup{})
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := path.Send(ctx, bench.Setup{Receivers: []string{receiver.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	const size, count = 300, 20_000
	for _, end := range []interface {
		Prepare(context.Context, int) error
	}{receiver, sender} {
		if err := end.Prepare(ctx, size); err != nil {
			t.Fatal(err)
		}
	}
	sent := make(chan error, 1)
	go func() {
		payload := make([]byte, size)
		for i := range count {
			payload[0], payload[size-1] = byte(i), byte(i>>8)
			if err := sender.Send(ctx, payload); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range count {
		p, err := receiver.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if p[0] != byte(i) || p[size-1] != byte(i>>8) {
			t.Fatalf("message %d begins with %d and ends with %d", i, p[0], p[size-1])
		}
		receiver.Release()
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestShmipcConfigHasRoomForTheWindow(t *testing.T) {
	for _, size := range []int{1, 64, 256, 4 << 10, 64 << 10, 100_000, 1 << 20, 4 << 20, 40 << 20} {
		c := shmipcConfig(size)
		found := false
		for _, pair := range c.BufferSliceSizes {
			if int(pair.Size) < size {
				continue
			}
			found = true
			slices := uint64(c.ShareMemoryBufferCap-shmipcLists) * uint64(pair.Percent) / 100 / uint64(pair.Size+shmipcHeader)
			// One is still the reader's, and the last one cannot be taken.
			if int(slices) < bench.Window(size)+2 {
				t.Errorf("%d bytes: %d slices for a window of %d", size, slices, bench.Window(size))
			}
			break
		}
		if !found {
			t.Errorf("%d bytes: no slice is large enough: %+v", size, c.BufferSliceSizes)
		}
	}
}

func TestUsage(t *testing.T) {
	var out, errOut bytes.Buffer
	for want, args := range map[int][]string{
		exitUsage: {"--paths", "pigeon"},
		0:         {"--help"},
	} {
		if got := run(args, &out, &errOut); got != want {
			t.Errorf("%v: exit status %d, want %d: %s", args, got, want, errOut.String())
		}
	}
	for _, part := range []string{"pigeon", "--quick", "shmipc-go", "--rounds", "  dora ", "Exit status: 0 measured", "3 a goal is missed"} {
		if !strings.Contains(errOut.String(), part) {
			t.Errorf("%q is not mentioned in\n%s", part, errOut.String())
		}
	}
}

// TestNothingIsLeft ends a run in its middle, politely and not.
func TestNothingIsLeft(t *testing.T) {
	brokerd := brokerProgram(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			mark := fmt.Sprintf("BROKERD_BENCH_TEST=%d-%d", os.Getpid(), signal)
			cmd := exec.Command(self, "--brokerd", brokerd, "--sizes", "64", "--count", "100000", "--fanout", "", "--first-size", "0")
			cmd.Env = append(os.Environ(), mainVariable+"=1", mark)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// All are there: two processes a path, NATS, the broker and the parent.
			await(t, mark, func(n int) bool { return n >= 2*len(paths())+3 })
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // a status that tells of the signal
			await(t, mark, func(n int) bool { return n == 0 })
		})
	}
}

// await waits until so many processes have the mark in their environment.
func await(t *testing.T, mark string, enough func(int) bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		marked := processes(mark)
		if enough(len(marked)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are %d processes: %v", len(marked), marked)
		}
		time.Sleep(20 * time.Millisecond) // between two looks; nothing else tells
	}
}

func processes(mark string) []string {
	var marked []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if slices.Contains(strings.Split(string(b), "\x00"), mark) {
			marked = append(marked, filepath.Base(filepath.Dir(file)))
		}
	}
	return marked
}
