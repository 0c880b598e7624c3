package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// Verdicts of an examination.
const (
	ExamOK      = "ok"
	ExamWarning = "warning"
	ExamFailed  = "failed"
	ExamSkipped = "skipped"
)

// Exam is one thing that was looked at.
type Exam struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// Role is a user of another account, and how it gets in.
type Role struct{ User, Password string }

const (
	examTimeout = 2 * time.Second
	maxSkew     = 2 * time.Second
)

// examiner tries what an account may and may not do. Nothing that it does changes a
// stream: what must be refused says that it expects another stream, so one that it
// reaches all the same refuses it and tells.
type examiner struct {
	o    ExternalOptions
	cfg  Config
	list []Exam
}

// Examine looks at a cluster as grout, and as those whose passwords are given.
func Examine(ctx context.Context, o ExternalOptions, cfg Config, roles []Role) []Exam {
	cfg.defaults()
	x := &examiner{o: o, cfg: cfg}
	nc, err := ConnectExternal(o, "grout-doctor")
	if err != nil {
		x.add("connection", ExamFailed, err.Error())
		return x.list
	}
	defer nc.Close()
	x.add("connection", ExamOK, fmt.Sprintf("node %s, nats-server %s", nc.ConnectedServerName(), nc.ConnectedServerVersion()))
	x.nodes()
	if err := checkExternal(nc, cfg.Replicas); err != nil {
		x.add("server settings", ExamFailed, err.Error())
	} else {
		x.add("server settings", ExamOK, "")
	}
	x.longSubject()
	x.add("sync_interval", ExamSkipped, "a client cannot see it: set jetstream { sync_interval: always } on every node, or a power cut that takes several at once takes what they had acknowledged")
	x.account(ctx, nc)
	x.streams(ctx, nc)
	x.lease(ctx, nc)
	for _, r := range roles {
		x.role(ctx, nc, r)
	}
	return x.list
}

// ExamineEmbedded looks at the bus of a running grout, as its operator.
func ExamineEmbedded(ctx context.Context, o ExternalOptions, cfg Config, roles []Role) []Exam {
	cfg.defaults()
	x := &examiner{o: o, cfg: cfg}
	nc, err := ConnectExternal(o, "grout-doctor")
	if err != nil {
		x.add("connection", ExamFailed, err.Error())
		return x.list
	}
	defer nc.Close()
	x.streams(ctx, nc)
	for _, r := range roles {
		x.role(ctx, nc, r)
	}
	return x.list
}

func (x *examiner) add(check, status, detail string) {
	x.list = append(x.list, Exam{check, status, detail})
}

