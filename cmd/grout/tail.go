package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxEventBytes bounds one event: a fact may have as many bytes as a group.
	maxEventBytes = 16 << 20
	// silentFor is how long a stream may say nothing; the server's heartbeats come more
	// often.
	silentFor   = time.Minute
	comeBackMin = 250 * time.Millisecond
	comeBackMax = 10 * time.Second
)

// liveEvent is an event of GET /api/events/stream.
type liveEvent struct {
	id, kind string
	data     []byte
}

// follower reads a stream of events, and comes back with the id of the last one when it
// is cut off.
type follower struct {
	to     *sender
	query  url.Values
	after  string // id of the last event; empty: from now on
	notes  io.Writer
	retry  time.Duration // that the server asks for
	opened func()        // when the server has answered for the first time; may be nil
}

// errEnough ends the reading from within.
var errEnough = errors.New("enough was read")

// follow calls show for every event until ctx ends or show says errEnough. A stream that
// cannot be opened the first time is an error; one that breaks is opened again.
func (f *follower) follow(ctx context.Context, show func(*liveEvent) error) error {
	for failures := 0; ; {
		began := time.Now()
		opened, err := f.once(ctx, show)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return nil
		}
		var passing *passingError
		var shown *showError
		switch {
		case errors.As(err, &shown):
			return shown.error
		case !opened && f.opened != nil, !opened && !errors.As(err, &passing) && !isTransport(err):
			return err
		case opened:
			if f.opened = nil; time.Since(began) > comeBackMax {
				failures = 0
			}
		}
		wait := max(f.retry, comeBackMin<<min(failures, 6))
		failures++
		wait = min(wait, comeBackMax)
		if err == nil {
			err = errors.New("the server has ended the stream")
		}
		fmt.Fprintf(f.notes, "grout: %v; coming back in %s\n", err, wait.Round(time.Millisecond))
		if sleep(ctx, wait/2+rand.N(wait/2+1)) != nil {
			return nil
		}
	}
}

// showError is a fault of whoever the events are shown to.
type showError struct{ error }

// isTransport tells a connection that failed from an answer that says no.
func isTransport(err error) bool {
	var u *url.Error
	return errors.As(err, &u) || errors.Is(err, errSilent)
}

var errSilent = errors.New("the server was silent for too long")

// once reads one stream until it ends.
func (f *follower) once(ctx context.Context, show func(*liveEvent) error) (opened bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silentFor, func() { cancel(errSilent) })
	defer silence.Stop()
	target := f.to.base.JoinPath("/api/events/stream")
	target.RawQuery = f.query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return false, err
	}
	f.to.identify(req)
	req.Header.Set("Accept", "text/event-stream")
	if f.after != "" {
		req.Header.Set("Last-Event-ID", f.after)
	}
	client := *f.to.client
	client.Timeout = 0
	resp, err := client.Do(req)
	if err != nil {
		return false, cause(ctx, err)
	}
	defer resp.Body.Close()
	target.RawQuery = ""
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes)) // what could be read of a refusal
		return false, f.to.refusal(http.MethodGet, target, resp.StatusCode, text, retryAfter(resp.Header.Get("Retry-After"), time.Now()))
	}
	if ct, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); ct != "text/event-stream" {
		return false, fmt.Errorf("%s answers with %q, which is no stream of events", target, ct)
	}
	if f.opened != nil {
		f.opened()
	}
	return true, cause(ctx, f.read(resp.Body, func() { silence.Reset(silentFor) }, show))
}

func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); err != nil && errors.Is(why, errSilent) {
		return why
	}
	return err
}

// read takes the lines of a stream apart (the HTML standard, "Server-sent events").
func (f *follower) read(body io.Reader, heard func(), show func(*liveEvent) error) error {
	in := bufio.NewReaderSize(body, 64<<10)
	var e liveEvent
	e.id = f.after
	for {
		line, err := readEventLine(in, maxEventBytes-len(e.data))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		heard()
		if len(line) == 0 {
			if f.after = e.id; e.kind != "" || len(e.data) > 0 {
				e.data = bytes.TrimSuffix(e.data, []byte("\n"))
				if err := show(&e); err != nil {
					if errors.Is(err, errEnough) {
						return err
					}
					return &showError{err}
				}
			}
			e = liveEvent{id: f.after}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			e.id = string(value)
		case "event":
			e.kind = string(value)
		case "data":
			e.data = append(append(e.data, value...), '\n')
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				f.retry = min(time.Duration(ms)*time.Millisecond, comeBackMax)
			}
		}
	}
}

// readEventLine reads a line without its end, of at most so many bytes.
func readEventLine(in *bufio.Reader, most int) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > most {
			return nil, fmt.Errorf("an event has more than %d bytes", maxEventBytes)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			line = append(line, part...)
			continue
		}
		if err != nil {
			return nil, err
		}
		return bytes.TrimRight(append(line, part...), "\r\n"), nil
	}
}

// envelope is what an event says (contract §6).
type envelope struct {
	Type      string          `json:"type"`
	Data      json.RawMessage `json:"data"`
	ChatID    string          `json:"chat_id"`
	Sequence  uint64          `json:"sequence"`
	Timestamp string          `json:"timestamp"`
}
