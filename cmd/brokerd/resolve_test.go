package main

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// resolved resolves flags and environment.
func resolved(t *testing.T, args, environ []string) (*effective, error) {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags := addSettingsFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return resolve(flags, environ)
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "brokerd.yaml")
	writeFile(t, file, "log_level: error\nheartbeat: 7s\nshm_mode: 0660\ndataflows:\n  - flows/a.yml\n  - /b.yml\n")
	args := []string{"--log-level", "debug", "--config", file}
	environ := []string{"BROKERD_LOG_LEVEL=warn", "BROKERD_HEARTBEAT=8s", "BROKERD_SLOW_TIMEOUT=", "OTHER=1"}
	e, err := resolved(t, args, environ)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][2]string{}
	for _, o := range e.options() {
		got[o.key] = [2]string{strings.Join(o.value.texts(), " "), e.origins[o.key]}
	}
	for key, want := range map[string][2]string{
		"log_level":    {"debug", "flag --log-level"},
		"heartbeat":    {"8s", "environment BROKERD_HEARTBEAT"},
		"shm_mode":     {"0660", "file " + file + ":3"},
		"dataflows":    {filepath.Join(dir, "flows/a.yml") + " /b.yml", "file " + file + ":4"},
		"slow_timeout": {"30s", "default"}, // an empty variable is none
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
}

// Each setting must be settable from each of the three places, and from there
// alone: a table that names the wrong field shows here.
func TestEverySettingFromEverywhere(t *testing.T) {
	other := map[string]string{ // a value that is not the default, by kind
		"FILE": "/some/file", "HOST:PORT": "127.0.0.1:1", "SIZE": "3MiB", "MODE": "0660", "GROUP": "7", "NAME": "other",
		"N": "77", "DURATION": "50s", "auto|json|console": "json", "none|inline": "inline", "debug|info|warn|error": "warn",
	}
	file := filepath.Join(t.TempDir(), "brokerd.yaml")
	var s settings
	for _, o := range s.options() {
		value := other[o.value.kind()]
		if o.value.kind() == "bool" {
			value = "true"
			if o.key == "shared_memory" || o.key == "lanes" {
				value = "false"
			}
		}
		writeFile(t, file, o.key+": "+value+"\n")
		for place, from := range map[string]struct{ args, environ []string }{
			"flag":        {args: []string{"--" + o.flag() + "=" + value}},
			"environment": {environ: []string{o.env() + "=" + value}},
			"file":        {args: []string{"--config", file}},
		} {
			e, err := resolved(t, from.args, from.environ)
			if err != nil {
				t.Errorf("%s from %s: %v", o.key, place, err)
				continue
			}
			defaults := defaultSettings()
			want := defaults.options()
			for i, set := range e.options() {
				text, initial := strings.Join(set.value.texts(), " "), strings.Join(want[i].value.texts(), " ")
				switch {
				case set.key == o.key && (text != value || !strings.HasPrefix(e.origins[set.key], place)):
					t.Errorf("%s from %s: %q, origin %q", o.key, place, text, e.origins[set.key])
				case set.key != o.key && text != initial:
					t.Errorf("%s from %s changed %s to %q", o.key, place, set.key, text)
				}
			}
		}
	}
}

func TestEnvironmentProblems(t *testing.T) {
	_, err := resolved(t, nil, []string{"BROKERD_SHM_LIMIT=lots", "BROKERD_HEARTBEAT=-1s"})
	if err == nil || !strings.Contains(err.Error(), "BROKERD_SHM_LIMIT: ") || !strings.Contains(err.Error(), "BROKERD_HEARTBEAT: ") {
		t.Errorf("error: %v", err)
	}
	e, err := resolved(t, nil, []string{"BROKERD_LISTN=x", "BROKERD_ADDR=127.0.0.1:7447", "BROKERD_NODE=x"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{`environment variable BROKERD_LISTN means nothing to brokerd, did you mean "BROKERD_LISTEN"?`}; !reflect.DeepEqual(e.warnings, want) {
		t.Errorf("warnings: %q", e.warnings)
	}
	e, err = resolved(t, nil, []string{"BROKERD_DATAFLOWS=a.yml:/b.yml"})
	if err != nil || !reflect.DeepEqual(e.Dataflows, []string{"a.yml", "/b.yml"}) {
		t.Errorf("%v, %v", e, err)
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "brokerd.yaml")
	writeFile(t, file, "log_level: warn\n")
	e, err := resolved(t, nil, []string{"BROKERD_CONFIG=" + file})
	if err != nil || e.LogLevel != "warn" {
		t.Errorf("%v, %v", e, err)
	}
}

func TestConfigFileProblemsGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		_, err := resolved(t, []string{"--config", file}, nil)
		text := "valid\n"
		if err != nil {
			text = err.Error() + "\n"
		}
		golden(t, "config/"+strings.TrimSuffix(filepath.Base(file), ".yaml")+".golden", text)
	}
}

func TestConfigFileTooLong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "brokerd.yaml")
	if err := os.WriteFile(file, make([]byte, configBytesMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resolved(t, []string{"--config", file}, nil); err == nil || !strings.Contains(err.Error(), "longer than 64KiB") {
		t.Errorf("error: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "17": 17, "1KiB": 1024, "1.5 GiB": 3 << 29, "2kB": 2000, "3 MB": 3e6, "64MiB": 64 << 20, "12B": 12, "1TiB": 1 << 40,
	} {
		if n, err := parseBytes(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "-1", "1.5", "x", "MiB", "1 XB", "NaNMiB", "InfGiB", "9999999999999TiB", "99999999999999999999", "1e300TiB"} {
		if n, err := parseBytes(text); err == nil {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, math.MaxInt64).Draw(t, "n") >> rapid.IntRange(0, 62).Draw(t, "shift") << rapid.SampledFrom([]int{0, 10, 20}).Draw(t, "unit")
		if n > math.MaxInt64 {
			return
		}
		if back, err := parseBytes(formatBytes(n)); err != nil || back != n {
			t.Fatalf("%d is written %q and read %d, %v", n, formatBytes(n), back, err)
		}
	})
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:7447": true, "127.8.9.1:1": true, "[::1]:1": true, "localhost:1": true,
		"0.0.0.0:1": false, ":7447": false, "[::]:1": false, "192.168.0.1:1": false, "example.org:1": false, "localhost.example.org:1": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"listen", "log_level", "dataflows"}
	for word, want := range map[string]string{"listn": "listen", "dataflow": "dataflows", "loglevel": "log_level", "zzz": "", "": ""} {
		if got := nearest(word, known); got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
}

// The table of limits has every setting that is one.
func TestLimitsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Limits\n")
	table, _, _ = strings.Cut(table, "\n## ")
	s := defaultSettings()
	for _, o := range s.options() {
		switch o.value.kind() {
		case "N", "SIZE", "DURATION":
			if !strings.Contains(table, "\n| `"+o.key+"` | ") {
				t.Errorf("%s is not in the table of limits", o.key)
			}
		}
	}
}
