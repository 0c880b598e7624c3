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
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	chat, err := s.Reads.Chat(ctx, app, id)
	if err != nil {
		return fmt.Errorf("usage of a chat: %w", err)
	}
	if chat == nil {
		return schemas.Errorf(schemas.CodeNotFound, "The app has no chat with this id")
	}
	return sendJSON(c, http.StatusOK, chat.AppendJSON(make([]byte, 0, 512)))
}
