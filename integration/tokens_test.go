package integration

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"grout/integration/process"
)

// identityProvider signs tokens and serves the keys that they are judged by.
type identityProvider struct {
	http *httptest.Server

	mu    sync.Mutex
	keys  map[string]crypto.Signer
	delay time.Duration
	down  bool
	hits  []time.Time
}

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	p := &identityProvider{keys: map[string]crypto.Signer{}}
	p.http = httptest.NewServer(p)
	t.Cleanup(p.http.Close)
	return p
}

func (p *identityProvider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.hits = append(p.hits, time.Now())
	delay, down := p.delay, p.down
	keys := []map[string]any{}
	for id, k := range p.keys {
		keys = append(keys, jwkOf(id, k.Public()))
	}
	p.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
	}
	if down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
}

func jwkOf(id string, key crypto.PublicKey) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "kid": id, "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		return map[string]any{"kty": "EC", "crv": "P-256", "kid": id, "x": b64(point[1:33]), "y": b64(point[33:])}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": id, "x": b64(k)}
	}
	panic(fmt.Sprintf("a key %T", key))
}

func (p *identityProvider) change(f func(p *identityProvider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func (p *identityProvider) fetches() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.hits...)
}

func rsaSigner(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	tokenIssuer   = "https://issuer.test/"
	tokenAudience = "grout"
)

// claims are good ones of now with changes; nil takes one away.
func goodClaims(changes ...map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"iss": tokenIssuer, "aud": tokenAudience, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
	for _, change := range changes {
		for name, v := range change {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		}
	}
	return c
}

func signed(t *testing.T, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// withToken asks for the usage of the token's user.
func withToken(t *testing.T, p *process.Process, token string) answer {
	t.Helper()
	return request(t, p, "GET", "/api/usage", nil, "X-Internal-API-Key", "", "Authorization", "Bearer "+token)
}

func externalEnv(p *identityProvider) []string {
	return []string{
		"MOZAIKS_JWKS_URL=" + p.http.URL, "MOZAIKS_ISSUER=" + tokenIssuer, "MOZAIKS_AUDIENCE=" + tokenAudience,
		"MOZAIKS_JWT_ALGORITHMS=RS256,ES256,EdDSA", "MOZAIKS_SUPERADMIN_ROLE=SuperAdmin",
	}
}

// Every token that is not to be taken, and those that are, through a real grout that
// fetches its keys from a real server. No token is in what grout says about itself.
func TestUserTokens(t *testing.T) {
	provider := newIdentityProvider(t)
	key, other := rsaSigner(t), rsaSigner(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	provider.change(func(i *identityProvider) { i.keys["k1"], i.keys["ec"], i.keys["ed"] = key, ec, ed })
	p := start(t, filepath.Join(t.TempDir(), "data"), 1, externalEnv(provider)...)

	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	rs := func(changes ...map[string]any) string {
		return signed(t, jwt.SigningMethodRS256, key, "k1", goodClaims(changes...))
	}
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	var all []string
	for _, c := range []struct {
		name, token string
		good        bool
	}{
		{"RS256", rs(), true},
		{"ES256", signed(t, jwt.SigningMethodES256, ec, "ec", goodClaims()), true},
		{"EdDSA", signed(t, jwt.SigningMethodEdDSA, ed, "ed", goodClaims()), true},
		{"alg none", signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "k1", goodClaims()), false},
		{"HS256 with the public key", signed(t, jwt.SigningMethodHS256, public, "k1", goodClaims()), false},
		{"HS256 with the public key in DER", signed(t, jwt.SigningMethodHS256, der, "k1", goodClaims()), false},
		{"RS512", signed(t, jwt.SigningMethodRS512, key, "k1", goodClaims()), false},
		{"wrong kid", signed(t, jwt.SigningMethodRS256, key, "k2", goodClaims()), false},
		{"kid of another key", signed(t, jwt.SigningMethodRS256, other, "k1", goodClaims()), false},
		{"expired", rs(map[string]any{"exp": in(-2 * time.Minute)}), false},
		{"expired within the leeway", rs(map[string]any{"exp": in(-30 * time.Second)}), true},
		{"future nbf", rs(map[string]any{"nbf": in(2 * time.Minute)}), false},
		{"nbf within the leeway", rs(map[string]any{"nbf": in(30 * time.Second)}), true},
		{"future iat", rs(map[string]any{"iat": in(2 * time.Minute)}), false},
		{"missing exp", rs(map[string]any{"exp": nil}), false},
		{"missing sub", rs(map[string]any{"sub": nil}), false},
		{"wrong aud", rs(map[string]any{"aud": "others"}), false},
		{"missing aud", rs(map[string]any{"aud": nil}), false},
		{"one of several audiences", rs(map[string]any{"aud": []string{"others", tokenAudience}}), true},
		{"wrong iss", rs(map[string]any{"iss": "https://evil.test/"}), false},
		{"missing iss", rs(map[string]any{"iss": nil}), false},
		{"huge", rs(map[string]any{"x": strings.Repeat("x", 40_000)}), false},
		{"garbage", "a.b.c", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			all = append(all, c.token)
			a := withToken(t, p, c.token)
			const refused = `{"detail":"Could not validate credentials","error_code":"UNAUTHORIZED","status_code":401}`
			switch {
			case c.good && a.status != 200:
				t.Errorf("answered %d: %s", a.status, a.body)
			case !c.good && (a.status != 401 || string(a.body) != refused || a.header.Get("WWW-Authenticate") != "Bearer"):
				t.Errorf("answered %d %v: %s", a.status, a.header, a.body)
			}
		})
	}
	metrics := request(t, p, "GET", "/metrics", nil)
	stop(t, p)
	for _, token := range all {
		for i, part := range strings.Split(token, ".") {
			if len(part) > 20 && (strings.Contains(p.Log(), part) || strings.Contains(string(metrics.body), part)) {
				t.Errorf("part %d of a token is in the log or the metrics", i)
			}
		}
	}
	if !strings.Contains(string(metrics.body), `grout_user_tokens_refused_total{reason="expired"} 1`) {
		t.Error("refused tokens are not counted")
	}
}

