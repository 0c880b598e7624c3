package main

import (
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

	"grout/schemas"
)

const (
	ingestPath     = "/api/usage/ingest"
	attemptTimeout = 2 * time.Minute
	firstBackoff   = 200 * time.Millisecond
	longestBackoff = 10 * time.Second
	firstPoll      = 20 * time.Millisecond
	longestPoll    = time.Second
	maxAnswerBytes = 16 << 20
)

// batchAnswer is what became of a batch (contract §7).
type batchAnswer struct {
	BatchID    string           `json:"batch_id"`
	Status     string           `json:"status"`
	StatusURL  string           `json:"status_url"`
	Accepted   int64            `json:"accepted"`
	Duplicates int64            `json:"duplicates"`
	Rejected   int64            `json:"rejected"`
	Errors     []batchItemError `json:"errors"`

	replayed bool
}

type batchItemError struct {
	Index   int    `json:"index"`
	EventID string `json:"event_id"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// passingError is a failure that the same request may not meet again.
type passingError struct {
	error
	after time.Duration // the server asked for at least this pause
}

func (e *passingError) Unwrap() error { return e.error }

// sender sends batches to one server until each has been applied.
type sender struct {
	base     *url.URL
	key      string
	token    string // of a user; when set, the key is not sent
	client   *http.Client
	maxRetry time.Duration
	backoff  time.Duration // before the first retry
	retried  func(err error, pause time.Duration)
}

func newSender(base, key string, connections int, maxRetry time.Duration) (*sender, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	switch {
	case err != nil:
		return nil, usagef("--url: not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, usagef("--url: %q is not an http or https address", u.Redacted())
	case u.User != nil || u.RawQuery != "":
		return nil, usagef("--url takes no user, password or query")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = connections
	return &sender{
		base: u,
		key:  key,
		client: &http.Client{
			Transport: transport,
			Timeout:   attemptTimeout,
			// The key is for the server that was named and for no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		maxRetry: maxRetry,
		backoff:  firstBackoff,
		retried:  func(error, time.Duration) {},
	}, nil
}

func (s *sender) close() { s.client.CloseIdleConnections() }

// identify says who asks.
func (s *sender) identify(req *http.Request) {
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
		return
	}
	req.Header.Set("X-Internal-API-Key", s.key)
}

// send repeats one request, the same to the last byte, until it has been
// applied, cannot succeed, or has failed for too long. It does not begin another
// attempt once stopping has ended.
func (s *sender) send(ctx, stopping context.Context, body []byte) (batchAnswer, error) {
	var failing time.Time
	for attempt := 0; ; attempt++ {
		answer, err := s.attempt(ctx, stopping, body)
		passing := (*passingError)(nil)
		if !errors.As(err, &passing) {
			return answer, err
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		pause := max(s.pause(attempt), passing.after)
		if time.Since(failing)+pause > s.maxRetry {
			return batchAnswer{}, fmt.Errorf("no success within %s (--max-retry-time): %w", s.maxRetry, err)
		}
		s.retried(err, pause)
		if err := sleep(stopping, pause); err != nil {
			return batchAnswer{}, err
		}
	}
}

// pause doubles from attempt to attempt, with jitter so that senders part.
func (s *sender) pause(attempt int) time.Duration {
	d := min(s.backoff<<min(attempt, 16), longestBackoff)
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sender) attempt(ctx, stopping context.Context, body []byte) (batchAnswer, error) {
	answer, status, _, err := s.exchange(ctx, http.MethodPost, s.base.JoinPath(ingestPath), body)
	if err != nil || status != http.StatusAccepted {
		return answer, err
	}
	if answer.StatusURL == "" {
		return batchAnswer{}, errors.New("answer 202 without status_url")
	}
	return s.follow(ctx, stopping, answer.StatusURL)
}

// follow asks for the result of a batch that is durable but was not applied yet.
func (s *sender) follow(ctx, stopping context.Context, statusURL string) (batchAnswer, error) {
	u, err := url.Parse(statusURL)
	if err != nil {
		return batchAnswer{}, fmt.Errorf("status_url of the answer: %w", err)
	}
	// Path and query count, not the host: the way to the server is the one that was named.
	target := s.base.JoinPath(u.EscapedPath())
	target.RawQuery = u.RawQuery
	started := time.Now()
	for poll := firstPoll; ; poll = min(2*poll, longestPoll) {
		answer, status, after, err := s.exchange(ctx, http.MethodGet, target, nil)
		switch {
		case status == http.StatusNotFound:
			return batchAnswer{}, &passingError{error: err} // sending it again tells
		case err != nil:
			return batchAnswer{}, err
		case answer.Status == "applied":
			return answer, nil
		}
		pause := max(poll, after)
		if time.Since(started)+pause > s.maxRetry {
			return batchAnswer{}, fmt.Errorf("GET %s: not applied within %s (--max-retry-time)", target, s.maxRetry)
		}
		if err := sleep(stopping, pause); err != nil {
			return batchAnswer{}, err
		}
	}
}

// exchange makes one request. A status of 400 and above is an error as well.
func (s *sender) exchange(ctx context.Context, method string, target *url.URL, body []byte) (answer batchAnswer, status int, after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return answer, 0, 0, err
	}
	s.identify(req)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return answer, 0, 0, context.Cause(ctx)
		}
		return answer, 0, 0, &passingError{error: err}
	}
	defer resp.Body.Close()
	after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return answer, 0, 0, &passingError{error: fmt.Errorf("%s %s: read answer: %w", method, target, err)}
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return answer, resp.StatusCode, after, s.refusal(method, target, resp.StatusCode, text, after)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, resp.StatusCode, after, fmt.Errorf("%s %s: answer %d is not grout's: %w", method, target, resp.StatusCode, err)
	}
	answer.replayed = resp.Header.Get("Idempotency-Replayed") == "true"
	return answer, resp.StatusCode, after, nil
}

// refusal makes an error of an answer, telling passing ones from final ones.
func (s *sender) refusal(method string, target *url.URL, status int, text []byte, after time.Duration) error {
	var problem struct {
		Detail    string       `json:"detail"`
		ErrorCode schemas.Code `json:"error_code"`
	}
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(status)
	}
	err := fmt.Errorf("%s %s: %d %s", method, target, status, problem.Detail)
	if problem.ErrorCode != "" {
		err = fmt.Errorf("%w (%s)", err, problem.ErrorCode)
	}
	switch {
	case problem.ErrorCode == schemas.CodeNotConfigured: // the door is closed, not stuck
		return err
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("%w; %s", err, s.hint())
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return &passingError{err, after}
	}
	return err
}

// hint says where to look when it is not clear who asks.
func (s *sender) hint() string {
	if s.token != "" {
		return "check MOZAIKS_TOKEN, or JWT_SECRET and --data-dir"
	}
	return "check INTERNAL_API_KEY, --key-file or --data-dir"
}

// retryAfter reads the header of the same name: seconds or an HTTP date.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
