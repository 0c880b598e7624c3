package bus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// authority signs certificates of tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), dir: t.TempDir()}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must1(x509.CreateCertificate(rand.Reader, c, c, &a.key.PublicKey, a.key))(t)
	a.cert = must1(x509.ParseCertificate(der))(t)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// issue makes a certificate; its files are named so that another one replaces it.
func (a *authority) issue(t *testing.T, name string, serial int64, ends time.Time) TLSFiles {
	t.Helper()
	key := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der := must1(x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key))(t)
	return TLSFiles{
		Cert: a.write(t, name+".pem", "CERTIFICATE", der), Key: a.write(t, name+".key", "PRIVATE KEY", must1(x509.MarshalPKCS8PrivateKey(key))(t)),
		CA: filepath.Join(a.dir, "ca.pem"),
	}
}

func (a *authority) trusted() nats.Option { return nats.RootCAs(filepath.Join(a.dir, "ca.pem")) }

func TestTLS(t *testing.T) {
	a, other := newAuthority(t, "ours"), newAuthority(t, "others'")
	soon := time.Now().Add(time.Hour)
	files := a.issue(t, "server", 2, soon)
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", WebSocket: "127.0.0.1:0", Doors: testDoors(), TLS: files}))(t)
	defer s.Shutdown()
	openBus(t, connect(t, s), smallConfig()) // grout itself is inside
	who := nats.UserInfo(userConsumer, consumerPassword)
	for _, url := range []string{s.ClientURL(), s.WebSocketURL()} {
		nc, _, err := enter(t, url, who, a.trusted())
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if state, err := nc.TLSConnectionState(); url == s.ClientURL() && (err != nil || state.Version < tls.VersionTLS12) {
			t.Errorf("%s: %+v, %v", url, state, err)
		}
		if _, _, err := enter(t, url, who, other.trusted()); err == nil {
			t.Errorf("%s: a client believes another authority", url)
		}
		if _, _, err := enter(t, url, who, nats.Secure(&tls.Config{MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true})); err == nil {
			t.Errorf("%s: TLS 1.1", url)
		}
	}
	beside := must1(files.Beside())(t)
	nc := must1(ConnectAdmin(s.ClientURL(), adminPassword, "test", beside...))(t)
	nc.Close()

	// Another certificate is used for who comes next; who is in stays.
	stays, _, err := enter(t, s.ClientURL(), who, a.trusted())
	must(t, err)
	if changed, err := s.ReloadTLS(); changed || err != nil {
		t.Errorf("nothing has changed: %v, %v", changed, err)
	}
	a.issue(t, "server", 3, soon)
	if changed, err := s.ReloadTLS(); !changed || err != nil {
		t.Errorf("%v, %v", changed, err)
	}
	nc, _, err = enter(t, s.ClientURL(), who, a.trusted())
	must(t, err)
	if state := must1(nc.TLSConnectionState())(t); state.PeerCertificates[0].SerialNumber.Int64() != 3 {
		t.Errorf("certificate %v is in use", state.PeerCertificates[0].SerialNumber)
	}
	must(t, stays.FlushTimeout(patience))

	// What cannot be used is not.
	for what, breakIt := range map[string]func(){
		"another's key": func() {
			must(t, os.WriteFile(files.Key, must1(os.ReadFile(other.issue(t, "x", 4, soon).Key))(t), 0o600))
		},
		"no text":      func() { must(t, os.WriteFile(files.Cert, nil, 0o600)) },
		"it has ended": func() { a.issue(t, "server", 5, time.Now().Add(-time.Minute)) },
		"gone":         func() { must(t, os.Remove(files.Cert)) },
	} {
		breakIt()
		if changed, err := s.ReloadTLS(); changed || err == nil {
			t.Errorf("%s: %v, %v", what, changed, err)
		}
		if _, _, err := enter(t, s.ClientURL(), who, a.trusted()); err != nil {
			t.Errorf("%s: the last one is not in use: %v", what, err)
		}
		a.issue(t, "server", 6, soon)
		must1(s.ReloadTLS())(t)
	}
}

func TestTLSVerifiesClients(t *testing.T) {
	a, other := newAuthority(t, "ours"), newAuthority(t, "others'")
	soon := time.Now().Add(time.Hour)
	files := a.issue(t, "server", 2, soon)
	files.Verify = true
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: testDoors(), TLS: files}))(t)
	defer s.Shutdown()
	who := nats.UserInfo(userConsumer, consumerPassword)
	good, foreign := a.issue(t, "client", 3, soon), other.issue(t, "client", 3, soon)
	if _, _, err := enter(t, s.ClientURL(), who, a.trusted(), nats.ClientCert(good.Cert, good.Key)); err != nil {
		t.Error(err)
	}
	for what, opts := range map[string][]nats.Option{
		"none":              {who, a.trusted()},
		"another authority": {who, a.trusted(), nats.ClientCert(foreign.Cert, foreign.Key)},
		"no password":       {a.trusted(), nats.ClientCert(good.Cert, good.Key)},
	} {
		if _, _, err := enter(t, s.ClientURL(), opts...); err == nil {
			t.Errorf("%s: let in", what)
		}
	}
	nc := must1(ConnectAdmin(s.ClientURL(), adminPassword, "test", must1(files.Beside())(t)...))(t)
	nc.Close()
}

func TestTLSFilesAreJudged(t *testing.T) {
	a := newAuthority(t, "ours")
	sound := a.issue(t, "server", 2, time.Now().Add(time.Hour))
	for what, files := range map[string]TLSFiles{
		"no key":             {Cert: sound.Cert},
		"no certificate":     {Key: sound.Key},
		"nobody to verify":   {Cert: sound.Cert, Key: sound.Key, Verify: true},
		"missing file":       {Cert: sound.Cert + "x", Key: sound.Key},
		"a directory":        {Cert: a.dir, Key: sound.Key},
		"no authority":       {Cert: sound.Cert, Key: sound.Key, CA: sound.Key},
		"key of another one": {Cert: sound.Cert, Key: a.issue(t, "x", 3, time.Now().Add(time.Hour)).Key},
	} {
		if s, err := StartServer(ServerOptions{Dir: t.TempDir(), TLS: files}); err == nil {
			s.Shutdown()
			t.Errorf("%s: started", what)
		}
	}
}
