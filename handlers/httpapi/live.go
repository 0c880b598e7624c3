package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

const (
	tokenProtocol  = "access_token."
	tokenParameter = "access_token"
	// streamed notes that how long a request takes says nothing about the server.
	streamed = "grout.streamed"
	// streamBuffer bounds what the kernel takes for somebody who does not read a stream.
	streamBuffer = 128 << 10
)

// connKey is the connection of a request in its context.
type connKey struct{}

var (
	errNotUpgraded = schemas.Errorf(schemas.CodeUpgradeRequired, "This is a WebSocket: ask for it with a handshake of version 13")
	errOrigin      = schemas.Errorf(schemas.CodeForbidden, "The origin is not allowed")
)

// socket serves GET /ws/{workflow_name}/{app_id}/{chat_id}/{user_id} (contract §6): a chat as
// it goes on. What is wrong with the caller is said by a close code, after the upgrade.
func (s *Server) socket(c echo.Context) error {
	r := c.Request()
	if !upgrades(r) {
		h := c.Response().Header()
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
		h.Set("Sec-WebSocket-Version", "13")
		return errNotUpgraded
	}
	if !s.origins.allows(r) {
		return errOrigin
	}
	asked := Socket{Subprotocol: offeredToken(r.Header)}
	err := s.judgeSocket(c, &asked)
	var refused *socketRefusal
	if errors.As(err, &refused) {
		asked.Close, asked.Reason = refused.code, refused.reason
	} else if err != nil {
		return err
	}
	return s.Live.Socket(c.Response(), r, asked)
}

// socketRefusal is what is said by closing a socket.
type socketRefusal struct {
	code   int
	reason string
}

func (r *socketRefusal) Error() string { return r.reason }

func refuseSocket(code int, format string, args ...any) error {
	return &socketRefusal{code, fmt.Sprintf(format, args...)}
}

// judgeSocket fills in what may be seen.
func (s *Server) judgeSocket(c echo.Context, asked *Socket) error {
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	token := strings.TrimPrefix(asked.Subprotocol, tokenProtocol)
	if asked.Subprotocol == "" {
		token = values.Get(tokenParameter)
	}
	who, known := s.admitUser(c.Request().Context(), token)
	if known != nil {
		if problem := problemOf(known); problem.Code == schemas.CodeUnauthorized {
			return refuseSocket(CloseUnauthorized, "%s", problem.Detail)
		}
		return known
	}
	if err != nil {
		return refuseSocket(CloseInvalid, "The query string cannot be read")
	}
	asked.Expires = who.Expires
	ids := map[string]string{}
	for _, name := range []string{"workflow_name", "app_id", "chat_id", "user_id"} {
		if ids[name], err = pathParam(c, name); err != nil {
			return err
		}
	}
	if ids["app_id"] != s.AppID || ids["user_id"] != who.UserID {
		return refuseSocket(CloseForbidden, "The token is not for this app and user")
	}
	if _, err := idParam(c, "chat_id"); err != nil {
		return refuseSocket(CloseInvalid, "%.100s", problemOf(err).Detail)
	}
	asked.App, asked.Chat, asked.User, asked.Superadmin = s.AppID, ids["chat_id"], who.UserID, who.Superadmin
	return readLastSequence(values, asked)
}

// readLastSequence reads the number that frames are asked for behind. A misspelt name would
// silently show less than was asked for.
func readLastSequence(values url.Values, asked *Socket) error {
	for name, given := range values {
		switch {
		case name != tokenParameter && name != "last_sequence":
			return refuseSocket(CloseInvalid, "Unknown parameter; known are last_sequence and access_token")
		case len(given) > 1:
			return refuseSocket(CloseInvalid, "%s is given more than once", name)
		}
	}
	text, given := values["last_sequence"]
	if !given {
		return nil
	}
	n, err := strconv.ParseUint(text[0], 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != text[0] {
		return refuseSocket(CloseInvalid, "last_sequence must be a whole number from 0 to the chat's last one")
	}
	asked.After = &n
	return nil
}

// upgrades tells whether a request asks for a WebSocket as RFC 6455 §4.2.1 has it.
func upgrades(r *http.Request) bool {
	h := r.Header
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(h.Get("Sec-WebSocket-Key")))
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor == 1 && hasToken(h["Connection"], "upgrade") && hasToken(h["Upgrade"], "websocket") &&
		h.Get("Sec-WebSocket-Version") == "13" && len(h["Sec-Websocket-Key"]) == 1 && err == nil && len(key) == 16
}

