package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// Codes that a socket is closed with (contract §6, docs/live.md).
const (
	closeUnauthorized = websocket.StatusCode(4001)
	closeForbidden    = websocket.StatusCode(4003)
	closeInvalid      = websocket.StatusCode(4400)
	closeRestart      = websocket.StatusServiceRestart
	closeCrowded      = websocket.StatusTryAgainLater
	closeChatter      = websocket.StatusPolicyViolation
)

const (
	maxClientFrame = 64 << 10
	// sendBuffer bounds what the kernel takes for somebody who does not read.
	sendBuffer = 128 << 10
	// closeLimit is how long it is waited until the other side has closed as well.
	closeLimit = 2 * time.Second
	// pongLimit is how long an answer to a ping may take; who resumes is not listened to for
	// as long as openLimit.
	pongLimit = openLimit + 10*time.Second
)

// Socket is a WebSocket as it was asked for; whoever asked was judged.
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

// Socket takes over the connection of a handshake. It returns once that is answered; the
// socket lives on. With an error, nothing was sent.
func (t *Transports) Socket(w http.ResponseWriter, r *http.Request, s Socket) error {
	if s.Close != 0 {
		return t.refuse(w, r, &s, websocket.StatusCode(s.Close), s.Reason)
	}
	leave, err := t.enter(s.User)
	if errors.Is(err, errGreedy) {
		return t.refuse(w, r, &s, closeCrowded, errGreedy.Detail)
	}
	if err != nil {
		return err
	}
	c, err := t.openFor(r, s.filter(), From{Number: s.After})
	switch {
	case errors.Is(err, ErrForeign):
		leave()
		return t.refuse(w, r, &s, closeForbidden, "The chat is not yours")
	case errors.Is(err, ErrAhead):
		leave()
		return t.refuse(w, r, &s, closeInvalid, "last_sequence is beyond the chat's last number")
	case err != nil:
		leave()
		return unavailable(err)
	}
	// What is asked for is fixed before the handshake is answered: nothing that happens
	// after the answer is missed.
	conn, ws, err := upgrade(w, r, &s)
	if err != nil {
		c.Close()
		leave()
		return nil // it was answered
	}
	one := newSocket(t, s, conn, ws, c)
	if s.After != nil {
		one.last.Store(*s.After)
	}
	t.sockets.Add(1)
	go func() {
		defer leave()
		defer t.sockets.Add(-1)
		one.run()
	}()
	return nil
}

func (s *Socket) filter() Filter {
	f := Filter{AppID: s.App, ChatID: s.Chat}
	if !s.Superadmin {
		f.UserID = s.User
	}
	return f
}

// hijacked notes the connection that a handshake takes over.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	if err != nil {
		err = fmt.Errorf("take over a connection: %w", err)
	}
	return conn, rw, err
}

// upgrade answers a handshake; the origin was judged.
func upgrade(w http.ResponseWriter, r *http.Request, s *Socket) (net.Conn, *websocket.Conn, error) {
	h := &hijacked{ResponseWriter: w}
	pings := allowance{}
	o := &websocket.AcceptOptions{
		InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled,
		OnPingReceived: func(context.Context, []byte) bool { return pings.take(time.Now()) },
	}
	if s.Subprotocol != "" {
		o.Subprotocols = []string{s.Subprotocol}
	}
	ws, err := websocket.Accept(h, r, o)
	if err != nil {
		return nil, nil, err
	}
	if tcp, ok := h.conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
	ws.SetReadLimit(maxClientFrame)
	return h.conn, ws, nil
}

// refuse opens a socket to say why it is closed. Few of them are waited for.
func (t *Transports) refuse(w http.ResponseWriter, r *http.Request, s *Socket, code websocket.StatusCode, reason string) error {
	t.refused.Add(1)
	conn, ws, err := upgrade(w, r, s)
	if err != nil {
		return nil // it was answered
	}
	if t.waitsFor() {
		go func() {
			defer t.sessions.Done()
			defer func() { <-t.farewell }()
			_ = conn.SetDeadline(time.Now().Add(closeLimit))
			_ = ws.Close(code, reason)
		}()
		return nil
	}
	_ = conn.SetWriteDeadline(time.Now().Add(closeLimit))
	_ = conn.SetReadDeadline(time.Now())
	_ = ws.Close(code, reason)
	return nil
}

// waitsFor tells whether there is room to wait for the end of one more refused socket.
func (t *Transports) waitsFor() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	select {
	case t.farewell <- struct{}{}:
		t.sessions.Add(1)
		return true
	default:
		return false
	}
}
