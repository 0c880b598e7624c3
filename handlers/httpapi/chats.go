package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// chatUsage serves GET /api/chats/{chat_id}/usage (contract §7).
func (s *Server) chatUsage(c echo.Context) error {
	id, err := idParam(c, "chat_id")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "app_id")
	if err != nil {
		return err
	}
	app := p.text("app_id", s.AppID, schemas.MaxIDChars)
	if err := p.err(); err != nil {
		return err
	}
	who := callerOf(c)
	if app, err = who.appOf(s, app); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	chat, err := s.chatOf(ctx, who, app, id)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, chat.AppendJSON(make([]byte, 0, 512)))
}

// summarizeChat serves POST /api/chats/{chat_id}/usage/summary (contract §7): it tells the
// chat's totals as a fact, and answers them. The app may stand in the query or in the body,
// which need not be there.
func (s *Server) summarizeChat(c echo.Context) error {
	id, err := idParam(c, "chat_id")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "app_id")
	if err != nil {
		return err
	}
	app := p.text("app_id", "", schemas.MaxIDChars)
	if err := p.err(); err != nil {
		return err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	named, _, fault := schemas.ParseEventVoid(body.bytes) // the same fields
	named = strings.Clone(named)
	body.release()
	if fault != nil {
		return fault
	}
	who := callerOf(c)
	if app, err = who.appOf(s, cmp.Or(app, named)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	if _, err := s.chatOf(ctx, who, app, id); err != nil {
		return err
	}
	answer, applied, err := s.run(c, schemas.SummarizeChat.Name, app, (&schemas.ChatSummarize{ChatID: id}).EncodePayload(nil))
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "chat_id", id)
	}
	return sendJSON(c, http.StatusOK, answer)
}

var errNoChat = schemas.Errorf(schemas.CodeNotFound, "The app has no chat with this id")

// chatOf gives a chat of an app. Somebody else's is as unknown as one that is not there.
func (s *Server) chatOf(ctx context.Context, who caller, app, id string) (*schemas.ChatUsage, error) {
	chat, err := s.Reads.Chat(ctx, app, id)
	if err != nil {
		return nil, fmt.Errorf("usage of a chat: %w", err)
	}
	if chat == nil || !who.owns(chat.UserID) {
		return nil, errNoChat
	}
	return chat, nil
}
