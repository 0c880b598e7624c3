package app

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"grout/handlers/deliver"
	"grout/handlers/httpapi"
	"grout/schemas"
)

// resumeWait bounds the wait for a webhook that is in the middle of a try.
const resumeWait = 5 * time.Second

// webhookPort shows webhooks to httpapi.
type webhookPort deliveries

func (p *webhookPort) List() []httpapi.Webhook {
	list := []httpapi.Webhook{}
	for _, w := range p.webhooks {
		o, s := w.Options(), w.Status()
		list = append(list, httpapi.Webhook{
			Name: o.Name, URL: shownURL(o.URL), Kinds: o.Kinds, Apps: o.Apps, Enabled: !o.Disabled, State: string(s.State),
			Delivered: s.Stand.Delivered, Skipped: s.Stand.Refused, Failures: s.Failures, FailuresInARow: s.InARow,
			LastError: textOrNull(s.LastError), FailingSince: timeOrNull(s.Since), NextTryAt: timeOrNull(s.NextTry), LastSentAt: timeOrNull(s.SentAt),
			Waiting: s.Waiting, OldestAt: timeOrNull(s.Oldest),
			StoppedReason: textOrNull(s.Stand.Stopped), StoppedAt: schemas.InstantOrNull(s.Stand.StoppedAt),
			Gaps: s.Stand.Gaps, Gap: gapOf(&s.Stand),
		})
	}
	return list
}

func (p *webhookPort) Trouble() []schemas.DeliveryTrouble { return (*deliveries)(p).unwell() }

func gapOf(d *schemas.DeliveryStand) *httpapi.WebhookGap {
	if d.Gaps == 0 {
		return nil
	}
	return &httpapi.WebhookGap{From: d.Gap.From, To: d.Gap.To, FoundAt: schemas.InstantText(d.Gap.At)}
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := schemas.InstantText(t.UnixNano())
	return &s
}

func (p *webhookPort) named(name string) (*deliver.Webhook, error) {
	for _, w := range p.webhooks {
		if w.Options().Name == name {
			return w, nil
		}
	}
	return nil, schemas.Errorf(schemas.CodeNotFound, "No webhook has the name %q", name)
}

func (p *webhookPort) Test(ctx context.Context, name string) (httpapi.WebhookTest, error) {
	w, err := p.named(name)
	if err != nil {
		return httpapi.WebhookTest{}, err
	}
	t := w.Test(ctx, "test-"+uuid.Must(uuid.NewV7()).String())
	return httpapi.WebhookTest{Name: name, ID: t.ID, Delivered: t.Error == "", TookMs: t.Took.Milliseconds(), Error: textOrNull(t.Error)}, nil
}

func (p *webhookPort) Resume(ctx context.Context, name string, skip bool) error {
	w, err := p.named(name)
	if err != nil {
		return err
	}
	if w.Options().Disabled {
		return schemas.Errorf(schemas.CodeWebhookDisabled, "The settings disable webhook %q", name)
	}
	ctx, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	if err := w.Resume(ctx, skip); err != nil {
		return fmt.Errorf("resume a webhook: %w", err)
	}
	return nil
}
