package main

import (
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The examples of the README do what they say, and end when they are asked to.
func TestExamples(t *testing.T) {
	_, addr := broker(t)
	for name, line := range map[string]*regexp.Regexp{
		"hello": regexp.MustCompile(`listener \| greeting: ".+" \(count \d+, 0 missed before it\)`),
		"loan":  regexp.MustCompile(`viewer\s+\| (\d+) of \d+ bytes have shade \d+; in shared memory, .+ after it was sent`),
	} {
		t.Run(name, func(t *testing.T) {
			p := brokerctl(t, addr, "run", "../../examples/"+name+"/flow.yml")
			got := p.sees(p.out, map[string]string{"hello": "greeting: ", "loan": "bytes have shade"}[name])
			m := line.FindStringSubmatch(got)
			if m == nil {
				t.Errorf("it says %q, want %v", got, line)
			} else if len(m) > 1 && !strings.Contains(got, m[1]+" of "+m[1]+" bytes") {
				t.Errorf("not every byte is right: %s", got)
			}
			p.signal(syscall.SIGINT)
			p.exits(0)
		})
	}
}
