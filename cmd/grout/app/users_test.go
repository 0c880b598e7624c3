package app

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How user tokens are judged follows from what is set (contract §3).
func TestModeOfUserTokens(t *testing.T) {
	const (
		jwks, issuer, audience = "MOZAIKS_JWKS_URL=https://id.test/keys", "MOZAIKS_ISSUER=i", "MOZAIKS_AUDIENCE=a"
		production, app        = "ENV=production", "MOZAIKS_APP_ID=shop"
		long                   = "JWT_SECRET=0123456789abcdef0123456789abcdef"
	)
	for _, tt := range []struct {
		name    string
		env     []string
		mode    string
		refused string // part of why the start is
	}{
		{"nothing", nil, AuthLocal, ""},
		{"keys at an address", []string{jwks, issuer, audience}, AuthExternal, ""},
		{"keys at the older name", []string{"MOZAIKS_PLATFORM_JWKS_URL=https://id.test/keys", "MOZAIKS_PLATFORM_ISSUER=i", "MOZAIKS_PLATFORM_AUDIENCE=a"}, AuthExternal, ""},
		{"an empty new name does not hide the older one", []string{"MOZAIKS_JWKS_URL=", "MOZAIKS_PLATFORM_JWKS_URL=https://id.test/keys", issuer, audience}, AuthExternal, ""},
		{"keys without issuer", []string{jwks, audience}, AuthExternal, "set MOZAIKS_ISSUER,"},
		{"keys alone", []string{jwks}, AuthExternal, "set MOZAIKS_ISSUER, MOZAIKS_AUDIENCE"},
		{"external by name", []string{"MOZAIKS_AUTH_MODE=external"}, AuthExternal, "set MOZAIKS_JWKS_URL, MOZAIKS_ISSUER, MOZAIKS_AUDIENCE"},
		{"platform", []string{"MOZAIKS_AUTH_MODE=platform", jwks, issuer, audience}, AuthExternal, ""},
		{"local goes before an address", []string{"MOZAIKS_AUTH_MODE=local", jwks}, AuthLocal, ""},
		{"no secret door", []string{"JWT_SECRET="}, AuthLocal, ""},
		{"production", []string{production, app}, AuthExternal, "MOZAIKS_JWKS_URL"},
		{"production, complete", []string{production, app, jwks, issuer, audience}, AuthExternal, ""},
		{"production, local", []string{production, app, "MOZAIKS_AUTH_MODE=local", long}, AuthLocal, ""},
		{"production, local without a secret", []string{production, app, "MOZAIKS_AUTH_MODE=local"}, AuthLocal, "set JWT_SECRET"},
		{"production, local with an empty secret", []string{production, app, "MOZAIKS_AUTH_MODE=local", "JWT_SECRET="}, AuthLocal, "set JWT_SECRET"},
		{"production, local with a short secret", []string{production, app, "MOZAIKS_AUTH_MODE=local", "JWT_SECRET=hush-hush"}, AuthLocal, "too short"},
		{"production, a secret and no mode", []string{production, app, long}, AuthExternal, "MOZAIKS_JWKS_URL"},

		{"an unknown mode", []string{"MOZAIKS_AUTH_MODE=none"}, "", "environment MOZAIKS_AUTH_MODE"},
		{"none", []string{"MOZAIKS_JWT_ALGORITHMS=RS256,none"}, "", "environment MOZAIKS_JWT_ALGORITHMS"},
		{"a shared algorithm for public keys", []string{"MOZAIKS_JWT_ALGORITHMS=HS256"}, "", "environment MOZAIKS_JWT_ALGORITHMS"},
		{"no algorithm", []string{"MOZAIKS_JWT_ALGORITHMS=,"}, "", "environment MOZAIKS_JWT_ALGORITHMS"},
		{"a public algorithm for a secret", []string{"JWT_ALGORITHM=RS256"}, "", "environment JWT_ALGORITHM"},
		{"an address with a password", []string{"MOZAIKS_JWKS_URL=https://u:hush@id.test/"}, "", "environment MOZAIKS_JWKS_URL"},
		{"an address that is none", []string{"MOZAIKS_PLATFORM_JWKS_URL=id.test"}, "", "environment MOZAIKS_PLATFORM_JWKS_URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := load(t, "", tt.env, nil)
			if err == nil {
				if got := c.UserTokens(); got != tt.mode {
					t.Errorf("mode %q, want %q", got, tt.mode)
				}
				err = c.Validate()
			}
			if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%v, want %q", err, tt.refused)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("%v gives a secret away", err)
			}
			if err != nil {
				return
			}
			if err := LoadSecrets(&c); err != nil {
				t.Fatal(err)
			}
			u, err := newUsers(&c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			if err != nil || (u.port() == nil) != (tt.name == "no secret door") {
				t.Errorf("users %v, %v", u.port(), err)
			}
		})
	}
}

