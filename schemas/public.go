package schemas

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"unicode/utf8"
)

// PublicCommand is a command that somebody else has published (contract §8).
type PublicCommand struct {
	CommandFrame // Accepted is for whoever takes it, as is the payload of plugin.execute
	// Execution is that of plugin.execute, without what only a node knows: the limits of
	// the plugin. DryRun says that it is to say what it would do.
	Execution *PluginExecution
	DryRun    bool
	Oldest    int64 // timestamp of its oldest usage event; MaxInt64 when it has none
	Stored    bool  // Time is no word of its sender, but when the stream stored it
}

// PublicKinds lists the kinds of commands that others may publish.
func PublicKinds() (list []string) {
	for _, kind := range commandNames {
		if publicReaders[kind] != nil {
			list = append(list, kind)
		}
	}
	return list
}

// publicReaders read the data of a command of each kind into its payload, by the rules
// that a request over HTTP is read by.
var publicReaders = map[string]func(*PublicCommand, *publicEvent) *Error{
	UsageIngest.Name:      readIngest,
	UsageVoid.Name:        readVoid,
	UsageAmend.Name:       readAmendment,
	SyncEntitlement.Name:  readManifest,
	SyncSubscription.Name: readSubscription,
	ReserveBudget.Name:    readReserve,
	SettleBudget.Name:     readSettle,
	ExtendBudget.Name:     readExtend,
	ReleaseBudget.Name:    readRelease,
	ExecutePlugin.Name:    readExecute,
	ReportRuns.Name:       readReport,
}

// DecodePublic reads a message of MOZAIKS_IN, which was created at an instant. Its error
// makes a dead letter of the message, for which the command says what could be read:
// app, kind, id and source. Texts and payload may be parts of the message.
func DecodePublic(m *StreamMessage, created int64) (c PublicCommand, err *Error) {
	c.Oldest = math.MaxInt64
	in, parsed := ParseInSubject(m.Subject)
	if parsed != nil {
		return c, Errorf(CodeUndecodable, "%v", parsed)
	}
	app, bad := UnescapeToken(in.AppToken)
	if n := len([]rune(app)); bad == nil && n <= MaxIDChars && utf8.ValidString(app) {
		c.AppID = app
	} else {
		return c, Errorf(CodeUndecodable, "the subject names no app: a token of 1 to %d characters of UTF-8, of which those that are not plain are written as %%XX", MaxIDChars)
	}
	if err := c.kindOf(in.Kind); err != nil {
		return c, err
	}
	if len(m.Data) > MaxPublicBytes {
		return c, Errorf(CodePayloadTooLarge, "the message has %d bytes: at most %d", len(m.Data), MaxPublicBytes)
	}
	e, err := readPublicEvent(m)
	own := AppSource(app, "nats/"+in.Publisher)
	plain := e.kind == "" && e.source == ""
	if plain && err == nil {
		e.source, e.id = own, cmp.Or(e.id, numbered(created, m.Seq))
	}
	c.ID, c.Source = e.id, e.source
	c.CorrelationID, c.TraceParent = correlationOf(e.correlation), TraceParent(e.trace)
	c.Time, c.Stored = m.Time.UnixNano(), !e.timed
	if e.timed {
		c.Time = e.time
	}
	if err != nil {
		return c, err
	}
	if !plain {
		if err := c.judge(&e, own); err != nil {
			return c, err
		}
	}
	if err := publicReaders[c.Kind](&c, &e); err != nil {
		return c, err
	}
	if n := c.FrameSize(); n > MaxCommandBytes {
		return c, Errorf(CodePayloadTooLarge, "the command takes %d bytes in the log, the limit is %d", n, MaxCommandBytes)
	}
	return c, nil
}

// kindOf judges the kind that the subject names.
func (c *PublicCommand) kindOf(kind string) *Error {
	switch {
	case publicReaders[kind] != nil:
		c.Kind = kind
		return nil
	case slices.Contains(commandNames, kind):
		return Errorf(CodeForbidden, "%s is a kind that only grout writes", kind)
	case slices.Contains(factNames, kind):
		return Errorf(CodeKindMismatch, "%s is a fact and no command", kind)
	}
	return Errorf(CodeUnknownKind, "there is no command of the kind %v", shown(kind))
}

