//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brokerd/brokerd/node/control"
	"github.com/brokerd/brokerd/wire"
)

// credentials writes a certificate for this machine, signed by itself, and its key.
func credentials(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "brokerd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, pool = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool.AppendCertsFromPEM(certPEM)
	for file, text := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, pool
}

// With TLS all is as without: lanes between local nodes, everything inline for
// remote ones, and a broker that is killed and comes back.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key, pool := credentials(t, dir)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := prepare(t, mixedFlow, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert, "--auth-token-file", token)
	w.lanes, w.regionFiles = true, 2
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	w.control = control.Config{
		AuthToken: []byte("0123456789abcdef0123456789abcdef"),
		TLS:       &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	}
	w.startBroker("127.0.0.1:0")
	env := []string{"BROKERD_AUTH_TOKEN_FILE=" + token, "BROKERD_TLS_CA=" + cert, "BROKERD_TLS_CLIENT_CERT=" + cert, "BROKERD_TLS_CLIENT_KEY=" + key}
	source := w.start("source", program{}, env...)
	receivers := []*child{
		w.start("near", program{Receive: true, Keep: 2}, env...),
		w.start("old", program{Receive: true, Keep: 2}, append(env, noLanes)...),
		w.start("far", program{Receive: true, Keep: 2}, append(env, remote)...),
	}
	source.do(order{Do: "await", Output: "frames", Count: 3})
	w.onLanes("near/frames")
	const messages = 300
	source.send(order{Output: "frames", Sizes: []int{100, 5000, 1 << 20}, Count: messages})
	w.eventually("all messages", func(s wire.Status) error {
		for _, c := range receivers {
			if e := edgeTo(t, s, c.id+"/frames"); e.Delivered != messages || e.Dropped != 0 {
				return fmt.Errorf("%s: %+v", c.id, e)
			}
		}
		return nil
	})
	for _, e := range w.status().Edges {
		t.Logf("%s→%s: %s", e.From, e.To, e.Path)
	}
	// Who does not speak TLS, or has no certificate, gets nothing.
	for _, wrong := range [][]string{
		{env[0]}, {env[0], env[1]}, env[1:],
	} {
		c := w.launchNode("near", program{}, wrong...)
		if a := c.first(); a.Ready || a.Error == "" {
			t.Errorf("with %d of %d credentials: %+v", len(wrong), len(env), a)
		} else {
			t.Logf("with %d of %d credentials: %s", len(wrong), len(env), a.Error)
		}
		<-c.done
		w.nodes = w.nodes[:len(w.nodes)-1]
	}
	// A certificate in its place, by SIGHUP; then a broker that is killed.
	seen := w.broker.log.len()
	w.signal(syscall.SIGHUP)
	w.broker.log.await(t, seen, "reloaded")
	for _, e := range w.broker.log.all(seen) {
		if strings.Contains(e.msg(), "refused") && !strings.Contains(e.msg(), "connection refused") {
			t.Errorf("%s", e.raw)
		}
	}
	addr := w.broker.addr
	w.crash()
	w.startBroker(addr)
	source.do(order{Do: "await", Output: "frames", Count: 3})
	source.send(order{Output: "frames", Sizes: []int{100, 5000, 1 << 20}, Count: messages})
	w.eventually("messages after the restart", func(s wire.Status) error {
		for _, c := range receivers {
			in := c.report().Inputs["frames"]
			if in == nil || in.Lives[0].Count < 2*messages {
				return errors.New(c.id + " waits")
			}
		}
		return nil
	})
}
