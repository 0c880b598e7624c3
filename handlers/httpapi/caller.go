package httpapi

import (
	"context"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// caller is who a request speaks for: whoever holds a key, and may name any app, or
// a user of this instance's app. The zero caller is a stranger.
type caller struct {
	Key        bool // an internal or a service key; nothing below is set
	App        string
	UserID     string
	Username   string
	Roles      []string
	Superadmin bool
	Token      string // as it was sent: it stays in memory, and out of every log, error and answer
	Expires    time.Time
}

const callerKey = "grout.caller"

var keyCaller = &caller{Key: true}

// callerOf gives who was admitted to a route.
func callerOf(c echo.Context) caller {
	if who, ok := c.Get(callerKey).(*caller); ok {
		return *who
	}
	return caller{}
}

// String and its relatives keep the token out of logs and error texts.
func (caller) String() string { return "(caller)" }

// GoString hides the token from %#v.
func (c caller) GoString() string { return c.String() }

var (
	errTokenMissing = schemas.Errorf(schemas.CodeUnauthorized, "Not authenticated")
	errUsersClosed  = schemas.Errorf(schemas.CodeNotConfigured, "User tokens not configured (no JWT_SECRET or MOZAIKS_JWKS_URL set)")
	errUserDenied   = schemas.Errorf(schemas.CodeForbidden, "A user token may not do this")
	errNotYours     = schemas.Errorf(schemas.CodeNotFound, "Not found")
)

// admitUser judges a user token; empty: there was none.
func (s *Server) admitUser(ctx context.Context, token string) (*caller, error) {
	switch {
	case s.Users == nil:
		return nil, errUsersClosed
	case token == "":
		return nil, errTokenMissing
	}
	id, err := s.Users.Identify(ctx, token)
	if err != nil {
		return nil, err
	}
	return &caller{
		App: s.AppID, UserID: id.UserID, Username: id.Username, Roles: id.Roles, Superadmin: id.Superadmin, Token: token,
		Expires: time.Unix(0, id.Expires),
	}, nil
}

// meansUser tells whether a bearer credential, which may be a service key as well, is to
// be judged as a user token: by its form, or because no key can be meant.
func (s *Server) meansUser(r rule, credential string) bool {
	switch {
	case s.Users == nil || s.service.holds(credential):
		return false
	case s.service.closed() && r == keysOrUser:
		return true
	}
	return strings.Count(credential, ".") == 2
}

// appOf gives the app that a request is about: the one it names, else this
// instance's. A user has no other; naming one is 404.
func (c caller) appOf(s *Server, named string) (string, error) {
	switch {
	case named == "" || named == s.AppID:
		return s.AppID, nil
	case !c.Key:
		return "", errNotYours
	}
	return named, nil
}

// wholeApp tells whether everything of the app may be seen.
func (c caller) wholeApp() bool { return c.Key || c.Superadmin }

// userOf gives the user whose objects are asked for: the one that is named, else the
// caller. Empty is everybody, which users never get; naming somebody else is 404.
func (c caller) userOf(named string) (string, error) {
	switch {
	case c.wholeApp() || named == c.UserID:
		return named, nil
	case named == "":
		return c.UserID, nil
	}
	return "", errNotYours
}

// scope narrows a question about a user of an app to what the caller may see.
func (c caller) scope(s *Server, app, user string) (ofApp, ofUser string, err error) {
	if ofApp, err = c.appOf(s, app); err == nil {
		ofUser, err = c.userOf(user)
	}
	return ofApp, ofUser, err
}

// owns tells whether an object of a user is the caller's to see.
func (c caller) owns(user string) bool { return c.wholeApp() || user == c.UserID }
