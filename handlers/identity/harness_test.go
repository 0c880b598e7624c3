package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	issuer   = "https://issuer.test/"
	audience = "grout-test"
)

// keyPair is a key of the issuer.
type keyPair struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Keys of all tests: making them takes a while.
var (
	rsaKey   = keyPair{"rsa", jwt.SigningMethodRS256, must(rsa.GenerateKey(rand.Reader, 2048))}
	rsaOther = keyPair{"rsa-2", jwt.SigningMethodRS256, must(rsa.GenerateKey(rand.Reader, 2048))}
	p256     = keyPair{"p256", jwt.SigningMethodES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	p384     = keyPair{"p384", jwt.SigningMethodES384, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}
	edwards  = keyPair{"ed", jwt.SigningMethodEdDSA, must(edKey())}
	weak     = keyPair{"weak", jwt.SigningMethodRS256, must(rsa.GenerateKey(rand.Reader, 1024))}
)

func edKey() (ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return private, err
}

type object = map[string]any

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk writes the public half as RFC 7517 has it, with further members.
func (k keyPair) jwk(more ...object) object {
	o := object{"kid": k.id, "use": "sig", "alg": k.method.Alg()}
	switch pub := k.key.Public().(type) {
	case *rsa.PublicKey:
		o["kty"], o["n"], o["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(pub.Bytes())[1:] // x, y
		o["kty"], o["crv"] = "EC", pub.Params().Name
		o["x"], o["y"] = b64(point[:len(point)/2]), b64(point[len(point)/2:])
	case ed25519.PublicKey:
		o["kty"], o["crv"], o["x"] = "OKP", "Ed25519", b64(pub)
	}
	for _, m := range more {
		for name, v := range m {
			if v == nil {
				delete(o, name)
				continue
			}
			o[name] = v
		}
	}
	return o
}

// keySetOf writes a set; a part that is a key pair is written as its public half.
func keySetOf(parts ...any) string {
	keys := []any{}
	for _, p := range parts {
		if k, ok := p.(keyPair); ok {
			p = k.jwk()
		}
		keys = append(keys, p)
	}
	return string(must(json.Marshal(object{"keys": keys})))
}

// claimsAt are good claims of a moment, changed; nil takes one away.
func claimsAt(now time.Time, changes ...object) jwt.MapClaims {
	c := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "ann", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for _, change := range changes {
		for name, v := range change {
			if v == nil {
				delete(c, name)
				continue
			}
			c[name] = v
		}
	}
	return c
}

// sign makes a token with a key pair; header takes the place of what it usually has.
func (k keyPair) sign(claims jwt.MapClaims, header ...object) string {
	t := jwt.NewWithClaims(k.method, claims)
	t.Header["kid"] = k.id
	for _, h := range header {
		for name, v := range h {
			if v == nil {
				delete(t.Header, name)
				continue
			}
			t.Header[name] = v
		}
	}
	return must(t.SignedString(k.key))
}

// issuerServer answers for the issuer, in the time of a bubble.
type issuerServer struct {
	mu     sync.Mutex
	text   string
	status int           // 200 when 0
	delay  time.Duration // before the answer
	err    error
	hits   []time.Time
	sent   counter // bytes that were read of all answers
}

func (s *issuerServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.hits = append(s.hits, time.Now())
	text, status, delay, err := s.text, cmp.Or(s.status, http.StatusOK), s.delay, s.err
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	body := io.TeeReader(strings.NewReader(text), &s.sent)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (s *issuerServer) set(change func(*issuerServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *issuerServer) fetches() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

var errAway = errors.New("connection refused")

// external runs a verifier of mode external inside a bubble, with a log.
func external(t *testing.T, test func(t *testing.T, v *Verifier, s *issuerServer, log *bytes.Buffer), change ...func(*Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &issuerServer{text: keySetOf(rsaKey, p256, edwards)}
		log := &bytes.Buffer{}
		o := Options{
			JWKSURL: "https://issuer.test/keys", Algorithms: []string{"RS256", "ES256", "EdDSA"}, Issuer: issuer, Audience: audience,
			Transport: s, Logger: slog.New(slog.NewTextHandler(log, nil)),
		}
		for _, c := range change {
			c(&o)
		}
		v, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		synctest.Wait()
		test(t, v, s, log)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// refusedFor gives why a token is refused; empty: it is not.
func refusedFor(t *testing.T, v *Verifier, token string) string {
	t.Helper()
	before := v.Stats().Refused
	id, err := v.Identify(t.Context(), token)
	if err == nil {
		return ""
	}
	if err != ErrRefused || id.UserID != "" {
		t.Errorf("refused with %v and %+v, want nothing but %v", err, id, ErrRefused)
	}
	for reason, n := range v.Stats().Refused {
		if n != before[reason] {
			return reason
		}
	}
	t.Error("a refusal was not counted")
	return "nothing"
}
