package identity

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// Every way in which a token can be wrong, and next to it how it is right.
func TestExternalTokens(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // of a bubble
	der := must(x509.MarshalPKIXPublicKey(rsaKey.key.Public()))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	hs := func(secret []byte, method jwt.SigningMethod, kid string) string {
		t := jwt.NewWithClaims(method, claimsAt(now))
		t.Header["kid"] = kid
		return must(t.SignedString(secret))
	}
	none := jwt.NewWithClaims(jwt.SigningMethodNone, claimsAt(now))
	none.Header["kid"] = rsaKey.id
	unsigned := must(none.SignedString(jwt.UnsafeAllowNoneSignatureType))
	good := rsaKey.sign(claimsAt(now))
	parts := strings.Split(good, ".")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	in := func(d time.Duration) int64 { return now.Add(d).Unix() }

	for _, c := range []struct{ name, token, reason string }{
		{"RS256", good, ""},
		{"ES256", p256.sign(claimsAt(now)), ""},
		{"EdDSA", edwards.sign(claimsAt(now)), ""},
		{"typ at+jwt", rsaKey.sign(claimsAt(now), object{"typ": "at+jwt"}), ""},

		{"none", unsigned, "signature"},
		{"none, in capitals", b64([]byte(`{"alg":"NONE"}`)) + "." + parts[1] + ".", "malformed"},
		{"none, with the signature of another", b64([]byte(`{"alg":"none","kid":"rsa"}`)) + "." + parts[1] + "." + parts[2], "signature"},
		{"no algorithm", b64([]byte(`{"kid":"rsa"}`)) + "." + parts[1] + "." + parts[2], "malformed"},
		{"HS256 with the public key in PEM", hs(public, jwt.SigningMethodHS256, rsaKey.id), "signature"},
		{"HS256 with the public key in DER", hs(der, jwt.SigningMethodHS256, rsaKey.id), "signature"},
		{"HS512 with the modulus", hs(rsaKey.key.Public().(*rsa.PublicKey).N.Bytes(), jwt.SigningMethodHS512, rsaKey.id), "signature"},
		{"HS256 with the symmetric key of the set", hs([]byte("shared"), jwt.SigningMethodHS256, "shared"), "signature"},
		{"an algorithm that is not allowed", keyPair{rsaKey.id, jwt.SigningMethodRS512, rsaKey.key}.sign(claimsAt(now)), "signature"},
		{"an algorithm of another key", rsaKey.sign(claimsAt(now), object{"kid": "p256"}), "unknown_key"},
		{"ES256 on another curve", keyPair{"p384", jwt.SigningMethodES256, p256.key}.sign(claimsAt(now)), "unknown_key"},
		{"a key that is too short", weak.sign(claimsAt(now)), "unknown_key"},
		{"a key for encryption", keyPair{"enc", rsaOther.method, rsaOther.key}.sign(claimsAt(now)), "unknown_key"},
		{"a key that may not verify", keyPair{"ops", rsaOther.method, rsaOther.key}.sign(claimsAt(now)), "unknown_key"},
		{"an unknown key", rsaKey.sign(claimsAt(now), object{"kid": "nobody"}), "unknown_key"},
		{"the id of another key", rsaOther.sign(claimsAt(now), object{"kid": "rsa"}), "signature"},
		{"a key id that is a number", rsaKey.sign(claimsAt(now), object{"kid": 7}), "unknown_key"},
		{"a key id that is null", b64([]byte(`{"alg":"RS256","kid":null}`)) + "." + parts[1] + "." + parts[2], "unknown_key"},
		{"a long key id", rsaKey.sign(claimsAt(now), object{"kid": strings.Repeat("k", maxKeyID+1)}), "unknown_key"},
		{"no key id, only one key that it can be", p256.sign(claimsAt(now), object{"kid": nil}), ""},
		{"no key id, several keys", rsaKey.sign(claimsAt(now), object{"kid": nil}), "unknown_key"},
		{"a key of its own in the header", rsaOther.sign(claimsAt(now), object{"kid": "rsa", "jwk": rsaOther.jwk(), "jku": "https://evil.test/keys"}), "signature"},
		{"critical parameters", rsaKey.sign(claimsAt(now), object{"crit": []string{"exp"}}), "malformed"},

		{"expired within the leeway", rsaKey.sign(claimsAt(now, object{"exp": in(-59 * time.Second)})), ""},
		{"expired", rsaKey.sign(claimsAt(now, object{"exp": in(-61 * time.Second)})), "expired"},
		{"no exp", rsaKey.sign(claimsAt(now, object{"exp": nil})), "claims"},
		{"exp 0", rsaKey.sign(claimsAt(now, object{"exp": 0})), "claims"},
		{"exp as text", rsaKey.sign(claimsAt(now, object{"exp": "4102444800"})), "claims"},
		{"exp null", rsaKey.sign(claimsAt(now, object{"exp": (*int)(nil)})), "claims"},
		{"exp before 1970", rsaKey.sign(claimsAt(now, object{"exp": -1})), "expired"},
		{"nbf within the leeway", rsaKey.sign(claimsAt(now, object{"nbf": in(59 * time.Second)})), ""},
		{"nbf in the future", rsaKey.sign(claimsAt(now, object{"nbf": in(61 * time.Second)})), "not_yet_valid"},
		{"nbf as text", rsaKey.sign(claimsAt(now, object{"nbf": "0"})), "claims"},
		{"nbf beyond all numbers", rsaKey.sign(claimsAt(now, object{"nbf": 1e300})), "*"},
		{"exp beyond all numbers", rsaKey.sign(claimsAt(now, object{"exp": 1e300})), "*"},
		{"iat in the future", rsaKey.sign(claimsAt(now, object{"iat": in(61 * time.Second)})), "not_yet_valid"},
		{"no iat", rsaKey.sign(claimsAt(now, object{"iat": nil})), ""},
		{"no sub", rsaKey.sign(claimsAt(now, object{"sub": nil})), "claims"},
		{"empty sub", rsaKey.sign(claimsAt(now, object{"sub": ""})), "claims"},
		{"sub as number", rsaKey.sign(claimsAt(now, object{"sub": 7})), "claims"},
		{"sub of 128 characters", rsaKey.sign(claimsAt(now, object{"sub": strings.Repeat("ü", 128)})), ""},
		{"sub of 129 characters", rsaKey.sign(claimsAt(now, object{"sub": strings.Repeat("ü", 129)})), "claims"},
		{"another audience", rsaKey.sign(claimsAt(now, object{"aud": "others"})), "audience"},
		{"several audiences", rsaKey.sign(claimsAt(now, object{"aud": []string{"others", audience}})), ""},
		{"no audience", rsaKey.sign(claimsAt(now, object{"aud": nil})), "claims"},
		{"an audience in part", rsaKey.sign(claimsAt(now, object{"aud": audience + "-2"})), "audience"},
		{"another issuer", rsaKey.sign(claimsAt(now, object{"iss": "https://evil.test/"})), "issuer"},
		{"an issuer without its slash", rsaKey.sign(claimsAt(now, object{"iss": strings.TrimSuffix(issuer, "/")})), "issuer"},
		{"no issuer", rsaKey.sign(claimsAt(now, object{"iss": nil})), "claims"},

		{"changed claims", parts[0] + "." + b64([]byte(`{"sub":"root"}`)) + "." + parts[2], "signature"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature"},
		{"half a signature", good[:len(good)-100], "*"},
		{"bits behind the signature", good[:len(good)-1] + string(alphabet[strings.IndexByte(alphabet, good[len(good)-1])^1]), "malformed"},
		{"two parts", parts[0] + "." + parts[1], "malformed"},
		{"five parts", good + ".x.y", "malformed"},
		{"not base64", "?" + good, "malformed"},
		{"padded base64", parts[0] + "." + parts[1] + "." + parts[2] + "==", "malformed"},
		{"not JSON", b64([]byte("x")) + "." + parts[1] + "." + parts[2], "malformed"},
		{"claims that are a list", parts[0] + "." + b64([]byte("[]")) + "." + parts[2], "malformed"},
		{"empty", "", "malformed"},
		{"dots", "..", "malformed"},
		{"as large as it may be", rsaKey.sign(claimsAt(now, object{"x": strings.Repeat("x", 11_000)})), ""},
		{"huge", rsaKey.sign(claimsAt(now, object{"x": strings.Repeat("x", 13_000)})), "too_large"},
		{"huge garbage", strings.Repeat(".", 1<<20), "too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			external(t, func(t *testing.T, v *Verifier, _ *issuerServer, log *bytes.Buffer) {
				if !time.Now().Equal(now) {
					t.Fatalf("a bubble begins at %v", time.Now())
				}
				got := refusedFor(t, v, c.token)
				if got != c.reason && (c.reason != "*" || got == "") {
					t.Errorf("refused for %q, want %q", got, c.reason)
				}
				if log.Len() > 0 {
					t.Errorf("a token made the log say %s", log)
				}
			}, func(o *Options) {
				o.Transport.(*issuerServer).text = keySetOf(rsaKey, rsaOther, p256, p384.jwk(object{"alg": nil}), edwards, weak,
					object{"kty": "oct", "kid": "shared", "alg": "HS256", "k": b64([]byte("shared"))},
					rsaOther.jwk(object{"kid": "enc", "use": "enc"}), rsaOther.jwk(object{"kid": "ops", "use": nil, "key_ops": []string{"sign"}}),
					object{"kty": "RSA", "kid": "broken"}, object{"kty": "new"}, "text", 7)
			})
		})
	}
}

