package bus

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// Bounds of the consumers that other accounts keep on MOZAIKS_EVT.
const (
	maxGateRequest      = 64 << 10
	maxGateConsumers    = 256
	maxStreamConsumers  = 512 // what is above maxGateConsumers is kept for grout
	maxConsumerPending  = 10_000
	stdConsumerPending  = 1000
	maxConsumerWaiting  = 512
	maxConsumerFilters  = 64
	maxConsumerInactive = 30 * 24 * time.Hour
	gateTimeout         = 5 * time.Second
)

// ConsumerPrefix begins the names of grout's own consumers on MOZAIKS_EVT. Other
// accounts can neither make nor delete such a consumer; the rest of the name must
// be random, because a name that is known can be read from and acknowledged.
const ConsumerPrefix = "grout_"

// Subjects that the imports of other accounts lead to.
const (
	gateAll     = "mozaiks.v1.gate.>"
	gateNames   = "mozaiks.v1.gate.names"
	gateCreate  = "mozaiks.v1.gate.create"
	gateDurable = "mozaiks.v1.gate.durable."
	gateDelete  = "mozaiks.v1.gate.delete."
)

// Answers of the JetStream API that the gate gives itself.
const (
	typeNames  = "io.nats.jetstream.api.v1.stream_names_response"
	typeCreate = "io.nats.jetstream.api.v1.consumer_create_response"
	typeDelete = "io.nats.jetstream.api.v1.consumer_delete_response"

	codeBadRequest  = 10003
	codeBadDeliver  = 10112
	codeMaxReached  = 10026
	codeUnavailable = 10008
)

// Gate is what stands between the accounts of others and the calls that create and
// delete consumers. One gate answers at a time wherever several nodes serve it.
type Gate struct {
	nc  *nats.Conn
	sub *nats.Subscription
}

// ServeGate serves the gate on a connection in grout's own account. The embedded
// server does so by itself; on an external cluster grout does.
func ServeGate(nc *nats.Conn) (*Gate, error) {
	g := &Gate{nc: nc}
	sub, err := nc.QueueSubscribe(gateAll, "grout", g.serve)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", gateAll, err)
	}
	g.sub = sub
	if err := sub.SetPendingLimits(1024, 16<<20); err != nil {
		return nil, fmt.Errorf("serve %s: %w", gateAll, err)
	}
	if err := nc.FlushTimeout(gateTimeout); err != nil {
		return nil, fmt.Errorf("serve %s: %w", gateAll, err)
	}
	return g, nil
}

// Close stops serving.
func (g *Gate) Close() { _ = g.sub.Unsubscribe() }

// refusal is an answer in the form of the JetStream API.
type refusal struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func refuse(errCode int, format string, args ...any) *refusal {
	return &refusal{Code: 400, ErrCode: errCode, Description: fmt.Sprintf(format, args...)}
}

func (g *Gate) serve(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	answerType := typeCreate
	var answer []byte
	var no *refusal
	switch {
	case m.Subject == gateNames:
		answer = streamNames(m.Data)
	case m.Subject == gateCreate || strings.HasPrefix(m.Subject, gateCreate+"."):
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(m.Subject, gateCreate), "."), ".")
		answer, no = g.create(name, m.Data)
	case strings.HasPrefix(m.Subject, gateDurable):
		answer, no = g.create(strings.TrimPrefix(m.Subject, gateDurable), m.Data)
	case strings.HasPrefix(m.Subject, gateDelete):
		answerType = typeDelete
		answer, no = g.delete(strings.TrimPrefix(m.Subject, gateDelete))
	default:
		return
	}
	if no != nil {
		answer, _ = json.Marshal(map[string]any{"type": answerType, "error": no}) // numbers and text: cannot fail
	}
	if no == nil && answerType == typeCreate && m.Subject != gateNames && g.nc.ConnectedClusterName() != "" {
		time.AfterFunc(gateSettles, func() { _ = m.Respond(answer) })
		return
	}
	_ = m.Respond(answer) // the connection is gone, or the caller is
}

// gateSettles is how long the word that a consumer is there is held back on a cluster. It
// comes by another way than the nodes' word to each other of where the consumer is, and
// whoever asks a node for messages before that is told that there is nobody to ask.
const gateSettles = 50 * time.Millisecond

// streamNames answers older clients, which look a stream up by its subject. Only
// one stream is there for them.
func streamNames(data []byte) []byte {
	var ask struct {
		Subject string `json:"subject"`
	}
	names := []string{}
	if len(data) == 0 || json.Unmarshal(data, &ask) == nil {
		if ask.Subject == "" || filterOf(ask.Subject) != "" {
			names = append(names, schemas.StreamFacts)
		}
	}
	answer, _ := json.Marshal(map[string]any{
		"type": typeNames, "total": len(names), "offset": 0, "limit": 1024, "streams": names,
	})
	return answer
}

// filterOf gives the filter that a reader of facts gets for the one asked for:
// facts only, never the relay's markers; empty when it asks for something else.
func filterOf(asked string) string {
	switch {
	case asked == "" || asked == ">" || asked == "mozaiks.>" || asked == "mozaiks.v1.>":
		return schemas.SubjectsFacts
	case strings.HasPrefix(asked, strings.TrimSuffix(schemas.SubjectsFacts, ">")) && len(asked) < maxControlLine:
		return asked
	}
	return ""
}

