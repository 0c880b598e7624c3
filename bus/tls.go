package bus

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// TLSFiles are files in PEM form.
type TLSFiles struct {
	Cert, Key string // of the server; the certificate's chain behind it
	CA        string // authorities of clients, and of the server for grout's own tools
	Verify    bool   // clients need a certificate of these authorities
}

// maxTLSFile bounds what is read of a file.
const maxTLSFile = 1 << 20

// certificates are what the files said when they were last good.
type certificates struct {
	files TLSFiles

	mu    sync.RWMutex
	texts [3][]byte
	cert  *tls.Certificate
	roots *x509.CertPool
}

// load gives nil when there is no certificate.
func (f TLSFiles) load() (*certificates, error) {
	switch {
	case f == TLSFiles{}:
		return nil, nil
	case f.Cert == "" || f.Key == "":
		return nil, errors.New("TLS on NATS needs a certificate and its key")
	case f.Verify && f.CA == "":
		return nil, errors.New("TLS on NATS needs the authorities by which clients are verified")
	}
	c := &certificates{files: f}
	_, err := c.reload()
	return c, err
}

// reload takes new files only when all of them can be used.
func (c *certificates) reload() (changed bool, err error) {
	var texts [3][]byte
	for i, path := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		if path == "" {
			continue
		}
		if texts[i], err = readTLSFile(path); err != nil {
			return false, err
		}
	}
	c.mu.RLock()
	same := c.cert != nil
	for i := range texts {
		same = same && bytes.Equal(texts[i], c.texts[i])
	}
	c.mu.RUnlock()
	if same {
		return false, nil
	}
	cert, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return false, fmt.Errorf("use the certificate %s with the key %s: %w", c.files.Cert, c.files.Key, err)
	}
	if err := strongEnough(cert.Leaf); err != nil {
		return false, fmt.Errorf("use the certificate %s: %w", c.files.Cert, err)
	}
	var roots *x509.CertPool
	if c.files.CA != "" {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(texts[2]) {
			return false, fmt.Errorf("read authorities %s: there is no certificate in it", c.files.CA)
		}
	}
	c.mu.Lock()
	c.texts, c.cert, c.roots = texts, &cert, roots
	c.mu.Unlock()
	return true, nil
}

func readTLSFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read TLS file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxTLSFile {
		return nil, fmt.Errorf("read TLS file %s: it is not a file of at most %d bytes", path, maxTLSFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read TLS file: %w", err)
	}
	return text, nil
}

// strongEnough refuses what no client should trust, and what has ended.
func strongEnough(leaf *x509.Certificate) error {
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("it ended at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("its RSA key has %d bits, fewer than 2048", k.N.BitLen())
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("its key is of a kind that is not known (%T)", k)
	}
	return nil
}

// config looks at what is in use at each handshake, so that a reload needs no restart.
func (c *certificates) config() *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c.mu.RLock()
			defer c.mu.RUnlock()
			return c.cert, nil
		},
	}
	if c.files.Verify {
		config.ClientAuth = tls.RequireAnyClientCert
		config.VerifyConnection = c.verifyClient
	}
	return config
}

// verifyClient takes a certificate of the authorities, and the server's own, with which
// grout's tools beside it come: the handshake has proved that they hold its key.
func (c *certificates) verifyClient(state tls.ConnectionState) error {
	c.mu.RLock()
	cert, roots := c.cert, c.roots
	c.mu.RUnlock()
	if len(state.PeerCertificates) == 0 {
		return errors.New("a client certificate is needed")
	}
	leaf := state.PeerCertificates[0]
	if leaf.Equal(cert.Leaf) {
		return nil
	}
	between := x509.NewCertPool()
	for _, p := range state.PeerCertificates[1:] {
		between.AddCert(p)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// Beside is how a tool beside the server connects to it: it takes the server's own
// certificate, whoever has signed that and for whatever name, and no other.
func (f TLSFiles) Beside() ([]nats.Option, error) {
	if f == (TLSFiles{}) {
		return nil, nil
	}
	text, err := readTLSFile(f.Cert)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read TLS file %s: there is no certificate in it", f.Cert)
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection judges
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, block.Bytes) {
				return fmt.Errorf("the server's certificate is not that of %s", f.Cert)
			}
			return nil
		},
	}
	if f.Verify {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("use the certificate %s with the key %s: %w", f.Cert, f.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return []nats.Option{nats.Secure(config)}, nil
}
