package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

var errNoLetter = schemas.Errorf(schemas.CodeNotFound, "There is no dead letter with this id")

// letters serves GET /api/dlq: those that wait, or others, newest first.
func (s *Server) letters(c echo.Context) error {
	p, err := readQuery(c.Request().URL.RawQuery, "app_id", "kind", "code", "status", "since", "before", "limit", "cursor")
	if err != nil {
		return err
	}
	q := schemas.LetterQuery{
		AppID: p.text("app_id", "", schemas.MaxIDChars), Kind: p.text("kind", "", schemas.MaxNameChars),
		Code: schemas.Code(p.text("code", "", schemas.MaxNameChars)), Status: schemas.LetterWaiting,
		Since: p.instant("since", 0), Before: p.instant("before", 0), Limit: p.number("limit", defaultPage, 1, maxPage),
	}
	if text, given := p.get("status"); given && text == "all" {
		q.Status = 0
	} else if given {
		var known bool
		if q.Status, known = schemas.LetterStatusNamed(text); !known {
			p.fault("status", "status must be one of waiting, retried, dropped, all", "enum")
		}
	}
	if text, given := p.get("cursor"); given {
		n, err := fmt.Sscanf(text, "%d.%d.%d", &q.Behind.Partition, &q.Behind.Seq, &q.Behind.Index)
		if err != nil || n != 3 || q.Behind.Partition < 0 || text != letterCursor(q.Behind) {
			p.fault("cursor", "cursor must be the next_cursor of a page", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	page, err := s.DeadLetters.Letters(ctx, q)
	if err != nil {
		return fmt.Errorf("list of dead letters: %w", err)
	}
	out := newStream(c, "application/json")
	out.buf = append(out.buf, `{"dead_letters":[`...)
	for i := range page.Letters {
		if i > 0 {
			out.buf = append(out.buf, ',')
		}
		out.buf = page.Letters[i].AppendJSON(out.buf)
		if err := out.full(); err != nil {
			return err
		}
	}
	out.buf = append(out.buf, `],"next_cursor":`...)
	if page.More {
		out.buf = appendAnyText(out.buf, letterCursor(page.Next))
	} else {
		out.buf = append(out.buf, "null"...)
	}
	out.buf = append(out.buf, '}')
	return out.end()
}

func letterCursor(at schemas.LetterPlace) string {
	return fmt.Sprintf("%d.%d.%d", at.Partition, at.Seq, at.Index)
}

// letterOf finds the letter that a request names.
func (s *Server) letterOf(c echo.Context) (*DeadLetter, error) {
	id, err := idParam(c, "letter_id")
	if err != nil {
		return nil, err
	}
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	l, err := s.DeadLetters.Letter(ctx, id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read a dead letter: %w", err)
	case l == nil:
		return nil, errNoLetter
	}
	return l, nil
}

// letter serves GET /api/dlq/{letter_id}: a letter with its original, byte for byte.
func (s *Server) letter(c echo.Context) error {
	l, err := s.letterOf(c)
	if err != nil {
		return err
	}
	b := l.AppendJSON(nil)
	b = append(b[:len(b)-1], `,"original":`...)
	if l.Original == nil {
		return sendJSON(c, http.StatusOK, append(b, "null}"...))
	}
	text, err := json.Marshal(l.Original)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, append(append(b, text...), '}'))
}

// retryLetter serves POST /api/dlq/{letter_id}/retry. One that was retried before is
// answered alike, and nothing is sent.
func (s *Server) retryLetter(c echo.Context) error {
	l, err := s.letterOf(c)
	switch {
	case err != nil:
		return err
	case l.Status == schemas.LetterRetried:
		c.Response().Header().Set(headerReplayed, "true")
		return sendJSON(c, http.StatusOK, l.AppendJSON(nil))
	case l.Status == schemas.LetterDropped:
		return schemas.Errorf(schemas.CodeLetterClosed, "The dead letter was dropped")
	case l.Original == nil:
		return schemas.Errorf(schemas.CodeLetterGone, "The stream of dead letters does not keep the original of this letter any more")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	frame, err := s.DeadLetters.Command(ctx, l)
	if err != nil {
		return fmt.Errorf("read the command of a dead letter: %w", err)
	}
	if err := s.Commands.Admits(l.Partition, frame.OldestEvent()); err != nil { // its events would be rejected
		return err
	}
	return s.changeLetter(c, l, schemas.RetryLetter.Name, (&schemas.LetterRetry{ID: l.ID, Frame: frame}).EncodePayload(nil))
}

// dropLetter serves DELETE /api/dlq/{letter_id}.
func (s *Server) dropLetter(c echo.Context) error {
	l, err := s.letterOf(c)
	if err != nil {
		return err
	}
	return s.changeLetter(c, l, schemas.DropLetter.Name, (&schemas.LetterDrop{ID: l.ID}).EncodePayload(nil))
}

// changeLetter takes a command about a letter, in the partition that knows it.
func (s *Server) changeLetter(c echo.Context, l *DeadLetter, kind string, payload []byte) error {
	o, applied, err := s.runCommandIn(c.Request().Context(), c, l.Partition, kind, l.AppID, payload)
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "id", l.ID)
	case o.Code != "":
		return schemas.Errorf(o.Code, "%s", o.Detail)
	}
	return sendJSON(c, http.StatusOK, o.Body)
}

// noDeadLetters stands in where a server is made without dead letters.
type noDeadLetters struct{}

var errNoDeadLetters = errors.New("this server has no dead letters")

func (noDeadLetters) Letters(context.Context, schemas.LetterQuery) (schemas.LetterPage, error) {
	return schemas.LetterPage{}, nil
}
func (noDeadLetters) Letter(context.Context, string) (*DeadLetter, error) { return nil, nil }
func (noDeadLetters) Command(context.Context, *DeadLetter) (f schemas.CommandFrame, err error) {
	return f, errNoDeadLetters
}
func (noDeadLetters) Waiting() int64 { return 0 }