// create checks what is asked for and sends on a request written anew from the
// server's own types: nothing that the server would read differently gets by.
func (g *Gate) create(name string, data []byte) ([]byte, *refusal) {
	req, no := checkConsumer(name, data)
	if no != nil {
		return nil, no
	}
	if no := g.checkRoom(req.Config.Name); no != nil {
		return nil, no
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, refuse(codeBadRequest, "the consumer cannot be written: %v", err)
	}
	subject := "$JS.API.CONSUMER.CREATE." + schemas.StreamFacts + "." + req.Config.Name
	if req.Config.FilterSubject != "" {
		subject += "." + req.Config.FilterSubject
	}
	return g.forward(subject, body)
}

func checkConsumer(name string, data []byte) (*server.CreateConsumerRequest, *refusal) {
	if len(data) > maxGateRequest {
		return nil, refuse(codeBadRequest, "the request has more than %d bytes", maxGateRequest)
	}
	var req server.CreateConsumerRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, refuse(codeBadRequest, "the request is not a consumer: %v", err)
	}
	c := &req.Config
	if req.Stream != schemas.StreamFacts {
		return nil, refuse(codeBadRequest, "the stream must be %s", schemas.StreamFacts)
	}
	if name == "" { // the form without a name in its subject
		if name = c.Name; name == "" {
			name = nats.NewInbox()[len(nats.InboxPrefix):]
		}
		c.Name = name
	}
	switch {
	case c.Name != "" && c.Name != name, c.Durable != "" && c.Durable != name:
		return nil, refuse(codeBadRequest, "the consumer's names differ")
	case !plainName(name):
		return nil, refuse(codeBadRequest, "the consumer's name is not usable")
	case strings.HasPrefix(name, ConsumerPrefix):
		return nil, refuse(codeBadRequest, "names that begin with %s are grout's own", ConsumerPrefix)
	}
	c.Name = name
	return &req, boundConsumer(c)
}

// boundConsumer refuses what makes the server write anywhere but to whoever asks,
// and bounds what a consumer may hold.
func boundConsumer(c *server.ConsumerConfig) *refusal {
	switch {
	case c.DeliverSubject != "" || c.DeliverGroup != "" || c.Heartbeat != 0 || c.FlowControl:
		return refuse(codeBadDeliver, "push consumers are not offered here: use a pull consumer")
	case c.Direct || c.Sourcing || c.AckPolicy == server.AckFlowControl:
		return refuse(codeBadRequest, "consumers of mirrors and sources are not offered here")
	case c.MaxWaiting < 0 || c.MaxWaiting > maxConsumerWaiting:
		return refuse(codeBadRequest, "max_waiting must be between 1 and %d", maxConsumerWaiting)
	case c.InactiveThreshold < 0 || c.InactiveThreshold > maxConsumerInactive:
		return refuse(codeBadRequest, "inactive_threshold must be at most %s", maxConsumerInactive)
	case len(c.FilterSubjects) > maxConsumerFilters:
		return refuse(codeBadRequest, "there are more than %d filter_subjects", maxConsumerFilters)
	}
	switch {
	case c.AckPolicy == server.AckNone:
	case c.MaxAckPending == 0:
		c.MaxAckPending = stdConsumerPending
	case c.MaxAckPending < 0 || c.MaxAckPending > maxConsumerPending:
		c.MaxAckPending = maxConsumerPending // older clients ask for half a million by default
	}
	if len(c.FilterSubjects) == 0 {
		asked := c.FilterSubject
		if c.FilterSubject = filterOf(asked); c.FilterSubject == "" {
			return refuse(codeBadRequest, "filter_subject %q is not below %s", asked, schemas.SubjectsFacts)
		}
		return nil
	}
	if c.FilterSubject != "" {
		return refuse(codeBadRequest, "filter_subject and filter_subjects exclude each other")
	}
	if i := slices.IndexFunc(c.FilterSubjects, func(f string) bool { return f == "" || filterOf(f) == "" }); i >= 0 {
		return refuse(codeBadRequest, "filter_subject %q is not below %s", c.FilterSubjects[i], schemas.SubjectsFacts)
	}
	for i, f := range c.FilterSubjects {
		c.FilterSubjects[i] = filterOf(f)
	}
	return nil
}

func plainName(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`.*>/\`, r) {
			return false
		}
	}
	return true
}

// checkRoom keeps grout's own share of the stream's consumers free. An existing
// consumer may always be stated again.
func (g *Gate) checkRoom(name string) *refusal {
	var info struct {
		State struct {
			Consumers int `json:"consumer_count"`
		} `json:"state"`
	}
	data, no := g.forward("$JS.API.STREAM.INFO."+schemas.StreamFacts, nil)
	if no != nil {
		return no
	}
	if err := json.Unmarshal(data, &info); err != nil || info.State.Consumers < maxGateConsumers {
		return nil // the server will say what is wrong
	}
	var known struct {
		Error *refusal `json:"error"`
	}
	data, no = g.forward("$JS.API.CONSUMER.INFO."+schemas.StreamFacts+"."+name, nil)
	if no != nil {
		return no
	}
	if err := json.Unmarshal(data, &known); err != nil || known.Error != nil {
		return refuse(codeMaxReached, "there are %d consumers already: delete one", info.State.Consumers)
	}
	return nil
}

func (g *Gate) delete(name string) ([]byte, *refusal) {
	if !plainName(name) || strings.HasPrefix(name, ConsumerPrefix) {
		return nil, refuse(codeBadRequest, "this consumer is not yours")
	}
	return g.forward("$JS.API.CONSUMER.DELETE."+schemas.StreamFacts+"."+name, nil)
}

func (g *Gate) forward(subject string, data []byte) ([]byte, *refusal) {
	m, err := g.nc.Request(subject, data, gateTimeout)
	if err != nil {
		r := refuse(codeUnavailable, "JetStream does not answer")
		r.Code = 503
		return nil, r
	}
	return m.Data, nil
}
