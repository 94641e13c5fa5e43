package actors

import "testing"

// The window that is told when lanes are closed for want of memory is for messages
// as large as the one that does not fit: they will wait in the broker's heap.
func TestShortageWindow(t *testing.T) {
	w := newWorld(t)
	play := func(command string) { w.play(command, "") }
	play("start test")
	w.core.cfg.QueueBytesMax = 100_000
	w.play("flow f", `nodes:
  - id: camera
    outputs: [image]
  - id: edges
    inputs: {frame: {source: camera/image, queue_size: 16, policy: block}}
`)
	for _, command := range []string{
		"join 1 camera inlining", "join 2 edges", "answers", "ready 2 lane=1", "ready 1 lane=1", "begin 1 lane=1",
	} {
		play(command)
	}
	o := w.core.flows["f"].nodes["camera"].outputs[0]
	if !o.edges[0].laned() {
		t.Fatal(w.out.String())
	}
	play("short 1 out=0 len=40000")
	if o.edges[0].laned() {
		t.Fatal(w.out.String())
	}
	if window := o.window - o.published; window != 2 {
		t.Errorf("%d messages of 40,000 bytes may come for an input that may have 100,000", window)
	}
}