// nodes connects to each address by itself.
func (x *examiner) nodes() {
	for _, address := range x.o.URLs {
		one := x.o
		one.URLs = []string{address}
		opts, err := externalOptions(&one, "grout-doctor")
		if err != nil {
			x.add("node "+address, ExamFailed, err.Error())
			continue
		}
		nc, err := nats.Connect(address, append(opts, nats.IgnoreDiscoveredServers(), nats.MaxReconnects(0))...)
		if err != nil {
			x.add("node "+address, ExamFailed, err.Error())
			continue
		}
		status, detail := ExamOK, fmt.Sprintf("%s, nats-server %s", nc.ConnectedServerName(), nc.ConnectedServerVersion())
		if err := checkExternal(nc, 3); err != nil {
			status, detail = ExamFailed, err.Error()
		}
		if !nc.TLSRequired() && !loopback(nc.ConnectedAddr()) && status == ExamOK {
			status, detail = ExamWarning, detail+"; the connection is not encrypted"
		}
		nc.Close()
		x.add("node "+address, status, detail)
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// longSubject asks with a subject as long as three escaped ids make it: a node that does
// not take it closes the connection.
func (x *examiner) longSubject() {
	opts, err := externalOptions(&x.o, "grout-doctor")
	if err != nil {
		return
	}
	closed := make(chan error, 1)
	nc, err := nats.Connect(strings.Join(x.o.URLs, ","), append(opts, nats.MaxReconnects(0), nats.NoReconnect(),
		nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))...)
	if err != nil {
		x.add("max_control_line", ExamSkipped, err.Error())
		return
	}
	defer nc.Close()
	subject := "mozaiks.v1.doctor." + strings.Repeat("x", 8<<10)
	_ = errors.Join(nc.Publish(subject, nil), nc.FlushTimeout(examTimeout)) // whether the connection is closed says it all
	select {
	case why := <-closed:
		x.add("max_control_line", ExamFailed, fmt.Sprintf("a long subject ends the connection (%v): set max_control_line: 16KB on every node", why))
	default:
		x.add("max_control_line", ExamOK, "")
	}
}

func (x *examiner) account(ctx context.Context, nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err != nil {
		x.add("account", ExamFailed, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := js.AccountInfo(ctx)
	if err != nil {
		x.add("account", ExamFailed, fmt.Sprintf("JetStream does not answer: %v; grout's account needs jetstream: enabled, and the cluster a quorum", err))
		return
	}
	need := (x.cfg.CommandBytes + x.cfg.FactBytes + x.cfg.DeadLetterBytes) * int64(x.cfg.Replicas)
	status, detail := ExamOK, fmt.Sprintf("%d streams, %d MiB used", info.Streams, info.Store>>20)
	if most := info.Limits.MaxStore; most > 0 && most < need {
		status, detail = ExamWarning, fmt.Sprintf("the account may store %d MiB, the streams may grow to %d MiB", most>>20, need>>20)
	}
	x.add("account", status, detail)
}

func (x *examiner) streams(ctx context.Context, nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err != nil {
		return
	}
	b := &Bus{nc: nc, js: js, cfg: x.cfg}
	for _, want := range b.streams() {
		name := "stream " + want.Name
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		asked := time.Now()
		stream, err := js.Stream(ctx, want.Name)
		took := time.Since(asked)
		cancel()
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			x.add(name, ExamWarning, "it is not there; grout serve makes it")
			continue
		}
		if err != nil {
			x.add(name, ExamFailed, err.Error())
			continue
		}
		info := stream.CachedInfo()
		if what := unsafeSetting(&info.Config, &want); what != "" {
			x.add(name, ExamFailed, what)
			continue
		}
		status, detail := copies(info, x.cfg.Replicas)
		x.add(name, status, detail)
		if want.Name == schemas.StreamCommands && !info.TimeStamp.IsZero() {
			x.clock(info.TimeStamp, asked, took)
		}
	}
}

// copies tells of a stream's copies that are away or behind.
func copies(info *jetstream.StreamInfo, replicas int) (status, detail string) {
	detail = fmt.Sprintf("%d messages, %d MiB, %d replicas", info.State.Msgs, info.State.Bytes>>20, info.Config.Replicas)
	if info.Cluster == nil || replicas == 1 {
		return ExamOK, detail
	}
	var bad []string
	for _, p := range info.Cluster.Replicas {
		switch {
		case p.Offline:
			bad = append(bad, p.Name+" is away")
		case !p.Current:
			bad = append(bad, fmt.Sprintf("%s is %d behind", p.Name, p.Lag))
		}
	}
	if info.Cluster.Leader == "" {
		return ExamFailed, detail + "; it has no leader"
	}
	if len(bad) > 0 {
		return ExamWarning, detail + "; " + strings.Join(bad, ", ")
	}
	return ExamOK, detail + ", leader " + info.Cluster.Leader
}

// clock compares the clock of a node with this machine's.
func (x *examiner) clock(theirs, asked time.Time, took time.Duration) {
	skew := theirs.Sub(asked.Add(took / 2))
	if skew.Abs() > maxSkew+took/2 {
		x.add("clock", ExamFailed, fmt.Sprintf("a node is %s ahead of this machine: set both by NTP", skew.Round(time.Millisecond)))
		return
	}
	x.add("clock", ExamOK, fmt.Sprintf("%s apart", skew.Abs().Round(time.Millisecond)))
}

func (x *examiner) lease(ctx context.Context, nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, "KV_"+LeaseBucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		x.add("lease", ExamWarning, "the bucket "+LeaseBucket+" is not there; grout serve makes it")
		return
	}
	if err != nil {
		x.add("lease", ExamFailed, err.Error())
		return
	}
	if what := unsafeBucket(&stream.CachedInfo().Config, x.cfg.Replicas); what != "" {
		x.add("lease", ExamFailed, what)
		return
	}
	b := &Bus{nc: nc, js: js}
	m, err := b.getMessage(ctx, "KV_"+LeaseBucket, 0, leaseSubject)
	var h LeaseHolder
	switch {
	case err != nil:
		x.add("lease", ExamFailed, err.Error())
	case m == nil || len(m.Data) == 0 || json.Unmarshal(m.Data, &h) != nil:
		x.add("lease", ExamOK, "nobody holds it")
	default:
		x.add("lease", ExamOK, fmt.Sprintf("%s, renewed %s ago", h, time.Since(m.Time).Round(100*time.Millisecond)))
	}
}

// role tries what a user may do and what it may not.
func (x *examiner) role(ctx context.Context, own *nats.Conn, r Role) {
	name := "user " + r.User
	if r.Password == "" {
		x.add(name, ExamSkipped, "its password is not set here")
		return
	}
	as := ExternalOptions{URLs: x.o.URLs, User: r.User, Password: r.Password, CAFile: x.o.CAFile, CertFile: x.o.CertFile, KeyFile: x.o.KeyFile, Beside: x.o.Beside}
	opts, err := externalOptions(&as, "grout-doctor")
	if err != nil {
		x.add(name, ExamFailed, err.Error())
		return
	}
	nc, err := nats.Connect(strings.Join(as.URLs, ","), append(opts, nats.MaxReconnects(0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		x.add(name, ExamFailed, err.Error())
		return
	}
	defer nc.Close()
	t := &trial{x: x, own: own, nc: nc, user: r.User}
	t.mayNot()
	switch r.User {
	case userConsumer, userPlatform:
		t.reads(ctx)
	}
	if r.User == userPlatform {
		t.publishes()
	}
	if len(t.wrong) > 0 {
		x.add(name, ExamFailed, strings.Join(t.wrong, "; "))
		return
	}
	x.add(name, ExamOK, fmt.Sprintf("%d things tried", t.tried))
}

type trial struct {
	x     *examiner
	own   *nats.Conn
	nc    *nats.Conn
	user  string
	tried int
	wrong []string
}

func (t *trial) fault(format string, args ...any) {
	t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
}

// forbidden is what nobody but grout may reach: subjects of its streams and of its own
// parts, and calls of the JetStream API on what is not there.
var forbidden = []string{
	"mozaiks.v1.grp.0", "mozaiks.v1.evt.doctor.usage.recorded", "mozaiks.v1.dlq.doctor.x", "mozaiks.v1.relay.evt.0", "mozaiks.v1.reply.doctor",
	"$JS.API.STREAM.CREATE.GROUT_DOCTOR", "$JS.API.STREAM.UPDATE.GROUT_DOCTOR", "$JS.API.STREAM.RESTORE.GROUT_DOCTOR",
}

// hidden is what only grout's own account may reach.
var hidden = []string{
	"$JS.API.STREAM.DELETE.GROUT_DOCTOR", "$JS.API.STREAM.PURGE.GROUT_DOCTOR", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.MOZAIKS_CMD",
	"$JS.API.STREAM.MSG.GET.MOZAIKS_CMD", "$JS.API.STREAM.MSG.GET.MOZAIKS_EVT", "$JS.API.DIRECT.GET.MOZAIKS_EVT", "$JS.API.CONSUMER.LIST.MOZAIKS_EVT",
	"$JS.API.CONSUMER.CREATE.MOZAIKS_CMD.doctor", "$KV." + LeaseBucket + "." + leaseKey, subjectSnapshot + "0", "mozaiks.v1.in.someone.app.usage.ingest",
}

func (t *trial) mayNot() {
	list := forbidden
	if t.user != userAdmin {
		list = append(list[:len(list):len(list)], hidden...)
	}
	for _, subject := range list {
		t.tried++
		m := &nats.Msg{Subject: subject, Data: []byte(`{}`), Header: nats.Header{
			jetstream.ExpectedStreamHeader: {"GROUT_DOCTOR"}, // a stream that it reaches refuses it
		}}
		answer, err := t.nc.RequestMsg(m, 300*time.Millisecond)
		if err == nil && !nobody(answer) && !noJetStream(answer.Data) {
			t.fault("it reaches %s, and is answered %.120s", subject, answer.Data)
		}
	}
}

// noJetStream tells the word of a server that the user's own account has no streams.
func noJetStream(data []byte) bool {
	var answer struct{ Error *jetstream.APIError }
	return json.Unmarshal(data, &answer) == nil && answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount
}

// reads makes a pull consumer on the facts as a stock client does, and removes it.
func (t *trial) reads(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiTimeout)
	defer cancel()
	t.tried += 3
	js, err := jetstream.New(t.nc)
	if err != nil {
		t.fault("%v", err)
		return
	}
	c, err := js.CreateConsumer(ctx, schemas.StreamFacts, jetstream.ConsumerConfig{Name: "doctor_" + nuid.Next(), InactiveThreshold: time.Minute, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.fault("it cannot make a pull consumer on %s: %v (the gate is grout's: a running grout serves it)", schemas.StreamFacts, err)
		return
	}
	batch, err := c.Fetch(1, jetstream.FetchMaxWait(time.Second))
	if err != nil {
		t.fault("it cannot read facts: %v", err)
	} else {
		for range batch.Messages() { // only whether it may
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			t.fault("it cannot read facts: %v", err)
		}
	}
	if err := js.DeleteConsumer(ctx, schemas.StreamFacts, c.CachedInfo().Name); err != nil {
		t.fault("it cannot delete its consumer: %v", err)
	}
}

// publishes asks whether a command would get its PubAck: one that expects another stream
// is refused by the stream, which it must reach.
func (t *trial) publishes() {
	t.tried++
	m := &nats.Msg{Subject: "mozaiks.v1.cmd.doctor.usage.ingest", Header: nats.Header{jetstream.ExpectedStreamHeader: {"GROUT_DOCTOR"}}}
	answer, err := t.nc.RequestMsg(m, examTimeout)
	if err != nil || nobody(answer) {
		t.fault("it cannot publish commands: nobody takes what it publishes on %s (%v)", m.Subject, err)
	}
}
