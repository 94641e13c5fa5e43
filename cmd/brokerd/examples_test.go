package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// Whoever types an example of the help gets what it says, if the files are there.
func TestHelpExamples(t *testing.T) {
	installed, err := os.ReadFile("systemd/brokerd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	writeFile(t, "brokerd.yaml", string(installed))
	writeFile(t, "token", "0123456789abcdef0123456789abcdef")
	for _, file := range []string{"camera.yml", "lidar.yml"} {
		writeFile(t, file, "nodes:\n  - {id: a, path: ./a, outputs: [x]}\n  - {id: b, path: ./b, inputs: {y: a/x}}\n")
	}
	writeCertificate(t, "cert.pem", "key.pem")
	examples := cli.Examples(newRootCommand())
	if len(examples) < 10 {
		t.Errorf("only %d examples", len(examples))
	}
	for _, example := range examples {
		t.Run(example.Line, func(t *testing.T) {
			for _, variable := range example.Environ {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			checkExample(t, example)
		})
	}
}

func checkExample(t *testing.T, example cli.Example) {
	t.Helper()
	if example.Args == nil {
		t.Fatal("it does not call brokerd")
	}
	var args []string
	for _, arg := range example.Args {
		files, err := filepath.Glob(arg)
		if err != nil || !strings.Contains(arg, "*") {
			files = []string{strings.TrimPrefix(arg, "/etc/brokerd/")}
		}
		args = append(args, files...)
	}
	found, rest, err := newRootCommand().Find(args)
	if err == nil {
		err = found.ParseFlags(rest)
	}
	if err == nil {
		err = found.ValidateArgs(found.Flags().Args())
	}
	if err != nil {
		t.Fatal(err)
	}
	switch found.Name() {
	case "config", "check", "version": // they start nothing
		if code, _, stderr := command(args...); code != cli.ExitOK || stderr != "" {
			t.Errorf("exit status %d: %s", code, stderr)
		}
	case "brokerd", "serve":
		e, err := resolved(t, rest, os.Environ())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.brokerConfig(); err != nil {
			t.Error(err)
		}
		if _, _, err := loadFlows(e.Dataflows, e.Strict); err != nil {
			t.Error(err)
		}
	}
}

// writeCertificate makes a certificate that is signed by itself, and its key.
func writeCertificate(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(30 * 24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}
