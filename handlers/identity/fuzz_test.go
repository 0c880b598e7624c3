package identity

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Whatever comes as a token, nobody gets in who has not got the secret, and the answer is
// the same.
func FuzzIdentify(f *testing.F) {
	o := Options{Secret: []byte("a secret of the fuzz test, 32 bytes"), Issuer: issuer}
	now := time.Unix(1_769_441_400, 0)
	o.Now = func() time.Time { return now }
	good := must(Sign(o, "ann", time.Hour, object{"roles": "a b"}))
	foreign := must(jwt.NewWithClaims(jwt.SigningMethodHS256, claimsAt(now)).SignedString([]byte("x")))
	for _, seed := range []string{
		good, foreign, "", ".", "..", "...", strings.Repeat("e", 100) + ".e.e", good + ".", b64([]byte(`{"alg":"none"}`)) + ".e30.",
		b64([]byte(`{"alg":"HS256","crit":[]}`)) + "." + b64([]byte(`{"sub":{},"exp":[],"aud":7}`)) + "." + b64([]byte("x")),
	} {
		f.Add(seed)
	}
	v := must(New(o))
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Identify(t.Context(), token)
		if err == nil && token != good || err != nil && (err != ErrRefused || id.UserID != "") {
			t.Errorf("%q: %+v, %v", token, id, err)
		}
	})
}

// Whatever a server answers, keys that come of it can be used: each proves an algorithm
// that is for public keys, and is long enough.
func FuzzKeySet(f *testing.F) {
	for _, seed := range []string{
		keySetOf(rsaKey, p256, p384, edwards, weak), keySetOf(), `{}`, `{"keys":null}`, `{"keys":[null,7,{}]}`, `[]`, ``,
		keySetOf(object{"kty": "EC", "crv": "P-256", "x": "", "y": "AA"}, object{"kty": "RSA", "n": "AA", "e": "AA"}, object{"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
		keySetOf(rsaKey.jwk(object{"x5c": []string{"AA"}, "x5u": "http://x/", "use": "enc"}), object{"kty": "oct", "k": "AA"}),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parseKeySet(text)
		if err != nil {
			return
		}
		for _, k := range set.keys {
			for _, a := range k.algorithms {
				if a == "none" || strings.HasPrefix(a, "HS") {
					t.Errorf("a key proves %s", a)
				}
				method := jwt.GetSigningMethod(a)
				if err := method.Verify("text", []byte("signature"), k.key); err == nil {
					t.Errorf("a key of %s proves what nobody signed", a)
				}
			}
			if len(k.algorithms) == 0 {
				t.Error("a key that proves nothing was kept")
			}
		}
	})
}