func TestLocalTokens(t *testing.T) {
	secret := []byte("a secret that nobody else has, really")
	now := time.Now()
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		return must(jwt.NewWithClaims(method, claims).SignedString(key))
	}
	bare := object{"iss": nil, "aud": nil}
	for _, c := range []struct {
		name, token string
		o           Options
		reason      string
	}{
		{"HS256", sign(jwt.SigningMethodHS256, secret, claimsAt(now, bare)), Options{}, ""},
		{"issuer and audience that nobody asks for", sign(jwt.SigningMethodHS256, secret, claimsAt(now)), Options{}, ""},
		{"an issuer that is asked for", sign(jwt.SigningMethodHS256, secret, claimsAt(now)), Options{Issuer: issuer, Audience: audience}, ""},
		{"no issuer", sign(jwt.SigningMethodHS256, secret, claimsAt(now, bare)), Options{Issuer: issuer}, "claims"},
		{"HS512", sign(jwt.SigningMethodHS512, secret, claimsAt(now)), Options{Algorithm: "HS512"}, ""},
		{"another algorithm", sign(jwt.SigningMethodHS256, secret, claimsAt(now)), Options{Algorithm: "HS512"}, "signature"},
		{"another secret", sign(jwt.SigningMethodHS256, []byte("x"), claimsAt(now)), Options{}, "signature"},
		{"no secret", sign(jwt.SigningMethodHS256, []byte{}, claimsAt(now)), Options{}, "signature"},
		{"none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claimsAt(now)), Options{}, "signature"},
		{"a private key", sign(jwt.SigningMethodRS256, rsaKey.key, claimsAt(now)), Options{}, "signature"},
		{"expired", sign(jwt.SigningMethodHS256, secret, claimsAt(now, object{"exp": now.Unix() - 61})), Options{}, "expired"},
		{"no sub", sign(jwt.SigningMethodHS256, secret, claimsAt(now, object{"sub": nil})), Options{}, "claims"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Secret, c.o.Now = secret, func() time.Time { return now }
			v, err := New(c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := refusedFor(t, v, c.token); got != c.reason {
				t.Errorf("refused for %q, want %q", got, c.reason)
			}
		})
	}
}

