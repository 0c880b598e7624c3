package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"grout/schemas"
)

// retryError says that a request may be taken later.
type retryError struct {
	why   string
	after time.Duration // as the answer asks for; 0: it does not
}

func (e *retryError) Error() string { return e.why }

// refusedError says that a request was understood and will never be taken as it is.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return e.why }

// answer is what the Platform says of a list. The reference, too, has taken or refused
// each entry for good when it says so with a 2xx.
type answer struct {
	Failed int64
	Errors []json.RawMessage
}

// send reports events, and tells how many were taken and refused for good. After an error
// all of them are sent again; their ids keep them from counting twice.
func (r *reporting) send(ctx context.Context, events []schemas.SentEvent) (taken, refused int, err error) {
	list := make([]schemas.SentEvent, 0, len(events))
	for i := range events {
		if events[i].Event.Reported() {
			list = append(list, events[i])
		}
	}
	if len(list) == 0 {
		return 0, 0, nil
	}
	w := sending{reporting: r}
	if err := w.part(ctx, list); err != nil {
		return 0, 0, err
	}
	if len(w.alone) > 0 && w.taken == 0 {
		return 0, 0, w.why // nothing proves that it takes anything at all
	}
	for i := range w.alone {
		e := &w.alone[i].Event
		r.o.Logger.Error("the Platform refuses an event for good; it is not sent again", "app_id", e.AppID, "event_id", e.EventID, "error", cut(w.why.Error()))
	}
	return w.taken, w.refused + len(w.alone), nil
}

// sending is one batch on its way. A request that is refused is cut in halves until what
// is refused stands alone.
type sending struct {
	*reporting
	taken, refused int // as answers with 2xx say
	alone          []schemas.SentEvent
	why            error
}

func (w *sending) part(ctx context.Context, events []schemas.SentEvent) error {
	body, n := reportBody(events)
	if n == len(events) {
		a, err := w.post(ctx, body)
		switch refusal := (*refusedError)(nil); {
		case err == nil:
			w.note(a, n)
			return nil
		case !errors.As(err, &refusal):
			return err
		case n == 1:
			w.alone, w.why = append(w.alone, events[0]), err
			return nil
		}
		n = len(events) / 2
	}
	if err := w.part(ctx, events[:n]); err != nil {
		return err
	}
	return w.part(ctx, events[n:])
}

// reportBody writes as many events as a request holds, one at least.
func reportBody(events []schemas.SentEvent) (body []byte, n int) {
	body = append(make([]byte, 0, 64+400*len(events)), `{"events":[`...)
	for n = range events {
		if n > 0 && len(body) > upstreamBytes {
			return append(body[:len(body)-1], `]}`...), n
		}
		body = append(schemas.AppendUsageReport(body, &events[n].Event), ',')
	}
	return append(body[:len(body)-1], `]}`...), len(events)
}

// note counts what an answer says, and tells what it refuses.
func (w *sending) note(a answer, n int) {
	failed := int(min(max(a.Failed, 0), int64(n)))
	w.taken += n - failed
	w.refused += failed
	for _, e := range a.Errors[:min(len(a.Errors), listedRefusals)] {
		w.o.Logger.Error("the Platform refuses an event for good; it is not sent again", "error", cut(string(e)))
	}
	if failed > listedRefusals || failed > len(a.Errors) {
		w.o.Logger.Error("the Platform refuses events for good; they are not sent again", "refused", failed, "listed", min(len(a.Errors), listedRefusals))
	}
}

func (u *Upstream) post(ctx context.Context, body []byte) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return a, fmt.Errorf("report usage: %w", err)
	}
	h := req.Header
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json")
	h.Set("Authorization", "Bearer "+u.o.Key)
	h.Set("X-Mozaiks-Service", "core")
	resp, err := u.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("report usage: %w", err) // it names the URL, which holds no key
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, upstreamAnswer+1))
	if err != nil {
		return a, fmt.Errorf("report usage: read the answer: %w", err)
	}
	return judgeAnswer(resp, text, u.o.RetryMost)
}

// judgeAnswer reads an answer. Only what says that it is of the endpoint that was meant
// counts as taken: a page of somebody in between does not.
func judgeAnswer(resp *http.Response, text []byte, most time.Duration) (a answer, err error) {
	status := resp.StatusCode
	switch {
	case status >= 200 && status < 300 && len(bytes.TrimSpace(text)) == 0:
		return a, nil
	case status >= 200 && status < 300:
		var fields map[string]json.RawMessage
		if len(text) > upstreamAnswer || json.Unmarshal(text, &fields) != nil || fields == nil {
			return a, &retryError{why: fmt.Sprintf("the Platform answered %d without saying what it took: %q", status, cut(string(text)))}
		}
		// It was taken, whatever else it says of it.
		_ = json.Unmarshal(fields["errors"], &a.Errors)
		if json.Unmarshal(fields["failed"], &a.Failed) != nil {
			a.Failed = int64(len(a.Errors))
		}
		return a, nil
	}
	why := fmt.Sprintf("the Platform answered %d: %q", status, cut(string(text)))
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return a, &refusedError{why}
	}
	return a, &retryError{why, retryAfter(resp.Header, time.Now(), most)}
}
