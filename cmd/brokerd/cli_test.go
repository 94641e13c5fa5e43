package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

func TestExitStatusAndText(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "empty-token")
	writeFile(t, token, " \n")
	everybodys := filepath.Join(dir, "everybodys-token")
	writeFile(t, everybodys, "0123456789abcdef")
	if err := os.Chmod(everybodys, 0o666); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good-token")
	writeFile(t, good, "0123456789abcdef")
	for name, c := range map[string]struct {
		args []string
		code int
		err  string // part of stderr
	}{
		"version":            {[]string{"version"}, 0, ""},
		"help":               {[]string{"--help"}, 0, ""},
		"config":             {[]string{"config"}, 0, ""},
		"unknown flag":       {[]string{"--lisen", "x"}, 2, "unknown flag: --lisen"},
		"unknown command":    {[]string{"chek"}, 2, `did you mean "check"?`},
		"argument too many":  {[]string{"version", "x"}, 2, "takes no arguments"},
		"no file to check":   {[]string{"check"}, 2, "at least one dataflow file"},
		"not an address":     {[]string{"--listen", "here"}, 2, "host:port"},
		"port out of range":  {[]string{"--listen", "127.0.0.1:70000"}, 2, "between 0 and 65535"},
		"not a size":         {[]string{"--shm-limit", "much"}, 2, "64MiB"},
		"not a format":       {[]string{"--log-format", "jsn"}, 2, `did you mean "json"?`},
		"not an output form": {[]string{"config", "-o", "xml"}, 2, "text, json"},
		"open to the world":  {[]string{"--listen", "0.0.0.0:0"}, 78, "--tls-cert FILE --tls-key FILE and --auth-token-file FILE (or --tls-client-ca FILE), or --insecure"},
		"token in the clear": {[]string{"--listen", "0.0.0.0:0", "--auth-token-file", good}, 78, "give --tls-cert FILE --tls-key FILE, or --insecure"},
		"key without cert":   {[]string{"--tls-key", token}, 78, "tls_cert: it is not set"},
		"cert without key":   {[]string{"--tls-cert", token}, 78, "tls_key: it is not set"},
		"no certificate":     {[]string{"--tls-cert", token, "--tls-key", token}, 78, "tls_cert, tls_key: "},
		"a name to resolve":  {[]string{"--listen", "example.org:7447"}, 78, "other machines"},
		"no such config":     {[]string{"--config", filepath.Join(dir, "none.yaml")}, 78, "no such file"},
		"no such dataflow":   {[]string{"--dataflow", filepath.Join(dir, "none.yml")}, 78, "no such file"},
		"empty token":        {[]string{"--auth-token-file", token}, 78, "is empty"},
		"everybody's token":  {[]string{"--auth-token-file", everybodys}, 78, "anybody can replace the token"},
		"quota over limit":   {[]string{"--shm-limit", "1MiB", "--shm-node-limit", "2MiB", "--shm-cache", "0"}, 78, "shm_node_limit"},
		"group without mode": {[]string{"--shm-group", "0"}, 78, "shm_mode 0660"},
		"no such group":      {[]string{"--shm-group", "no-such-group", "--shm-mode", "0660"}, 78, "no-such-group"},
		"inline over frame":  {[]string{"--inline-max", "1GiB"}, 78, "inline_max"},
		"wrong file":         {[]string{"check", "testdata/check/wrong.yml"}, 78, "1 of 1 files wrong"},
		"wrong dataflow":     {[]string{"--dataflow", "testdata/check/wrong.yml"}, 78, "testdata/check/wrong.yml:"},
		"same name twice":    {[]string{"--dataflow", "testdata/check/good.yml", "--dataflow", "testdata/check/good.yml"}, 78, "is already in"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(c.args...)
			if code != c.code {
				t.Errorf("exit status %d, want %d; stderr: %s", code, c.code, stderr)
			}
			if !strings.Contains(stderr, c.err) {
				t.Errorf("stderr does not say %q: %s", c.err, stderr)
			}
			if c.code == 0 && (stderr != "" || stdout == "") {
				t.Errorf("stdout %q, stderr %q", stdout, stderr)
			}
		})
	}
}

