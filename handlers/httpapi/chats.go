package httpapi

import (
	"context"
	"fmt"
	"net/http"

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