// What Sign signs is taken, and says what it was made of.
func TestSign(t *testing.T) {
	o := Options{Secret: []byte("secret"), Algorithm: "HS384", Issuer: issuer, Audience: audience, Claims: Claims{SuperadminRole: "Boss"}}
	token, err := Sign(o, "ann", time.Hour, object{"roles": []string{"boss"}, "sub": "eve", "iss": "x"})
	if err != nil {
		t.Fatal(err)
	}
	v := must(New(o))
	id, err := v.Identify(t.Context(), token)
	if err != nil || id.UserID != "ann" || !id.Superadmin {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := Sign(Options{JWKSURL: "x"}, "ann", time.Hour, nil); err == nil {
		t.Error("a token was signed without a secret")
	}
	if _, err := Sign(Options{Secret: o.Secret, Algorithm: "RS256"}, "ann", time.Hour, nil); err == nil {
		t.Error("a token was signed with an algorithm that is not for secrets")
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	full := Options{JWKSURL: "https://x/", Issuer: "i", Audience: "a"}
	for name, change := range map[string]func(*Options){
		"nothing":              func(o *Options) { *o = Options{} },
		"both":                 func(o *Options) { o.Secret = []byte("x") },
		"no issuer":            func(o *Options) { o.Issuer = "" },
		"no audience":          func(o *Options) { o.Audience = "" },
		"HS256 for public":     func(o *Options) { o.Algorithms = []string{"RS256", "HS256"} },
		"none for public":      func(o *Options) { o.Algorithms = []string{"none"} },
		"RS256 for a secret":   func(o *Options) { *o = Options{Secret: []byte("x"), Algorithm: "RS256"} },
		"none for a secret":    func(o *Options) { *o = Options{Secret: []byte("x"), Algorithm: "none"} },
		"unknown algorithm":    func(o *Options) { o.Algorithms = []string{"RS1"} },
		"an algorithm in case": func(o *Options) { o.Algorithms = []string{"rs256"} },
	} {
		o := full
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := New(full); err != nil {
		t.Errorf("a full set was refused: %v", err)
	}
}

func TestClaims(t *testing.T) {
	for _, c := range []struct {
		name   string
		names  Claims
		claims object
		want   schemas.Identity
	}{
		{"the least", Claims{}, object{}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}}},
		{"a long id", Claims{}, object{"sub": "äbcdefghijkl"}, schemas.Identity{UserID: "äbcdefghijkl", Username: "user_äbcdefgh", Roles: []string{}}},
		{"an e-mail address", Claims{}, object{"email": "ann.b@x.test"}, schemas.Identity{UserID: "ann", Username: "ann.b", Email: "ann.b@x.test", Roles: []string{}}},
		{"an address without a name", Claims{}, object{"email": "@x.test"}, schemas.Identity{UserID: "ann", Username: "user_ann", Email: "@x.test", Roles: []string{}}},
		{"a name", Claims{Username: "name"}, object{"name": "Ann B", "email": "a@b"}, schemas.Identity{UserID: "ann", Username: "Ann B", Email: "a@b", Roles: []string{}}},
		{"a name that is none", Claims{Username: "name"}, object{"name": 7, "email": "a@b"}, schemas.Identity{UserID: "ann", Username: "a", Email: "a@b", Roles: []string{}}},
		{"another id", Claims{UserID: "oid"}, object{"oid": "o-1"}, schemas.Identity{UserID: "o-1", Username: "user_o-1", Roles: []string{}}},
		{"a list of roles", Claims{}, object{"roles": []any{"a", " b ", 7, "", nil}}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"a", "b"}}},
		{"roles and commas", Claims{}, object{"roles": "a b, c,,d"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"a b", "c", "d"}}},
		{"roles and blanks", Claims{}, object{"roles": " a  b\tc "}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"a", "b", "c"}}},
		{"roles at a path", Claims{Roles: "realm_access.roles"}, object{"realm_access": object{"roles": []any{"a"}}}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"a"}}},
		{"a name with dots", Claims{Roles: "https://x.test/roles"}, object{"https://x.test/roles": "a"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"a"}}},
		{"roles that are no roles", Claims{}, object{"roles": object{"a": true}}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}}},
		{"a role nobody asked for", Claims{}, object{"roles": []any{"superadmin", "SuperAdmin", ""}}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"superadmin", "SuperAdmin"}}},
		{"the superadmin's role", Claims{SuperadminRole: "SuperAdmin"}, object{"roles": "superadmin"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"superadmin"}, Superadmin: true}},
		{"part of that role", Claims{SuperadminRole: "SuperAdmin"}, object{"roles": "superadmin-2"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{"superadmin-2"}}},
		{"the superadmin's claim", Claims{Superadmin: "root"}, object{"root": true}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}, Superadmin: true}},
		{"the same as text", Claims{Superadmin: "root"}, object{"root": "True"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}, Superadmin: true}},
		{"the same as number", Claims{Superadmin: "root"}, object{"root": 1}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}, Superadmin: true}},
		{"that claim says no", Claims{Superadmin: "root"}, object{"root": false}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}}},
		{"that claim says something", Claims{Superadmin: "root"}, object{"root": "maybe"}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}}},
		{"that claim is a list", Claims{Superadmin: "root"}, object{"root": []any{true}}, schemas.Identity{UserID: "ann", Username: "user_ann", Roles: []string{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now().Truncate(time.Second)
			o := Options{Secret: []byte("secret"), Claims: c.names}
			token := must(jwt.NewWithClaims(jwt.SigningMethodHS256, claimsAt(now, c.claims)).SignedString(o.Secret))
			got, err := must(New(o)).Identify(t.Context(), token)
			c.want.Expires = now.Add(time.Hour).UnixNano()
			if d := cmp.Diff(c.want, got); err != nil || d != "" {
				t.Errorf("%v\n%s", err, d)
			}
		})
	}
	for name, names := range map[string]Claims{"an id that is not there": {UserID: "oid"}, "an id that is no text": {UserID: "iat"}} {
		o := Options{Secret: []byte("secret"), Claims: names}
		token := must(Sign(o, "ann", time.Hour, nil))
		if got := refusedFor(t, must(New(o)), token); got != "claims" {
			t.Errorf("%s: refused for %q", name, got)
		}
	}
}
