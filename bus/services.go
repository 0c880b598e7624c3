package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// Where grout reaches what the account of plugins has: a subject there follows the prefix.
const (
	pluginPrefix = "mozaiks.v1.plugin."
	pluginAll    = pluginPrefix + ">"
)

const (
	serviceLookup  = 2 * time.Second
	maxServiceName = 255
	maxAnswers     = 1024    // of one request that wait to be read
	maxAnswerBytes = 8 << 20 // all of them
)

// Services reaches NATS services in the account of plugins. On an external cluster they
// are reached through the same import.
type Services struct{ nc *nats.Conn }

// NewServices uses a connection in grout's own account, which stays the caller's.
func NewServices(nc *nats.Conn) *Services { return &Services{nc} }

// Request sends a message to one of those that listen on a subject of the account of
// plugins, and passes on what comes back until receive wants no more or ctx ends. When
// nobody listens the error is a *schemas.Error with the code NOT_FOUND.
func (s *Services) Request(ctx context.Context, subject string, header map[string]string, data []byte, receive func(header map[string][]string, data []byte) (more bool)) error {
	if !plainSubject(subject) {
		return fmt.Errorf("ask the service on %q: it is no subject", subject)
	}
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("ask the service on %s: %w", subject, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
	if err := sub.SetPendingLimits(maxAnswers, maxAnswerBytes); err != nil {
		return fmt.Errorf("ask the service on %s: %w", subject, err)
	}
	m := &nats.Msg{Subject: pluginPrefix + subject, Reply: inbox, Data: data, Header: nats.Header{}}
	for name, value := range header {
		m.Header[name] = []string{value}
	}
	if err := s.nc.PublishMsg(m); err != nil {
		return fmt.Errorf("ask the service on %s: %w", subject, err)
	}
	for {
		answer, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) || err == nil && nobody(answer) {
			return schemas.Errorf(schemas.CodeNotFound, "no NATS service listens on %s", subject)
		}
		if err != nil {
			return fmt.Errorf("ask the service on %s: %w", subject, err)
		}
		if !receive(answer.Header, answer.Data) {
			return nil
		}
	}
}

// nobody reports whether a message is the server's word that nobody listens.
func nobody(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") == "503" }

// serviceInfo is what a NATS service says of itself (ADR-32).
type serviceInfo struct {
	Name      string `json:"name"`
	Endpoints []struct {
		Name    string `json:"name"`
		Subject string `json:"subject"`
	} `json:"endpoints"`
}

// Service gives the subject at which the NATS service of a name takes requests: that of
// its endpoint execute, else of its first one. When there is no such service the error is
// a *schemas.Error with the code NOT_FOUND.
func (s *Services) Service(ctx context.Context, name string) (subject string, err error) {
	ctx, cancel := context.WithTimeout(ctx, serviceLookup)
	defer cancel()
	fault := schemas.Errorf(schemas.CodeNotFound, "no NATS service %s is running", name)
	err = s.Request(ctx, "$SRV.INFO."+name, nil, nil, func(_ map[string][]string, data []byte) bool {
		var info serviceInfo
		if len(data) > maxGateRequest || json.Unmarshal(data, &info) != nil || info.Name != name {
			return true
		}
		subject = info.subject()
		if subject == "" {
			fault = schemas.Errorf(schemas.CodeNotFound, "the NATS service %s has no endpoint with a plain subject", name)
		}
		return subject == ""
	})
	var known *schemas.Error
	switch {
	case subject != "":
		return subject, nil
	case err == nil, errors.As(err, &known), errors.Is(err, context.DeadlineExceeded):
		return "", fault
	}
	return "", err
}

func (i *serviceInfo) subject() string {
	first := ""
	for _, e := range i.Endpoints {
		switch {
		case !plainSubject(e.Subject):
		case e.Name == "execute":
			return e.Subject
		case first == "":
			first = e.Subject
		}
	}
	return first
}

// plainSubject reports whether a message can be sent to a subject.
func plainSubject(subject string) bool {
	if subject == "" || len(subject) > maxServiceName || strings.ContainsFunc(subject, func(c rune) bool { return c <= ' ' || c == '*' || c == '>' || c > '~' }) {
		return false
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" {
			return false
		}
	}
	return true
}
