package identity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"grout/schemas"
)

// Claims name what of a token says who its user is (contract §3). A name that no claim
// has is also taken as a path, as in realm_access.roles. The zero value of a name stands
// for the default in brackets.
type Claims struct {
	UserID         string // [sub]
	Email          string // [email]
	Username       string // [none: made of the e-mail address, else of the id]
	Roles          string // [roles]
	Superadmin     string // [none]
	SuperadminRole string // [none]
}

func (c Claims) withDefaults() Claims {
	c.UserID = cmp.Or(c.UserID, "sub")
	c.Email = cmp.Or(c.Email, "email")
	c.Roles = cmp.Or(c.Roles, "roles")
	return c
}

// latest is the last instant that a claim may name: later ones do not fit the numbers
// that they are compared with.
var latest = float64(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix())

// identity reads the claims of a token that is genuine and of now.
func (c Claims) identity(claims jwt.MapClaims) (schemas.Identity, error) {
	for _, name := range [...]string{"exp", "nbf", "iat"} {
		if n, ok := claims[name].(float64); ok && (n < 0 || n > latest) {
			return schemas.Identity{}, fmt.Errorf("%w: %s", errClaims, name)
		}
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return schemas.Identity{}, fmt.Errorf("%w: exp", errClaims)
	}
	subject, _ := claims["sub"].(string)
	id, _ := claim(claims, c.UserID).(string)
	if subject == "" || !isID(id) {
		return schemas.Identity{}, fmt.Errorf("%w: sub or user id", errClaims)
	}
	who := schemas.Identity{UserID: id, Roles: rolesOf(claim(claims, c.Roles)), Expires: exp.UnixNano()}
	who.Email, _ = claim(claims, c.Email).(string)
	who.Username = c.username(claims, &who)
	who.Superadmin = c.Superadmin != "" && truthy(claim(claims, c.Superadmin)) || c.hasSuperadminRole(who.Roles)
	return who, nil
}

// isID tells whether a text can be an id of the contract (§1).
func isID(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= schemas.MaxIDChars && utf8.ValidString(s)
}

func (c Claims) username(claims jwt.MapClaims, who *schemas.Identity) string {
	if c.Username != "" {
		if name, _ := claim(claims, c.Username).(string); name != "" {
			return name
		}
	}
	if local, _, _ := strings.Cut(who.Email, "@"); local != "" {
		return local
	}
	first := []rune(who.UserID)
	return "user_" + string(first[:min(len(first), 8)])
}

func (c Claims) hasSuperadminRole(roles []string) bool {
	wanted := strings.TrimSpace(c.SuperadminRole)
	if wanted == "" {
		return false
	}
	for _, r := range roles {
		if strings.EqualFold(r, wanted) {
			return true
		}
	}
	return false
}

// claim gives a claim by its name, else by a path of names.
func claim(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	first, rest, nested := strings.Cut(name, ".")
	if inner, ok := claims[first].(map[string]any); ok && nested {
		return claim(inner, rest)
	}
	return nil
}

// rolesOf reads a list, or a text that is split on commas, else on blanks. It is never nil.
func rolesOf(v any) []string {
	roles := []string{}
	add := func(text string) {
		if text = strings.TrimSpace(text); text != "" {
			roles = append(roles, text)
		}
	}
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if text, ok := item.(string); ok {
				add(text)
			}
		}
	case string:
		parts := strings.Fields(v)
		if strings.Contains(v, ",") {
			parts = strings.Split(v, ",")
		}
		for _, text := range parts {
			add(text)
		}
	}
	return roles
}

// truthy reads a claim that says yes; whatever else it says is no.
func truthy(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case float64:
		return v == 1
	case json.Number:
		return v == "1"
	case string:
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "true", "1", "yes", "on":
			return true
		}
	}
	return false
}