func TestSecretOfTokens(t *testing.T) {
	const odd = " a,b ,\tc "
	c, warnings, err := load(t, "", []string{"JWT_SECRET=" + odd}, nil)
	if err != nil || len(c.JWTSecret.Values) != 1 || c.JWTSecret.Values[0] != odd {
		t.Errorf("the secret was changed: %d values, %v", len(c.JWTSecret.Values), err)
	}
	if text := strings.Join(warnings, "\n"); !strings.Contains(text, "JWT_SECRET has less than 32") || strings.Contains(text, odd) {
		t.Errorf("warnings %q", text)
	}
	for name, want := range map[string]Shown{
		"jwt_secret": {Value: "(hidden)", Origin: "environment JWT_SECRET"},
		"auth_mode":  {Value: AuthLocal, Origin: "default"},
	} {
		if got := shown(&c, name); got.Value != want.Value || got.Origin != want.Origin {
			t.Errorf("%s is shown as %+v, want %+v", name, got, want)
		}
	}
	c, warnings, err = load(t, "", []string{"MOZAIKS_PLATFORM_JWKS_URL=http://id.test/keys", "MOZAIKS_PLATFORM_ISSUER=i", "MOZAIKS_AUDIENCE=a"}, nil)
	if err != nil || !strings.Contains(strings.Join(warnings, "\n"), "use https") || len(warnings) != 1 {
		t.Errorf("warnings %q, %v", warnings, err)
	}
	if got := shown(&c, "jwt_secret"); got.Value != "(not used)" {
		t.Errorf("jwt_secret is shown as %+v", got)
	}
	if got := shown(&c, "issuer"); got.Origin != "environment MOZAIKS_PLATFORM_ISSUER" {
		t.Errorf("issuer is shown as %+v", got)
	}
	if err := LoadSecrets(&c); err != nil || len(c.JWTSecret.Values) > 0 {
		t.Errorf("a secret was made that nothing uses: %v", err)
	}
}

// A token is signed for whoever may have one, and taken by the server it is for.
func TestUserToken(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	if _, err := UserToken(&cfg, TokenUser{ID: "ann"}, time.Hour); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "grout serve") {
		t.Errorf("without a secret: %v", err)
	}
	cfg.Claims.UserID, cfg.Claims.Roles, cfg.Claims.Superadmin, cfg.Claims.Username = "x.uid", "realm.roles", "realm.root", "x.name"
	cfg.Issuer, cfg.Audience, cfg.JWTAlgorithm = "i", "a", "HS384"
	server := cfg
	if err := LoadSecrets(&server); err != nil {
		t.Fatal(err)
	}
	u, err := newUsers(&server, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	token, err := UserToken(&cfg, TokenUser{ID: "ann", Username: "Ann", Email: "a@b", Roles: []string{"editor"}, Superadmin: true}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := u.Identify(t.Context(), token)
	if err != nil || id.UserID != "ann" || id.Username != "Ann" || id.Email != "a@b" || len(id.Roles) != 1 || !id.Superadmin {
		t.Errorf("%+v, %v", id, err)
	}
	for name, change := range map[string]func(c *Config, u *TokenUser, life *time.Duration){
		"external":             func(c *Config, _ *TokenUser, _ *time.Duration) { c.AuthMode = "oidc" },
		"production":           func(c *Config, _ *TokenUser, _ *time.Duration) { c.Env, c.AuthMode = "production", "local" },
		"a closed door":        func(c *Config, _ *TokenUser, _ *time.Duration) { c.JWTSecret.Closed = true },
		"nobody":               func(_ *Config, u *TokenUser, _ *time.Duration) { u.ID = "" },
		"a long id":            func(_ *Config, u *TokenUser, _ *time.Duration) { u.ID = strings.Repeat("x", 129) },
		"no time":              func(_ *Config, _ *TokenUser, life *time.Duration) { *life = 0 },
		"no superadmins there": func(c *Config, u *TokenUser, _ *time.Duration) { c.Claims.Superadmin, u.Superadmin = "", true },
		"no names there":       func(c *Config, u *TokenUser, _ *time.Duration) { c.Claims.Username, u.Username = "", "Ann" },
	} {
		c, who, life := server, TokenUser{ID: "ann"}, time.Hour
		change(&c, &who, &life)
		if _, err := UserToken(&c, who, life); err == nil {
			t.Errorf("%s: a token was signed", name)
		}
	}
}

// The start prints a token that the generated secret signs, and none that a secret from
// outside would.
func TestPrintedToken(t *testing.T) {
	for _, secret := range []Secret{{}, {Values: []string{"from outside, of 32 characters and more"}}} {
		cfg := DefaultConfig()
		cfg.DataDir, cfg.JWTSecret = filepath.Join(t.TempDir(), "data"), secret
		if err := LoadSecrets(&cfg); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		(&node{cfg: cfg}).offerToken(&b)
		if printed := b.Len() > 0; printed != (len(secret.Values) == 0) {
			t.Errorf("printed %q", b.String())
		}
		if b.Len() == 0 {
			continue
		}
		u, err := newUsers(&cfg, slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(b.String())
		if id, err := u.Identify(t.Context(), words[len(words)-1]); err != nil || id.UserID != DevUser {
			t.Errorf("%+v, %v", id, err)
		}
	}
}