func hasToken(list []string, token string) bool {
	for _, v := range list {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// offeredToken gives the first subprotocol that carries a token.
func offeredToken(h http.Header) string {
	for _, v := range h["Sec-Websocket-Protocol"] {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.TrimSpace(t); strings.HasPrefix(t, tokenProtocol) {
				return t
			}
		}
	}
	return ""
}

// eventStream serves GET /api/events/stream (contract §6): facts as Server-Sent Events.
func (s *Server) eventStream(c echo.Context) error {
	asked, err := s.streamQuery(c)
	if err != nil {
		return err
	}
	c.Set(streamed, true)
	if conn, ok := c.Request().Context().Value(connKey{}).(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = conn.SetWriteBuffer(streamBuffer)
	}
	return s.Live.Stream(c.Response(), c.Request(), asked)
}

// streamQuery reads who asks for which events, and whether they may be seen.
func (s *Server) streamQuery(c echo.Context) (asked Stream, err error) {
	p, kinds, err := readKinds(c.Request().URL.RawQuery, "app_id", "chat_id", "run_id", "last_event_id", tokenParameter)
	if err != nil {
		return asked, err
	}
	app := p.text("app_id", "", schemas.MaxIDChars)
	asked = Stream{
		Chat: p.text("chat_id", "", schemas.MaxIDChars), Run: p.text("run_id", "", schemas.MaxIDChars), Kinds: kinds,
		After: c.Request().Header.Get("Last-Event-ID"), Head: c.Request().Method == http.MethodHead,
	}
	if asked.After == "" {
		asked.After = p.text("last_event_id", "", maxEventID)
	}
	if err := p.err(); err != nil {
		return asked, err
	}
	who := callerOf(c)
	asked.Expires = who.Expires
	if asked.App, err = who.appOf(s, app); err != nil {
		return asked, err
	}
	if who.wholeApp() {
		return asked, nil
	}
	asked.User = who.UserID
	return asked, s.mayWatch(c, who, &asked)
}

// mayWatch refuses a user's filter that names somebody else's chat or run; one that names
// nothing yet shows what becomes the user's.
func (s *Server) mayWatch(c echo.Context, who caller, asked *Stream) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	if asked.Chat != "" {
		if _, err := s.chatOf(ctx, who, asked.App, asked.Chat); err != nil {
			return err
		}
	}
	if asked.Run == "" {
		return nil
	}
	r, err := s.Runs.Run(ctx, asked.App, asked.Run)
	switch {
	case err != nil:
		return fmt.Errorf("run of a stream: %w", err)
	case r == nil || !who.owns(r.UserID):
		return errNoRun
	}
	return nil
}

// readKinds reads a query in which kinds may be repeated, or separated by commas.
func readKinds(raw string, known ...string) (p query, kinds []string, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		_, err = readQuery(raw, known...)
		return p, nil, err
	}
	given := values["kind"]
	delete(values, "kind")
	if p, err = readQuery(values.Encode(), known...); err != nil {
		return p, nil, err
	}
	for _, text := range given {
		for kind := range strings.SplitSeq(text, ",") {
			if kind = strings.TrimSpace(kind); !isFactKind(kind) {
				p.fault("kind", "kind must be one of a fact; "+suggestion(kind, schemas.FactKinds()), "enum")
				return p, nil, p.err()
			}
			if !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
	}
	if len(kinds) > maxKinds {
		p.fault("kind", "too many kinds are named", "too_long")
	}
	return p, kinds, p.err()
}

const (
	maxKinds   = 64
	maxEventID = 64
)

// isFactKind tells whether a text is a kind of a fact, its type on the live streams, or
// what such begin with up to a dot.
func isFactKind(text string) bool {
	if kind := strings.TrimPrefix(text, "chat."); strings.HasPrefix(kind, "orchestration") {
		text = kind
	}
	if name, published := strings.CutPrefix(text, "plugin."); published && schemas.PublishedName(name) {
		return true
	}
	return slices.ContainsFunc(schemas.FactKinds(), func(kind string) bool {
		return text != "" && (kind == text || strings.HasPrefix(kind, text+"."))
	})
}

// admitTo judges who calls. Watchers may have their token in the query, when there is no
// credential in the headers; a key is none there.
func (s *Server) admitTo(allow rule, r *http.Request) (*caller, error) {
	if allow == watchers && r.Header.Get("Authorization") == "" && r.Header.Get("X-Internal-API-Key") == "" {
		if token := r.URL.Query().Get(tokenParameter); token != "" {
			return s.admitUser(r.Context(), token)
		}
	}
	return s.admit(r.Context(), allow, r.Header)
}