// The keys change under a running grout, their server is slow and away, and a flood of
// tokens names keys that nobody knows.
func TestKeysOfUserTokens(t *testing.T) {
	provider := newIdentityProvider(t)
	first, second, third := rsaSigner(t), rsaSigner(t), rsaSigner(t)
	token := func(key *rsa.PrivateKey, kid string) string {
		return signed(t, jwt.SigningMethodRS256, key, kid, goodClaims())
	}
	provider.change(func(i *identityProvider) { i.down = true })
	p := start(t, filepath.Join(t.TempDir(), "data"), 1, externalEnv(provider)...)
	expect := func(what string, a answer, status int) {
		t.Helper()
		if a.status != status {
			t.Errorf("%s: answered %d, want %d: %s", what, a.status, status, a.body)
		}
	}
	expect("while there were never any keys", withToken(t, p, token(first, "k1")), 401)
	provider.change(func(i *identityProvider) { i.down, i.keys["k1"] = false, first })
	expect("when there are", withToken(t, p, token(first, "k1")), 200)

	// Rotated: the new one works at once, beside the old one; withdrawn: the old one does not.
	provider.change(func(i *identityProvider) { i.keys["k2"] = second })
	expect("a new key", withToken(t, p, token(second, "k2")), 200)
	expect("beside the old one", withToken(t, p, token(first, "k1")), 200)
	provider.change(func(i *identityProvider) { delete(i.keys, "k1") })
	expect("a key that nobody knows", withToken(t, p, token(third, "k3")), 401)
	expect("a key that was withdrawn", withToken(t, p, token(first, "k1")), 401)

	// Slow, then away.
	provider.change(func(i *identityProvider) { i.delay = time.Minute })
	begin := time.Now()
	slow := make(chan answer, 1)
	go func() {
		defer close(slow)
		slow <- withToken(t, p, token(third, "k3"))
	}()
	for range 20 {
		expect("a known key while the server is slow", withToken(t, p, token(second, "k2")), 200)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("known keys took %s", took)
	}
	expect("an unknown key while the server is slow", <-slow, 401)
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	provider.change(func(i *identityProvider) { i.delay, i.down = 0, true })
	expect("an unknown key while the server is away", withToken(t, p, token(third, "k3")), 401)
	expect("a known key while the server is away", withToken(t, p, token(second, "k2")), 200)
	provider.change(func(i *identityProvider) { i.down = false })

	flooded := flood(t, p, provider, func(n int) string { return token(third, fmt.Sprint("evil-", n)) }, 4*time.Second)
	for i := 1; i < len(flooded); i++ {
		if d := flooded[i].Sub(flooded[i-1]); d < 990*time.Millisecond { // their way here may take longer for one than for the next
			t.Errorf("two fetches of keys within %s", d)
		}
	}
	if len(flooded) < 3 {
		t.Errorf("%d fetches during the flood", len(flooded))
	}
	provider.change(func(i *identityProvider) { i.keys["k3"] = third })
	expect("a new key after the flood", withToken(t, p, token(third, "k3")), 200)
	stop(t, p)
}

