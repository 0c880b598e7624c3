package httpapi

import (
	"net/http"
	"time"

	"grout/schemas"
)

// Live shows people what happens while it happens (contract §6). Both of its methods are
// told who may see what: they judge nobody.
type Live interface {
	// Socket takes over the connection of a WebSocket handshake and returns once that is
	// answered. An error says that it was not, and that nothing was sent.
	Socket(w http.ResponseWriter, r *http.Request, s Socket) error
	// Stream sends events until the caller goes away or may see no more. Nothing was sent
	// when it returns an error.
	Stream(w http.ResponseWriter, r *http.Request, s Stream) error
}

// Socket is a WebSocket as it was asked for.
type Socket struct {
	Subprotocol string // that carried the token; chosen in the answer
	// Close is the code that the socket is closed with as soon as it is open, since a
	// browser shows nobody why a handshake was refused; Reason says why. 0: it stays open.
	Close  int
	Reason string

	App, Chat, User string
	Superadmin      bool      // may see everybody's chat
	After           *uint64   // what follows this number of the chat is sent; nil: what happens from now on
	Expires         time.Time // of the token
}

// Stream is a stream of events as it was asked for.
type Stream struct {
	App, Chat, Run string   // empty: any
	Kinds          []string // none: any
	User           string   // whose chats and runs are seen; empty: everybody's
	Head           bool     // headers alone
	After          string   // id of the last event that was seen; empty: what happens from now on
	Expires        time.Time
}

// Codes that a WebSocket is closed with (contract §6, docs/live.md).
const (
	CloseUnauthorized = 4001 // no token, a bad one, or one that has expired
	CloseForbidden    = 4003 // somebody else's
	CloseInvalid      = 4400 // what was asked for cannot be
)

// noLive stands for Live where there is none.
type noLive struct{}

var errNoLive = schemas.Errorf(schemas.CodeUnavailable, "Live streams are not available")

func (noLive) Socket(http.ResponseWriter, *http.Request, Socket) error { return errNoLive }

func (noLive) Stream(http.ResponseWriter, *http.Request, Stream) error { return errNoLive }
