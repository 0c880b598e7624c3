package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"grout/schemas"
)

const (
	// leeway is how far clocks may differ (contract §3).
	leeway = 60 * time.Second
	// maxTokenBytes bounds what is decoded for a stranger.
	maxTokenBytes = 16 << 10
)

// Options say which tokens are taken. Either Secret is set, for tokens of mode local, or
// JWKSURL, for those of external; the zero value of the others stands for the default in
// brackets.
type Options struct {
	Secret    []byte
	Algorithm string // that tokens are signed with by the secret [HS256]

	JWKSURL    string
	Algorithms []string // that tokens may be signed with by a private key [RS256]

	Issuer, Audience string // that tokens must name; required with JWKSURL, else empty asks for none

	Claims Claims

	Transport http.RoundTripper // that fetches the keys [one of its own]
	Now       func() time.Time  // [time.Now]
	Logger    *slog.Logger      // [nowhere]
}

// Shared and public-key algorithms that can be allowed.
var (
	SharedAlgorithms = []string{"HS256", "HS384", "HS512"}
	PublicAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

// ErrRefused is what a caller learns of a bad token.
var ErrRefused = schemas.Errorf(schemas.CodeUnauthorized, "Could not validate credentials")

// Verifier judges tokens. It starts nothing; with keys at a URL, somebody has to Run it.
type Verifier struct {
	parser  *jwt.Parser
	claims  Claims
	secret  []byte
	keys    *keySource // nil in mode local
	refused [len(reasons)]atomic.Int64
}

// New makes a verifier. No algorithm is ever allowed for both kinds of keys, so that a
// public key cannot be taken for a shared secret.
func New(o Options) (*Verifier, error) {
	if (o.JWKSURL == "") == (len(o.Secret) == 0) {
		return nil, errors.New("user tokens need a secret or the URL of keys, and not both")
	}
	allowed, possible := []string{o.Algorithm}, SharedAlgorithms
	if o.Algorithm == "" {
		allowed = []string{"HS256"}
	}
	if o.JWKSURL != "" {
		allowed, possible = o.Algorithms, PublicAlgorithms
		if len(allowed) == 0 {
			allowed = []string{"RS256"}
		}
		if o.Issuer == "" || o.Audience == "" {
			return nil, errors.New("user tokens that others sign need an issuer and an audience")
		}
	}
	for _, a := range allowed {
		if !slices.Contains(possible, a) {
			return nil, fmt.Errorf("algorithm %q of user tokens is not one of %s", a, strings.Join(possible, ", "))
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	rules := []jwt.ParserOption{
		jwt.WithValidMethods(allowed), jwt.WithLeeway(leeway), jwt.WithTimeFunc(o.Now),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
	}
	if o.Issuer != "" {
		rules = append(rules, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		rules = append(rules, jwt.WithAudience(o.Audience))
	}
	v := &Verifier{parser: jwt.NewParser(rules...), claims: o.Claims.withDefaults(), secret: o.Secret}
	if o.JWKSURL != "" {
		v.keys = newKeySource(o)
	}
	return v, nil
}

// Run keeps the keys up to date until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	if v.keys == nil {
		<-ctx.Done()
		return nil
	}
	return v.keys.run(ctx)
}

// Identify tells who a token speaks for. Its only error is ErrRefused.
func (v *Verifier) Identify(ctx context.Context, token string) (schemas.Identity, error) {
	id, err := v.judge(ctx, token)
	if err != nil {
		v.refused[reasonOf(err)].Add(1)
		return schemas.Identity{}, ErrRefused
	}
	return id, nil
}

func (v *Verifier) judge(ctx context.Context, token string) (schemas.Identity, error) {
	if len(token) > maxTokenBytes {
		return schemas.Identity{}, errTooLarge
	}
	claims := jwt.MapClaims{}
	if _, err := v.parser.ParseWithClaims(token, claims, v.keyFor(ctx)); err != nil {
		return schemas.Identity{}, err
	}
	return v.claims.identity(claims)
}

// keyFor gives the key, or the keys, that a token may have been signed with.
func (v *Verifier) keyFor(ctx context.Context) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical { // RFC 7515 §4.1.11: none of it is understood here
			return nil, errCritical
		}
		if v.keys == nil {
			return v.secret, nil
		}
		kid, named := t.Header["kid"]
		id, isText := kid.(string)
		if named && !isText || len(id) > maxKeyID {
			return nil, errUnknownKey
		}
		return v.keys.find(ctx, t.Method.Alg(), id, named)
	}
}

var (
	errTooLarge   = errors.New("the token is too large")
	errCritical   = errors.New("the token has critical header parameters")
	errUnknownKey = errors.New("the token's key is not known")
	errNoKeys     = errors.New("no keys are known")
	errClaims     = errors.New("a claim is missing or unusable")
)

// reasons why tokens are refused, most telling first; the last is for the rest.
var reasons = [...]struct {
	name string
	is   []error
}{
	{"too_large", []error{errTooLarge}},
	{"no_keys", []error{errNoKeys}},
	{"unknown_key", []error{errUnknownKey}},
	{"expired", []error{jwt.ErrTokenExpired}},
	{"not_yet_valid", []error{jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued}},
	{"issuer", []error{jwt.ErrTokenInvalidIssuer}},
	{"audience", []error{jwt.ErrTokenInvalidAudience}},
	{"claims", []error{errClaims, jwt.ErrTokenInvalidClaims}},
	{"signature", []error{jwt.ErrTokenSignatureInvalid}}, // an algorithm that is not allowed as well
	{"malformed", nil},
}

func reasonOf(err error) int {
	for i, r := range reasons {
		for _, e := range r.is {
			if errors.Is(err, e) {
				return i
			}
		}
	}
	return len(reasons) - 1
}