// judge holds the attributes of a CloudEvent against the subject. own is the source of
// what its publisher sends as plain JSON.
func (c *PublicCommand) judge(e *publicEvent, own string) *Error {
	switch {
	case OwnSource(e.source), plainSource(e.source) && e.source != own:
		return Errorf(CodeSourceReserved, "the source %v is not its publisher's", shown(e.source))
	case e.kind == TypeOf(c.Kind),
		c.Kind == UsageIngest.Name && e.kind == TypeOf(usageSummary),
		c.Kind == ReportRuns.Name && (&runHead{kind: e.kind}).step() != 0:
		return nil
	}
	return Errorf(CodeKindMismatch, "the type %v is not that of the subject: %s", shown(e.kind), TypeOf(c.Kind))
}

// ofApp holds the app that the data name, if they do, against that of the subject.
func (c *PublicCommand) ofApp(app string) *Error {
	if app == "" || app == c.AppID {
		return nil
	}
	return Errorf(CodeAppMismatch, "app_id mismatch: the subject has %v, the data have %v", shown(c.AppID), shown(app))
}

// derived is the id of what a command makes without naming it: the same when the command
// is sent again.
func (c *PublicCommand) derived() string {
	sum := sha256.Sum256(append(appendText(nil, c.Source), c.ID...))
	return "ce-" + hex.EncodeToString(sum[:16])
}

func readIngest(c *PublicCommand, e *publicEvent) *Error {
	b := &ParsedBatch{}
	ingest := IngestEvent{ID: e.id, Source: e.source, Summary: e.kind == TypeOf(usageSummary), Data: e.data}
	if err := ingest.ParseBatch(b); err != nil {
		return err
	}
	b.only(c.AppID)
	for i := range b.Events {
		c.Oldest = min(c.Oldest, b.Events[i].Timestamp)
	}
	c.Payload = SplitBatch(b, b.BatchID, false, 1)[0].EncodePayload(nil)
	return nil
}

// only leaves the events of an app in a batch. Those of others, and what is refused
// already, are errors of the app whose command it is: of no other app it may tell.
func (b *ParsedBatch) only(app string) {
	kept := b.Events[:0]
	for i := range b.Events {
		e := &b.Events[i]
		if e.AppID == app {
			kept = append(kept, *e)
			continue
		}
		digest, _ := ContentDigest(e, nil)
		b.Rejected = append(b.Rejected, RejectedEvent{
			EventError: EventError{
				Index: e.Index, EventID: e.EventID, Code: CodeAppMismatch,
				Detail: Errorf("", "the event is of the app %v, its command of %v", shown(e.AppID), shown(app)).Detail,
			},
			Digest: digest,
		})
	}
	b.Events = kept
	for i := range b.Rejected {
		b.Rejected[i].AppID = app
	}
}

func readVoid(c *PublicCommand, e *publicEvent) *Error {
	p := namedBody(e.data)
	app, v, err := p.voidOf()
	if err == nil {
		err = cmp.Or(p.needs(fieldEventID, "event_id"), c.ofApp(app))
	}
	if err == nil {
		c.Payload = v.EncodePayload(nil)
	}
	return err
}

func readAmendment(c *PublicCommand, e *publicEvent) *Error {
	p := namedBody(e.data)
	app, a, err := p.amendmentOf()
	if err == nil {
		err = cmp.Or(p.needs(fieldEventID, "event_id"), c.ofApp(app))
	}
	if err == nil {
		c.Payload = a.EncodePayload(nil)
	}
	return err
}

// needs says that a body does not name what it must name.
func (p *adjustmentParser) needs(f usageFields, name string) *Error {
	if p.given&f != 0 {
		return nil
	}
	return validation([]FieldError{{[]any{"body", name}, name + " is required and missing", "missing"}})
}

func readManifest(c *PublicCommand, e *publicEvent) *Error {
	m, err := ParseManifest(e.data)
	if err != nil {
		return err
	}
	c.Payload = (&ManifestSync{Manifest: m}).EncodePayload(nil)
	return c.ofApp(m.AppID)
}

func readSubscription(c *PublicCommand, e *publicEvent) *Error {
	s, m, err := ParseSubscription(e.data)
	switch {
	case err != nil:
		return err
	case m != nil:
		c.Kind, c.Payload = SyncEntitlement.Name, (&ManifestSync{Manifest: m}).EncodePayload(nil)
		return c.ofApp(m.AppID)
	}
	c.Payload = (&SubscriptionSync{Subscription: s}).EncodePayload(nil)
	return c.ofApp(s.AppID)
}

func readReserve(c *PublicCommand, e *publicEvent) *Error {
	app, b, err := ParseBudgetReserve(e.data)
	if err != nil {
		return err
	}
	b.ReservationID = cmp.Or(b.ReservationID, c.derived())
	c.Payload = b.EncodePayload(nil)
	return c.ofApp(app)
}

