package broker

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/brokerd/brokerd/wire"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// certificate is one for 127.0.0.1, or for a client of that name.
func (a *authority) certificate(name string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secret is a broker that speaks TLS only, and the authority behind it.
func secret(t testing.TB, change func(*Config)) (*testBroker, *authority) {
	a := newAuthority(t)
	return startBroker(t, func(cfg *Config) {
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{a.certificate("broker")}}
		if change != nil {
			change(cfg)
		}
	}), a
}

// dialTLS returns an error of the handshake, or of the first read if nothing else
// shows it.
func (tb *testBroker) dialTLS(config *tls.Config) (*peer, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", tb.addr, config)
	if err != nil {
		return nil, err
	}
	tb.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &peer{Conn: conn, t: tb.t, dec: wire.NewDecoder()}, nil
}

func (tb *testBroker) joinTLS(node string, a *authority) *peer {
	tb.t.Helper()
	p, err := tb.dialTLS(&tls.Config{RootCAs: a.pool})
	if err != nil {
		tb.t.Fatal(err)
	}
	p.send(hello(node), &wire.Attach{})
	until[*wire.Ports](p)
	return p
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}

// Everything works as without TLS: messages of all lengths, last words, the end of
// either side; and nothing is left of a connection.
func TestTLS(t *testing.T) {
	tb, a := secret(t, nil)
	before := openFiles(t)
	camera, sink := tb.joinTLS("camera", a), tb.joinTLS("sink", a)
	sink.send(&wire.Next{Limit: 100})
	for i, size := range []int{0, 1, 5000, 100_000, 3 << 20, 40 << 20} {
		payload := bytes.Repeat([]byte{byte(size + 1)}, size)
		camera.send(&wire.Publish{Seq: wire.Seq(i + 1), TimeNS: time.Now().UnixNano(), Length: uint64(size), Payload: payload})
		item := until[*wire.Inputs](sink).Items[0]
		if item.Length != uint64(size) || !bytes.Equal(item.Payload, payload) {
			t.Fatalf("%d bytes came out as %d", size, len(item.Payload))
		}
		sink.send(&wire.Next{Limit: 100, Consumed: uint64(i + 1)})
	}
	camera.send(&wire.Publish{Output: 9, Seq: 1})
	if e := camera.refusal(); e.Code != wire.CodeNotYours {
		t.Errorf("refused with %v", e)
	}
	if state := camera.Conn.(*tls.Conn).ConnectionState(); state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	eventually(t, "the refusal is logged", func() bool { return len(tb.linesWith("code", "not_yours")) > 0 })
	line := tb.linesWith("code", "not_yours")[0].ContextMap()
	if line["remote_addr"] != camera.LocalAddr().String() {
		t.Errorf("logged as %v", line["remote_addr"])
	}
	sink.Close()
	camera.Close()
	eventually(t, "the nodes are gone", func() bool { return tb.running().srv.count() == 0 && !tb.nodeConnected("sink") })
	eventually(t, "their descriptors are free", func() bool { return openFiles(t) <= before })
}

// What is not TLS of this broker's kind does not come in, and is logged.
func TestTLSRefuses(t *testing.T) {
	tb, a := secret(t, func(cfg *Config) { cfg.HandshakeTimeout = time.Second })
	stranger := newAuthority(t)
	for name, config := range map[string]*tls.Config{
		"old version":       {RootCAs: a.pool, MaxVersion: tls.VersionTLS12},
		"another authority": {RootCAs: stranger.pool},
		"another name":      {RootCAs: a.pool, ServerName: "example.org"},
	} {
		if p, err := tb.dialTLS(config); err == nil {
			t.Errorf("%s: came in as %v", name, p.LocalAddr())
		}
	}
	plain := tb.dial()
	plain.send(hello("camera"))
	if e := plain.refusal(); e.Code != wire.CodeProtocol || !strings.Contains(e.Text, "TLS") {
		t.Errorf("who speaks in the clear is told %v", e)
	}
	silent := tb.dial()
	if n, err := silent.Read(make([]byte, 1)); n != 0 || errors.Is(err, errTimeoutOf(err)) {
		t.Errorf("who says nothing: %d bytes, %v", n, err)
	}
	eventually(t, "all of it is logged", func() bool { return len(tb.linesWith("code", "tls")) >= 5 })
	tb.joinTLS("camera", a)
	if n := tb.connectionCounters().TLSFailures; n < 5 {
		t.Errorf("%d failures counted", n)
	}
}

