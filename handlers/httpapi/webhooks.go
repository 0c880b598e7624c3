package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// Webhooks shows the webhooks of the settings, and lets them be tried and resumed. A
// *schemas.Error inside an error is the caller's.
type Webhooks interface {
	List() []Webhook
	// Test sends a message that means nothing, once.
	Test(ctx context.Context, name string) (WebhookTest, error)
	// Resume lets one go on at once; with skip, behind the fact that is the next one.
	Resume(ctx context.Context, name string, skip bool) error
	// Trouble lists deliveries, upstream reporting included, that are not well.
	Trouble() []schemas.DeliveryTrouble
}

// noWebhooks stands in where a server is made without webhooks.
type noWebhooks struct{}

func (noWebhooks) List() []Webhook { return []Webhook{} }
func (noWebhooks) Test(_ context.Context, name string) (WebhookTest, error) {
	return WebhookTest{}, schemas.Errorf(schemas.CodeNotFound, "No webhook has the name %q", name)
}

func (noWebhooks) Resume(_ context.Context, name string, _ bool) error {
	return schemas.Errorf(schemas.CodeNotFound, "No webhook has the name %q", name)
}
func (noWebhooks) Trouble() []schemas.DeliveryTrouble { return nil }

// Webhook is how a webhook is. It holds no secret.
type Webhook struct {
	Name           string      `json:"name"`
	URL            string      `json:"url"` // without its query
	Kinds          []string    `json:"kinds"`
	Apps           []string    `json:"apps"`
	Enabled        bool        `json:"enabled"`
	State          string      `json:"state"`
	Delivered      uint64      `json:"delivered"`
	Skipped        uint64      `json:"skipped"`
	Failures       int64       `json:"failures"` // since the start
	FailuresInARow int         `json:"failures_in_a_row"`
	FailingSince   *string     `json:"failing_since"`
	LastError      *string     `json:"last_error"`
	NextTryAt      *string     `json:"next_try_at"`
	LastSentAt     *string     `json:"last_sent_at"`
	Waiting        uint64      `json:"waiting"`
	OldestAt       *string     `json:"oldest_at"`
	StoppedReason  *string     `json:"stopped_reason"`
	StoppedAt      *string     `json:"stopped_at"`
	Gaps           uint64      `json:"gaps"`
	Gap            *WebhookGap `json:"gap"`
}

// WebhookGap is what expired before a webhook had taken it: sequences of MOZAIKS_EVT.
type WebhookGap struct {
	From    uint64 `json:"from_sequence"`
	To      uint64 `json:"to_sequence"`
	FoundAt string `json:"found_at"`
}

// WebhookTest is what came of a message that was sent to try an endpoint.
type WebhookTest struct {
	Name      string  `json:"name"`
	ID        string  `json:"id"`
	Delivered bool    `json:"delivered"`
	TookMs    int64   `json:"took_ms"`
	Error     *string `json:"error"`
}

// webhooks serves GET /api/webhooks.
func (s *Server) webhooks(c echo.Context) error {
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return err
	}
	list := s.Webhooks.List()
	for i := range list {
		if len(list[i].Kinds) == 0 {
			list[i].Kinds = []string{"*"}
		}
		if list[i].Apps == nil {
			list[i].Apps = []string{}
		}
	}
	return sendValue(c, map[string][]Webhook{"webhooks": list})
}

// testWebhook serves POST /api/webhooks/{name}/test.
func (s *Server) testWebhook(c echo.Context) error {
	name, err := idParam(c, "name")
	if err != nil {
		return err
	}
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return err
	}
	t, err := s.Webhooks.Test(c.Request().Context(), name)
	if err != nil {
		return fmt.Errorf("test a webhook: %w", err)
	}
	return sendValue(c, t)
}

// resumeWebhook serves POST /api/webhooks/{name}/resume.
func (s *Server) resumeWebhook(c echo.Context) error {
	name, err := idParam(c, "name")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "skip")
	if err != nil {
		return err
	}
	skip := false
	if text, given := p.get("skip"); given {
		if skip = text == "true"; !skip && text != "false" {
			p.fault("skip", "skip must be true or false", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	if err := s.Webhooks.Resume(c.Request().Context(), name, skip); err != nil {
		return err
	}
	return sendValue(c, map[string]string{"name": name, "status": "resumed"})
}

// sendValue answers 200 with a value as JSON.
func sendValue(c echo.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, b)
}
