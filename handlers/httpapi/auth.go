package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"

	"grout/schemas"
)

// rule says who may call a route (contract §3).
type rule int

const (
	anybody      rule = iota
	keys              // an internal or a service key
	keysOrBasic       // the same, or HTTP Basic with one of them as password
	keysOrUser        // a key for any app, or a user token for what is its user's in this app
	watchers          // the same, with the token also as ?access_token=, for clients that can only be given a URL
	usersOnly         // a user token
	serviceOnly       // a service key
	internalOnly      // an internal key
)

// keyring holds the hashes of the keys of one door, so that comparing takes the
// same time whatever the length of what was sent.
type keyring [][sha256.Size]byte

func newKeyring(list []string) keyring {
	var k keyring
	for _, key := range list {
		if key != "" { // the empty text closes its door (contract §3)
			k = append(k, sha256.Sum256([]byte(key)))
		}
	}
	return k
}

func (k keyring) closed() bool { return len(k) == 0 }

// holds compares with every key, in constant time.
func (k keyring) holds(key string) bool {
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range k {
		found |= subtle.ConstantTimeCompare(sum[:], k[i][:])
	}
	return found == 1
}

var (
	errInternalClosed  = schemas.Errorf(schemas.CodeNotConfigured, "Internal API not configured (no INTERNAL_API_KEY set)")
	errInternalMissing = schemas.Errorf(schemas.CodeUnauthorized, "Missing X-Internal-API-Key header")
	errInternalWrong   = schemas.Errorf(schemas.CodeForbidden, "Invalid internal API key")
	errServiceClosed   = schemas.Errorf(schemas.CodeNotConfigured, "Service API not configured (no MOZAIKS_ALLOWED_SERVICE_KEYS set)")
	errServiceWrong    = schemas.Errorf(schemas.CodeUnauthorized, "Invalid or missing service key")
)

// admit judges who calls. Of several credentials the internal key counts, then
// the service key, then the user token, then Basic; where only users may call, keys
// do not count at all.
func (s *Server) admit(ctx context.Context, r rule, h http.Header) (*caller, error) {
	switch r {
	case anybody:
		return &caller{}, nil
	case watchers:
		r = keysOrUser
	}
	scheme, credential := authorization(h)
	switch r {
	case usersOnly:
		if scheme != schemeBearer {
			credential = ""
		}
		return s.admitUser(ctx, credential)
	case serviceOnly:
		if scheme != schemeBearer {
			credential = ""
		}
		return keyCaller, s.admitService(credential)
	}
	internal := h.Get("X-Internal-API-Key")
	if internal == "" && scheme == schemeInternal {
		internal = credential
	}
	switch {
	case internal != "":
		return keyCaller, s.admitInternal(internal)
	case r == internalOnly && s.internal.closed():
		return nil, errInternalClosed
	case r == internalOnly:
		return nil, errInternalMissing
	case scheme == schemeBearer && s.meansUser(r, credential):
		who, err := s.admitUser(ctx, credential)
		if err == nil && r != keysOrUser {
			err = errUserDenied
		}
		return who, err
	case scheme == schemeBearer:
		return keyCaller, s.admitService(credential)
	case scheme == "basic" && r == keysOrBasic:
		return keyCaller, s.admitBasic(credential)
	case s.internal.closed() && s.service.closed() && r == keysOrUser && s.Users != nil:
		return nil, errTokenMissing
	case s.internal.closed() && s.service.closed():
		return nil, errInternalClosed
	}
	return nil, errInternalMissing
}

func (s *Server) admitInternal(key string) error {
	switch {
	case s.internal.closed():
		return errInternalClosed
	case !s.internal.holds(key):
		return errInternalWrong
	}
	return nil
}

func (s *Server) admitService(key string) error {
	switch {
	case s.service.closed():
		return errServiceClosed
	case !s.service.holds(key):
		return errServiceWrong
	}
	return nil
}

// admitBasic takes any user name with a key of either kind as password.
func (s *Server) admitBasic(credential string) error {
	if s.internal.closed() && s.service.closed() {
		return errInternalClosed
	}
	text, err := base64.StdEncoding.DecodeString(credential)
	_, password, found := strings.Cut(string(text), ":")
	internal, service := s.internal.holds(password), s.service.holds(password)
	if err != nil || !found || !internal && !service {
		return errServiceWrong
	}
	return nil
}

const schemeBearer = "bearer"

// schemeInternal is the audit's literal spelling of the internal key: the header
// "Authorization: X-Internal-API-Key: <key>" (contract §3).
const schemeInternal = "x-internal-api-key:"

// authorization splits the Authorization header into its scheme, in lower case,
// and what follows.
func authorization(h http.Header) (scheme, credential string) {
	v := h.Get("Authorization")
	if n := len(schemeInternal); len(v) >= n && strings.EqualFold(v[:n], schemeInternal) {
		return schemeInternal, strings.TrimSpace(v[n:])
	}
	scheme, credential, _ = strings.Cut(v, " ")
	return strings.ToLower(scheme), strings.TrimSpace(credential)
}