// With client certificates nobody comes in without one; that takes the place of a
// token.
func TestClientCertificates(t *testing.T) {
	clients := newAuthority(t)
	tb, a := secret(t, func(cfg *Config) {
		cfg.Listen = "0.0.0.0:0"
		cfg.TLS.ClientAuth, cfg.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients.pool
	})
	_, port, _ := net.SplitHostPort(tb.addr)
	tb.addr = net.JoinHostPort("127.0.0.1", port)
	for name, certificates := range map[string][]tls.Certificate{
		"no certificate": nil, "another authority's": {a.certificate("camera")},
	} {
		p, err := tb.dialTLS(&tls.Config{RootCAs: a.pool, Certificates: certificates})
		if err != nil {
			continue
		}
		// In TLS 1.3 a client learns of it when it reads.
		if _, err := p.Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeoutOf(err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := tb.dialTLS(&tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{clients.certificate("camera")}})
	if err != nil {
		t.Fatal(err)
	}
	p.send(hello("camera"), &wire.Attach{})
	until[*wire.Ports](p)
}

// Handshakes that do not end hold nobody up; a full broker says so through TLS; who
// does not read is cut off.
func TestTLSLimits(t *testing.T) {
	tb, a := secret(t, func(cfg *Config) {
		cfg.ConnectionsMax, cfg.OutboundBytesMax, cfg.HandshakeTimeout = 3, 1<<20, 30*time.Second
	})
	for range tlsHandshakesMax + 20 {
		tb.dial()
	}
	var camera *peer
	eventually(t, "one that says something comes in", func() bool {
		p, err := tb.dialTLS(&tls.Config{RootCAs: a.pool})
		if err != nil {
			return false
		}
		p.send(hello("camera"), &wire.Attach{})
		until[*wire.Ports](p)
		camera = p
		return true
	})
	sink := tb.joinTLS("sink", a)
	third, err := tb.dialTLS(&tls.Config{RootCAs: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	third.send(controlHello(), &wire.Attach{})
	until[*wire.Ready](third)
	fourth, err := tb.dialTLS(&tls.Config{RootCAs: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	if e := fourth.refusal(); e.Code != wire.CodeTooManyConnections {
		t.Errorf("refused with %v", e)
	}
	var pings []byte
	for nonce := range uint64(10_000) {
		pings = wire.NewEncoder().Append(pings, &wire.Ping{Nonce: nonce})
	}
	for sent := 0; sent < 1<<30; sent += len(pings) {
		if _, err := sink.Write(pings); err != nil {
			break
		}
	}
	eventually(t, "the cut is logged", func() bool { return len(tb.linesWith("code", "slow_connection")) == 1 })
	eventually(t, "the slow one is gone", func() bool { return !tb.nodeConnected("sink") })
	camera.send(&wire.Ping{Nonce: 1})
	until[*wire.Pong](camera)
}

// Certificates are renewed without a connection noticing.
func TestRenewCertificates(t *testing.T) {
	tb, a := secret(t, nil)
	camera := tb.joinTLS("camera", a)
	b := newAuthority(t)
	if err := tb.Renew(Credentials{TLS: &tls.Config{Certificates: []tls.Certificate{b.certificate("broker")}}}); err != nil {
		t.Fatal(err)
	}
	tb.joinTLS("sink", b)
	if _, err := tb.dialTLS(&tls.Config{RootCAs: a.pool}); err == nil {
		t.Error("the old certificate is still in use")
	}
	camera.send(&wire.Ping{Nonce: 1})
	until[*wire.Pong](camera)
	for want, c := range map[string]Credentials{
		"switched on or off": {}, "no certificate": {TLS: &tls.Config{}}, "auth token": {TLS: tb.cfg.TLS, AuthToken: make([]byte, 2000)},
	} {
		if err := tb.Renew(c); !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
