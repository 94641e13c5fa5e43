package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// tool finds a program that not every machine has.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not here", name)
	}
	return path
}

func TestUnitVerifies(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	unit, err := os.ReadFile("systemd/brokerd.service")
	if err != nil {
		t.Fatal(err)
	}
	// The tool wants the program to exist; ours is not installed.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(unit), "/usr/bin/brokerd", self, 1)
	if text == string(unit) {
		t.Fatal("the unit starts another program")
	}
	file := filepath.Join(t.TempDir(), "brokerd.service")
	writeFile(t, file, text)
	out, err := exec.CommandContext(t.Context(), analyze, "verify", file).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// The unit and the program must agree on what they tell each other.
func TestUnitMatchesProgram(t *testing.T) {
	unit, err := os.ReadFile("systemd/brokerd.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Type=notify\n", "NotifyAccess=main\n", "WatchdogSec=", "RestartPreventExitStatus=78\n", "ExecReload=/bin/kill -HUP $MAINPID\n",
		"ExecStart=/usr/bin/brokerd --config /etc/brokerd/brokerd.yaml\n",
	} {
		if !strings.Contains(string(unit), "\n"+line) {
			t.Errorf("the unit lacks %q", line)
		}
	}
	for _, line := range []string{"PrivateIPC=", "PrivateDevices=", "InaccessiblePaths=/dev", "TemporaryFileSystem=/dev"} {
		if strings.Contains(string(unit), "\n"+line) {
			t.Errorf("%s hides /dev/shm from the nodes", line)
		}
	}
}

func TestShippedConfigurationIsValid(t *testing.T) {
	if code, _, stderr := command("config", "--config", "systemd/brokerd.yaml"); code != cli.ExitOK {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	// With every line of it that is commented out: except the token file, which
	// the administrator writes, and the user's own dataflow and group.
	text, err := os.ReadFile("systemd/brokerd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		setting, commented := strings.CutPrefix(line, "#")
		key, _, _ := strings.Cut(setting, ":")
		if commented && !strings.HasPrefix(setting, " ") && key != "listen" && key != "auth_token_file" && !strings.HasPrefix(key, "tls_") && key != "shm_group" {
			lines = append(lines, setting)
		}
	}
	if len(lines) < 3 {
		t.Fatalf("few settings are left: %q", lines)
	}
	file := filepath.Join(t.TempDir(), "brokerd.yaml")
	writeFile(t, file, strings.Join(lines, ""))
	if code, _, stderr := command("config", "--config", file); code != cli.ExitOK {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

// The snippets are read by the tools that will read them, below a root of their
// own.
func TestSnippetsAreRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files to users")
	}
	sysusers, tmpfiles := tool(t, "systemd-sysusers"), tool(t, "systemd-tmpfiles")
	root := t.TempDir()
	for dir, file := range map[string]string{"sysusers.d": "systemd/brokerd.sysusers.conf", "tmpfiles.d": "systemd/brokerd.tmpfiles.conf"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(root, "usr/lib", dir, "brokerd.conf")
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, target, string(text))
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{sysusers, "--root=" + root}, {tmpfiles, "--root=" + root, "--create"}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil || strings.Contains(string(out), "brokerd.conf:") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if passwd, err := os.ReadFile(filepath.Join(root, "etc/passwd")); err != nil || !strings.Contains(string(passwd), "brokerd:") {
		t.Errorf("no user: %v\n%s", err, passwd)
	}
	if info, err := os.Stat(filepath.Join(root, "etc/brokerd")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("no directory: %v, %v", info, err)
	}
}
