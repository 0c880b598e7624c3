package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"grout/integration/process"
	"grout/schemas"
)

// selfSigned writes a certificate for loopback, and its key.
func selfSigned(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "grout"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &pair.PublicKey, pair)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
	return cert, key
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wild publishes a subject that no stream can rename: the server takes it, and its outcome
// is a dead letter.
func wild(t *testing.T, enter func(user, password string) (*nats.Conn, error), data string) {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(data, "secrets", "nats_admin_password"))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := enter("platform", "first")
	if err != nil {
		t.Fatal(err)
	}
	ac, err := enter("admin", strings.TrimSpace(string(password)))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := pc.Request("mozaiks.v1.cmd.dev_app.usage.*", []byte(`{}`), 10*time.Second); err != nil || !strings.Contains(string(m.Data), `"stream"`) {
		t.Fatalf("%v, %v", m, err)
	}
	for limit := time.Now().Add(20 * time.Second); ; {
		m, err := ac.Request("$JS.API.STREAM.MSG.GET.MOZAIKS_DLQ", []byte(`{"last_by_subj":"mozaiks.v1.dlq.>"}`), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Message struct{ Data []byte } }
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(answer.Message.Data), "mozaiks.v1.from.platform.dev_app.usage.*") {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("no dead letter: %s", m.Data)
		}
	}
}

// A process with TLS and passwords from files: a signal brings new ones, no terminal ends
// it, and grout's own tools get in beside it.
func TestDoorsOfAProcess(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir, 1)
	password, data := filepath.Join(dir, "platform"), filepath.Join(dir, "data")
	writeFile(t, password, []byte("first\n"))
	files := []string{"MOZAIKS_NATS_TLS_CERT=" + cert, "MOZAIKS_NATS_TLS_KEY=" + key}
	var out strings.Builder
	p, err := process.Start(t.Context(), process.Options{
		Binary: grout, Data: data, GenerateSecrets: true, Stdout: &out,
		Env: append([]string{"MOZAIKS_NATS_PLATFORM_PASSWORD_FILE=" + password, `MOZAIKS_NATS_PUBLISHERS={"meter":{"password":"m","apps":["dev_app"]}}`}, files...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	enter := func(user, password string) (*nats.Conn, error) {
		nc, err := nats.Connect(p.NATS, nats.UserInfo(user, password), nats.RootCAs(cert), nats.MaxReconnects(0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err == nil {
			t.Cleanup(nc.Close)
		}
		return nc, err
	}
	for user, password := range map[string]string{"platform": "first", "meter": "m"} {
		nc, err := enter(user, password)
		if err != nil {
			t.Fatal(err)
		}
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(schemas.CommandSubject("dev_app", "usage.ingest"), []byte(`{"events":[]}`)); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	wild(t, enter, data)
	if nc, err := nats.Connect(strings.Replace(p.NATS, "tls://", "nats://", 1), nats.UserInfo("platform", "first"), nats.MaxReconnects(0)); err == nil {
		nc.Close()
		t.Error("a client that believes no certificate got in")
	}
	nc, err := enter("platform", "first")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, password, []byte("second\n"))
	if err := syscall.Kill(p.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(20 * time.Second); !nc.IsClosed(); {
		if time.Now().After(limit) {
			t.Fatalf("the old password was not sent away\n%s", p.Log())
		}
		_ = nc.FlushTimeout(50 * time.Millisecond)
	}
	if _, err := enter("platform", "first"); err == nil {
		t.Error("the old password still holds")
	}
	if _, err := enter("platform", "second"); err != nil {
		t.Error(err)
	}
	if list, code, stderr := verify(t, data, 1, files); code != 0 || len(list) != 1 || list[0].Verdict != "equal" {
		t.Errorf("verify beside it: code %d, %s", code, stderr)
	}
	if _, code, stderr := verify(t, data, 1, nil); code != 2 || !strings.Contains(stderr, "MOZAIKS_NATS_TLS_CERT") {
		t.Errorf("verify without the certificate: code %d, %s", code, stderr)
	}
	doctor := exec.CommandContext(t.Context(), grout, "doctor", "--data-dir", data)
	doctor.Dir, doctor.Env = t.TempDir(), append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MOZAIKS_") }), files...)
	if text, err := doctor.CombinedOutput(); err != nil || !strings.Contains(string(text), "server") {
		t.Errorf("doctor beside it: %v\n%s", err, text)
	}
	stop(t, p)
	for _, secret := range []string{"first", "second"} {
		if strings.Contains(p.Log(), secret+"\n") || strings.Contains(out.String(), secret) {
			t.Errorf("the password %s was told", secret)
		}
	}
	if !strings.Contains(out.String(), "nats --server tls://") {
		t.Errorf("what to paste does not say how to connect:\n%s", out.String())
	}
}
