package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"grout/handlers/httpapi"
	"grout/handlers/identity"
	"grout/schemas"
)

// Modes of user tokens (contract §3).
const (
	AuthExternal = "external" // signed by others, whose public keys are at a URL
	AuthLocal    = "local"    // signed with a secret that is shared
)

const envJWTSecret = "JWT_SECRET"

// leastJWTSecret is the length in bytes from which on a secret of tokens cannot be found
// by trying (RFC 7518 §3.2, for HS256).
const leastJWTSecret = 32

// UserTokens gives the mode of user tokens, whatever it was called.
func (c *Config) UserTokens() string {
	switch c.AuthMode {
	case AuthExternal, "oidc", "platform":
		return AuthExternal
	case AuthLocal, "jwt":
		return AuthLocal
	}
	if c.JWKSURL != "" || c.InProduction() {
		return AuthExternal
	}
	return AuthLocal
}

// authMode takes every name of a mode, and shows which one it comes to.
func authMode() value {
	v := text(func(c *Config) *string { return &c.AuthMode }, oneOf("", AuthExternal, "oidc", "platform", AuthLocal, "jwt"))
	v.show = (*Config).UserTokens
	return v
}

// validateUserTokens refuses a start whose user tokens could not be judged.
func (c *Config) validateUserTokens() error {
	if c.UserTokens() == AuthExternal {
		var missing []string
		for _, s := range []struct{ env, value string }{{"MOZAIKS_JWKS_URL", c.JWKSURL}, {"MOZAIKS_ISSUER", c.Issuer}, {"MOZAIKS_AUDIENCE", c.Audience}} {
			if s.value == "" {
				missing = append(missing, s.env)
			}
		}
		if missing != nil {
			return fmt.Errorf("user tokens that others sign (auth mode external) need MOZAIKS_JWKS_URL, MOZAIKS_ISSUER and MOZAIKS_AUDIENCE; set %s, or MOZAIKS_AUTH_MODE=local and %s", strings.Join(missing, ", "), envJWTSecret)
		}
		return nil
	}
	if !c.InProduction() {
		return nil
	}
	switch {
	case len(c.JWTSecret.Values) == 0:
		return fmt.Errorf("ENV=production with user tokens of mode local needs their secret; set %s", envJWTSecret)
	case len(c.JWTSecret.Values[0]) < leastJWTSecret:
		return fmt.Errorf("%s is too short to keep tokens from being forged; use at least %d random characters", envJWTSecret, leastJWTSecret)
	}
	return nil
}

// userTokenWarnings name what is allowed and not safe.
func (c *Config) userTokenWarnings() (list []string) {
	local := c.UserTokens() == AuthLocal
	if s := c.JWTSecret.Values; local && !c.InProduction() && len(s) > 0 && len(s[0]) < leastJWTSecret {
		list = append(list, fmt.Sprintf("environment %s has less than %d characters; production refuses it", envJWTSecret, leastJWTSecret))
	}
	if u, err := url.Parse(c.JWKSURL); !local && err == nil && u.Scheme == "http" && !isLoopback(net.JoinHostPort(u.Hostname(), "0")) {
		list = append(list, fmt.Sprintf("%s: keys that come over http can be replaced on the way; use https", c.origin("jwks_url")))
	}
	return list
}

// identityOptions are what tokens are judged by; the secrets must be loaded.
func (c *Config) identityOptions() identity.Options {
	o := identity.Options{Issuer: c.Issuer, Audience: c.Audience, Claims: c.Claims, Now: c.clock()}
	if c.UserTokens() == AuthExternal {
		o.JWKSURL, o.Algorithms = c.JWKSURL, c.JWTAlgorithms
		return o
	}
	o.Algorithm = c.JWTAlgorithm
	if len(c.JWTSecret.Values) > 0 {
		o.Secret = []byte(c.JWTSecret.Values[0])
	}
	return o
}

// users judges user tokens. Without a verifier, when the door is closed, there are none.
type users struct{ *identity.Verifier }

func newUsers(c *Config, logger *slog.Logger, registry prometheus.Registerer) (users, error) {
	if c.UserTokens() == AuthLocal && len(c.JWTSecret.Values) == 0 {
		return users{}, nil
	}
	o := c.identityOptions()
	o.Logger = logger
	v, err := identity.New(o)
	if err != nil {
		return users{}, err
	}
	if err := registry.Register(tokenCollector{v}); err != nil {
		return users{}, fmt.Errorf("metrics of user tokens: %w", err)
	}
	return users{v}, nil
}

func (u users) port() httpapi.Users {
	if u.Verifier == nil {
		return nil
	}
	return u.Verifier
}

func (u users) run(ctx context.Context) error {
	if u.Verifier == nil {
		<-ctx.Done()
		return nil
	}
	return u.Run(ctx)
}