func readSettle(c *PublicCommand, e *publicEvent) *Error {
	p := namedBody(e.data)
	app, b, err := p.settlementOf()
	if err == nil {
		err = cmp.Or(p.needs(fieldTarget, "reservation_id"), c.ofApp(app))
	}
	if err == nil {
		c.Payload = b.EncodePayload(nil)
	}
	return err
}

func readExtend(c *PublicCommand, e *publicEvent) *Error {
	app, b, err := parseBudgetExtend(e.data, true)
	if err != nil {
		return err
	}
	c.Payload = b.EncodePayload(nil)
	return c.ofApp(app)
}

func readRelease(c *PublicCommand, e *publicEvent) *Error {
	app, b, err := parseBudgetRelease(e.data)
	if err != nil {
		return err
	}
	c.Payload = b.EncodePayload(nil)
	return c.ofApp(app)
}

// readExecute reads an execution for the user in its data, without roles and token. Its
// run has an id that follows from the command's, and nobody waits for it.
func readExecute(c *PublicCommand, e *publicEvent) *Error {
	v, err := readJSONValue(bytes.Clone(e.data))
	if err != nil {
		return err
	}
	x := &PluginExecution{RunID: c.derived(), Keep: true}
	app, body := "", jsonValue{"{}"}
	r := fieldReader{}
	known := r.owner(&app, &x.UserID, new(string))
	delete(known, "tenant_id")
	known["plugin"] = r.nameOf(&x.Plugin)
	known["data"] = func(at *fieldPath, v jsonValue) {
		if r.object(at, v) {
			body = v
		}
	}
	if r.fields(nil, v, known) {
		for _, f := range [...]struct{ name, value string }{{"plugin", x.Plugin}, {"user_id", x.UserID}} {
			if at := (*fieldPath)(nil).under(f.name); f.value == "" && !r.faulty(at) {
				r.missing(at)
			}
		}
	}
	if err := cmp.Or(r.err(), c.ofApp(app)); err != nil {
		return err
	}
	if len(body.text) > MaxExecuteBytes {
		return Errorf(CodePayloadTooLarge, "data has %d bytes: at most %d", len(body.text), MaxExecuteBytes)
	}
	in, err := ParsePluginInput([]byte(body.text))
	if err != nil {
		return err
	}
	x.Action, x.ChatID, x.Data, x.BodyDigest = ActionName(in.Action), in.ChatID, in.Data, in.Digest
	c.Execution, c.DryRun = x, in.DryRun
	return nil
}

// readReport reads events of runs: data as over HTTP, or one event whose CloudEvent has
// its type.
func readReport(c *PublicCommand, e *publicEvent) *Error {
	var report ParsedReport
	var err *Error
	if head := (&runHead{id: e.id, source: e.source, kind: e.kind}); head.step() != 0 {
		if e.timed {
			head.time = InstantText(e.time)
		}
		report, err = parseRunOf(e.data, head)
	} else {
		report, err = ParseRunReport(e.data)
	}
	if err != nil {
		return err
	}
	p := RunReport{Events: report.Events, Rejected: report.Rejected}
	for i := range p.Rejected {
		p.Rejected[i].AppID = c.AppID
	}
	c.Payload = p.EncodePayload(nil)
	return nil
}

// Letter makes of a message that is no command one that files it.
func (c *PublicCommand) Letter(m *StreamMessage, created int64, why *Error) PublicCommand {
	p := LetterFiling{
		Kind: c.Kind, Code: why.Code, Reason: why.Detail,
		Original: OriginalMessage{Subject: m.Subject, Headers: LetterHeaders(m.Header), Data: m.Data, Sequence: m.Seq, Time: m.Time.UnixNano()},
	}
	if c.ID != "" && c.Source != "" && !OwnSource(c.Source) {
		p.Cause = Cause{ID: c.ID, Source: c.Source}
	}
	return PublicCommand{Oldest: math.MaxInt64, CommandFrame: CommandFrame{
		Kind: FileLetter.Name, AppID: c.AppID, ID: numbered(created, m.Seq), Source: SourceIn, Time: m.Time.UnixNano(),
		CorrelationID: c.CorrelationID, TraceParent: c.TraceParent, Payload: p.EncodePayload(nil),
	}}
}

// Refuse makes of an execution that its node refuses the command that says so.
func (c *PublicCommand) Refuse(why *Error, subject string) {
	p := CommandRefusal{Kind: c.Kind, Digest: CommandDigest(c.Kind, c.Execution, nil), Code: why.Code, Detail: why.Detail, Subject: subject}
	c.Kind, c.Payload, c.Execution = RefuseCommand.Name, p.EncodePayload(nil), nil
}