// Every setting has to be found in --help by all of its names.
func TestHelpNamesEverySetting(t *testing.T) {
	_, help, _ := command("--help")
	var s settings
	for _, o := range s.options() {
		for _, name := range []string{"--" + o.flag() + " ", o.env() + " ", " " + o.key + ": "} {
			if !strings.Contains(help, name) {
				t.Errorf("--help lacks %q", name)
			}
		}
	}
	if _, help, _ := command("check", "--help"); strings.Contains(help, "BROKERD_LISTEN") {
		t.Error("check has no settings and lists them all the same")
	}
}

func TestCheckGolden(t *testing.T) {
	files := []string{"testdata/check/good.yml", "testdata/check/wrong.yml", "testdata/check/odd.yml"}
	code, text, _ := command(append([]string{"check"}, files...)...)
	if code != cli.ExitConfig {
		t.Errorf("exit status %d", code)
	}
	golden(t, "check/text.golden", text)
	code, text, stderr := command(append([]string{"check", "-o", "json"}, files...)...)
	if code != cli.ExitConfig || stderr != "" {
		t.Errorf("exit status %d, stderr %q", code, stderr)
	}
	golden(t, "check/json.golden", text)
}

func TestCheckStrict(t *testing.T) {
	if code, out, _ := command("check", "testdata/check/odd.yml"); code != cli.ExitOK || !strings.Contains(out, "warning") {
		t.Errorf("exit status %d: %s", code, out)
	}
	if code, out, _ := command("check", "--strict", "testdata/check/odd.yml"); code != cli.ExitConfig {
		t.Errorf("exit status %d with --strict: %s", code, out)
	}
}

func TestCheckFindsNamesUsedTwice(t *testing.T) {
	dir := t.TempDir()
	good, err := os.ReadFile("testdata/check/good.yml")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, sub := range []string{"a", "b"} {
		file := filepath.Join(dir, sub, "flow.yml")
		if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, string(good))
		files = append(files, file)
	}
	code, out, _ := command("check", files[0], files[1])
	if code != cli.ExitConfig || !strings.Contains(out, files[1]+": dataflow ") || !strings.Contains(out, "is already in "+files[0]) {
		t.Errorf("exit status %d: %s", code, out)
	}
}

func TestConfigOutputIsAConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "brokerd.yaml")
	args := []string{"config", "--listen", "[::1]:0", "--dataflow", filepath.Join(dir, "a b.yml"), "--dataflow", "/c.yml",
		"--http", "", "--shm-mode", "0660", "--shm-group", "0", "--log-level", "debug", "--heartbeat", "1m30s"}
	_, first, stderr := command(args...)
	writeFile(t, file, first)
	code, second, stderr2 := command("config", "--config", file)
	if code != cli.ExitOK {
		t.Fatalf("%s%s%s", stderr, stderr2, first)
	}
	if values(first) != values(second) {
		t.Errorf("values differ:\n%s\n%s", first, second)
	}
	if !strings.Contains(second, "# file "+file+":1") {
		t.Errorf("no origin: %s", second)
	}
}

// values leaves the origins out.
func values(config string) string {
	var b strings.Builder
	for line := range strings.Lines(config) {
		value, _, _ := strings.Cut(line, " #")
		b.WriteString(strings.TrimSpace(value) + "\n")
	}
	return b.String()
}

func TestConfigJSON(t *testing.T) {
	t.Setenv("BROKERD_CONNECTIONS_MAX", "7")
	_, text, _ := command("config", "-o", "json", "--insecure", "--dataflow", "x.yml")
	var entries []struct {
		Key    string
		Value  any
		Origin string
	}
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		t.Fatal(err)
	}
	found := map[string]any{}
	origin := map[string]string{}
	for _, e := range entries {
		found[e.Key], origin[e.Key] = e.Value, e.Origin
	}
	if found["connections_max"] != 7.0 || origin["connections_max"] != "environment BROKERD_CONNECTIONS_MAX" {
		t.Errorf("connections_max: %v from %q", found["connections_max"], origin["connections_max"])
	}
	if found["insecure"] != true || origin["insecure"] != "flag --insecure" {
		t.Errorf("insecure: %v from %q", found["insecure"], origin["insecure"])
	}
	if list, ok := found["dataflows"].([]any); !ok || len(list) != 1 || origin["dataflows"] != "flag --dataflow" {
		t.Errorf("dataflows: %v from %q", found["dataflows"], origin["dataflows"])
	}
	if origin["listen"] != "default" {
		t.Errorf("listen from %q", origin["listen"])
	}
}