// tokenCollector tells Prometheus what became of user tokens and their keys.
type tokenCollector struct{ verifier *identity.Verifier }

var (
	tokensRefused = prometheus.NewDesc("grout_user_tokens_refused_total", "User tokens refused since the start, by reason.", []string{"reason"}, nil)
	keyFetches    = prometheus.NewDesc("grout_jwks_fetches_total", "Fetches of the keys of user tokens since the start.", []string{"outcome"}, nil)
	keysKnown     = prometheus.NewDesc("grout_jwks_keys", "Keys of user tokens that are known and hold; with 0 no user token is accepted.", nil, nil)
	keysAge       = prometheus.NewDesc("grout_jwks_age_seconds", "Time since the fetch that brought the keys of user tokens; 0 without any.", nil, nil)
)

// Describe implements prometheus.Collector.
func (tokenCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tokensRefused, keyFetches, keysKnown, keysAge} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c tokenCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.verifier.Stats()
	for reason, n := range s.Refused {
		ch <- prometheus.MustNewConstMetric(tokensRefused, prometheus.CounterValue, float64(n), reason)
	}
	if !s.External {
		return
	}
	ch <- prometheus.MustNewConstMetric(keyFetches, prometheus.CounterValue, float64(s.Fetches-s.FailedFetches), "ok")
	ch <- prometheus.MustNewConstMetric(keyFetches, prometheus.CounterValue, float64(s.FailedFetches), "failed")
	ch <- prometheus.MustNewConstMetric(keysKnown, prometheus.GaugeValue, float64(s.Keys))
	ch <- prometheus.MustNewConstMetric(keysAge, prometheus.GaugeValue, s.Age.Seconds())
}

// TokenLife is how long a development token lives when nothing else is said.
const TokenLife = 24 * time.Hour

// TokenUser is who a token that is signed here speaks for.
type TokenUser struct {
	ID, Username, Email string
	Roles               []string
	Superadmin          bool
}

// UserToken signs a token as a server with these settings, which has run, would take it:
// in development and mode local only.
func UserToken(c *Config, u TokenUser, life time.Duration) (string, error) {
	switch {
	case c.UserTokens() != AuthLocal:
		return "", fmt.Errorf("tokens of mode external are signed by their issuer; this can be done in local mode only (%s)", c.origin("auth_mode"))
	case c.InProduction():
		return "", errors.New("development tokens are not for production; have your control plane sign them")
	case c.JWTSecret.Closed:
		return "", fmt.Errorf("%s is set to nothing, so no token is accepted", envJWTSecret)
	case u.Superadmin && c.Claims.Superadmin == "" && c.Claims.SuperadminRole == "":
		return "", errors.New("nothing makes a superadmin; set MOZAIKS_SUPERADMIN_CLAIM or MOZAIKS_SUPERADMIN_ROLE for the server and for this command")
	}
	switch {
	case u.Username != "" && c.Claims.Username == "":
		return "", errors.New("no claim holds a user's name; set MOZAIKS_USERNAME_CLAIM for the server and for this command")
	case life < time.Second || utf8.RuneCountInString(u.ID) > schemas.MaxIDChars || u.ID == "" || !utf8.ValidString(u.ID):
		return "", fmt.Errorf("a token needs a user of 1 to %d characters and a life of at least a second", schemas.MaxIDChars)
	}
	o := c.identityOptions()
	if o.Secret == nil {
		secret, err := ReadSecret(SecretPath(c.DataDir, JWTSecretFile))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("no server has made a secret of user tokens in %s yet; start grout serve, or name its data directory, or set %s: %w", c.DataDir, envJWTSecret, err)
		}
		if err != nil {
			return "", err
		}
		o.Secret = []byte(secret)
	}
	return identity.Sign(o, u.ID, life, claimsOf(c.Claims, u))
}

// claimsOf writes claims as they will be read.
func claimsOf(names identity.Claims, u TokenUser) map[string]any {
	claims := map[string]any{}
	set := func(name string, value any) {
		at := claims
		steps := strings.Split(name, ".")
		for _, step := range steps[:len(steps)-1] {
			inner, ok := at[step].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[step] = inner
			}
			at = inner
		}
		at[steps[len(steps)-1]] = value
	}
	roles := u.Roles
	switch {
	case u.Superadmin && names.SuperadminRole != "":
		roles = append(slices.Clone(roles), names.SuperadminRole)
	case u.Superadmin:
		set(names.Superadmin, true)
	}
	if roles != nil {
		set(names.Roles, roles)
	}
	if u.Email != "" {
		set(names.Email, u.Email)
	}
	if u.Username != "" && names.Username != "" {
		set(names.Username, u.Username)
	}
	set(names.UserID, u.ID)
	return claims
}