// flood asks with bad tokens from eight callers, and gives the fetches that began since.
func flood(t *testing.T, p *process.Process, provider *identityProvider, token func(n int) string, how time.Duration) []time.Time {
	t.Helper()
	before := len(provider.fetches())
	ctx, cancel := context.WithTimeout(t.Context(), how)
	defer cancel()
	var callers sync.WaitGroup
	for i := range 8 {
		text := make([]string, 50)
		for n := range text {
			text[n] = token(i*len(text) + n)
		}
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				req, _ := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/usage", nil)
				req.Header.Set("Authorization", "Bearer "+text[n%len(text)])
				if resp, err := http.DefaultClient.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	callers.Wait()
	return provider.fetches()[before:]
}

// A token that `grout token` signs opens what is its user's in a grout that made its own
// secret, and nothing else.
func TestTokenCommand(t *testing.T) {
	p, dir, printed := fresh(t, "MOZAIKS_SUPERADMIN_ROLE=boss")
	key, err := os.ReadFile(filepath.Join(dir, "data", "secrets", "internal_api_key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"ann", "bob"} {
		if a := request(t, p, "POST", "/api/usage/ingest", fmt.Sprintf(`{"events":[{"event_id":"e-%s","timestamp":"%s","app_id":"dev_app","user_id":"%s","chat_id":"chat-%s","model":"m","input_tokens":1,"output_tokens":1}]}`,
			user, time.Now().UTC().Format(time.RFC3339), user, user), "X-Internal-API-Key", strings.TrimSpace(string(key))); a.status != 200 {
			t.Fatalf("ingest answered %d: %s", a.status, a.body)
		}
	}
	sign := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(grout, append([]string{"token"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "MOZAIKS_SUPERADMIN_ROLE=boss")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("grout token %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	words := strings.Fields(printed.String())
	var shown string
	for _, w := range words {
		if strings.Count(w, ".") == 2 && strings.HasPrefix(w, "ey") {
			shown = w
		}
	}
	ann, boss := sign("--user", "ann"), sign("--user", "root", "--superadmin")
	for _, c := range []struct {
		token, path, body string
		status            int
		has               string
	}{
		{ann, "/api/usage", "", 200, `"events":1,`},
		{ann, "/api/usage?user_id=bob", "", 404, "Not found"},
		{ann, "/api/usage/events", "", 200, `"event_id":"e-ann"`},
		{ann, "/api/usage/events?chat_id=chat-bob", "", 404, "no chat"},
		{ann, "/api/usage/events?run_id=nobodys", "", 404, "no run"},
		{ann, "/api/chats/chat-ann/usage", "", 200, `"user_id":"ann"`},
		{ann, "/api/chats/chat-bob/usage", "", 404, "no chat"},
		{ann, "/api/v1/entitlements/dev_app", "", 200, `"tier":"unlimited"`},
		{ann, "/api/v1/entitlements", "", 403, "user token"},
		{ann, "/api/entitlements/check", `{"estimated_tokens":5}`, 200, `"allowed":true`},
		{ann, "/api/entitlements/check", `{"user_id":"bob"}`, 404, "Not found"},
		{ann, "/api/entitlements/check", `{"count":true}`, 403, "user token"},
		{ann, "/api/usage/ingest", `{"events":[]}`, 403, "user token"},
		{ann, "/api/internal/entitlement/sync", `{}`, 401, "Missing X-Internal-API-Key header"},
		{boss, "/api/usage", "", 200, `"events":2,`},
		{boss, "/api/chats/chat-bob/usage", "", 200, `"user_id":"bob"`},
		{boss, "/api/usage?app_id=other", "", 404, "Not found"},
		{shown, "/api/usage", "", 200, `"totals"`},
		{ann[:len(ann)-3] + "abc", "/api/usage", "", 401, "Could not validate credentials"},
	} {
		method, body := "GET", any(nil)
		if c.body != "" {
			method, body = "POST", c.body
		}
		a := request(t, p, method, c.path, body, "X-Internal-API-Key", "", "Authorization", "Bearer "+c.token)
		if a.status != c.status || !strings.Contains(string(a.body), c.has) {
			t.Errorf("%s %s: answered %d, want %d with %s: %s", method, c.path, a.status, c.status, c.has, a.body)
		}
	}
	stop(t, p)
	for _, token := range []string{ann, boss, shown} {
		if strings.Contains(p.Log(), token[strings.LastIndex(token, ".")+1:]) {
			t.Error("a token is in the log")
		}
	}
}

// Production does not start without the settings of user tokens, and says which.
func TestProductionNeedsUserTokens(t *testing.T) {
	for want, env := range map[string][]string{
		"MOZAIKS_JWKS_URL": nil,
		"set JWT_SECRET":   {"MOZAIKS_AUTH_MODE=local"},
		"too short":        {"MOZAIKS_AUTH_MODE=local", "JWT_SECRET=hush"},
	} {
		p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: filepath.Join(t.TempDir(), "data"), Env: append(env, "ENV=production", "MOZAIKS_APP_ID=shop")})
		if err == nil {
			p.Kill()
			t.Errorf("%v: it started", env)
			continue
		}
		if text := err.Error(); !strings.Contains(text, want) || strings.Contains(text, "hush") {
			t.Errorf("%v: %v", env, err)
		}
	}
}
