package bus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"grout/integration/natsnode"
)

// certificate writes a certificate for loopback and clients that signs itself.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private := must1(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "grout test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der := must1(x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private))(t)
	bytes := must1(x509.MarshalPKCS8PrivateKey(private))(t)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes}), 0o600))
	return cert, key
}

// grout comes in over TLS with its own certificate, with an NKey, and with a password
// from a file that changes.
func TestClusterSecure(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	pair := must1(nkeys.CreateUser())(t)
	public, seed := must1(pair.PublicKey())(t), must1(pair.Seed())(t)
	seedFile := filepath.Join(dir, "seed")
	must(t, os.WriteFile(seedFile, seed, 0o600))
	c := startCluster(t, natsnode.Options{
		More:   fmt.Sprintf("\ntls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", cert, key, cert),
		Client: []nats.Option{nats.RootCAs(cert), nats.ClientCert(cert, key)},
		Accounts: func(text string) string {
			return strings.Replace(text, "{user: grout, password: $grout_password}", "{user: grout, password: $grout_password}\n      {nkey: "+public+"}", 1)
		},
	})
	urls := strings.Split(strings.ReplaceAll(c.URLs(), "nats://", "tls://"), ",")
	secure := ExternalOptions{URLs: urls, CAFile: cert, CertFile: cert, KeyFile: key}

	withKey := secure
	withKey.NKeyFile = seedFile
	openBus(t, connectExternal(t, withKey), clusterConfig())

	file := filepath.Join(dir, "password")
	must(t, os.WriteFile(file, []byte(c.Passwords.Grout+"\n"), 0o600))
	withFile := secure
	withFile.User, withFile.PasswordFile = userGrout, file
	nc := connectExternal(t, withFile)
	must(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	must(t, nc.ForceReconnect())
	eventually(t, "the connection is lost with another password", func() bool { return !nc.IsConnected() })
	must(t, os.WriteFile(file, []byte(c.Passwords.Grout+"\n"), 0o600))
	eventually(t, "the connection is back with the right one", nc.IsConnected)

	for what, o := range map[string]ExternalOptions{
		"no certificate of its own": {URLs: urls, CAFile: cert, NKeyFile: seedFile},
		"an unknown authority":      {URLs: urls, CertFile: cert, KeyFile: key, NKeyFile: seedFile},
		"nobody":                    secure,
	} {
		if nc, err := ConnectExternal(o, t.Name()); err == nil {
			nc.Close()
			t.Errorf("%s: let in", what)
		} else if strings.Contains(err.Error(), string(seed)) {
			t.Errorf("%s: the error shows the seed", what)
		}
	}
	missing := secure
	missing.User, missing.PasswordFile = userGrout, filepath.Join(dir, "none")
	if _, err := ConnectExternal(missing, t.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a password file that is not there: %v", err)
	}
}
