package schemas

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// PluginExecution is the payload of plugin.execute: an accepted call of a plugin. The app
// is that of the command. It holds no token, ever.
type PluginExecution struct {
	RunID        string
	Plugin       string
	Action       string
	UserID       string
	TenantID     string
	Username     string
	ChatID       string // empty: the run id
	Roles        []string
	Superadmin   bool
	Key          string   // Idempotency-Key; empty: none
	BodyDigest   [16]byte // of the client's object
	Data         []byte   // the client's object as sent, without reserved keys
	Timeout      int64    // nanoseconds, of the plugin when accepted
	QueueTimeout int64
	Rerun        bool // retry_on_crash
	Keep         bool // the result is kept: there is a key, or nobody waits
}

// ExecutionEnd is the payload of plugin.finish: what an execution came to.
type ExecutionEnd struct {
	RunID      string
	Attempt    int64
	OK         bool
	Code       Code
	Detail     string
	Result     []byte // JSON; only when the execution keeps it
	DurationMs int64
	Usage      []UsageEvent // without owner and ids, in the order reported
}

// ExecutionRerun is the payload of plugin.rerun: the process that ran an attempt is gone.
type ExecutionRerun struct {
	RunID   string
	Attempt int64 // that was lost
}

// PluginPublication is the payload of plugin.publish: a fact that a plugin makes known.
type PluginPublication struct {
	RunID   string
	Attempt int64
	Number  int64  // among those of the run, from 1: the same again is told once
	Name    string // of the fact, behind plugin.
	Data    []byte // JSON
}

// RunCancel is the payload of run.cancel.
type RunCancel struct {
	RunID string
	By    string // the user who asked; empty: somebody with a key
}

// RunReport is the payload of orchestration.report: events of runs of the command's app.
type RunReport struct {
	Events []RunEvent
	// Rejected are events of a list that was published, which were refused while it was
	// read: over HTTP the answer lists them. AppID of them is that of the command.
	Rejected []EventError
}

const (
	executionSuperadmin = 1 << iota
	executionRerun
	executionKeep
)

func (p *PluginExecution) texts() [8]*string {
	return [...]*string{&p.RunID, &p.Plugin, &p.Action, &p.UserID, &p.TenantID, &p.Username, &p.ChatID, &p.Key}
}

// EncodePayload gives the stored form. Form 1: form, flags, run id, plugin, action, user,
// tenant, user name, chat, key, roles, digest of the body 16, timeout, queue timeout, data.
func (p *PluginExecution) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1, boolByte(p.Superadmin)*executionSuperadmin|boolByte(p.Rerun)*executionRerun|boolByte(p.Keep)*executionKeep)
	for _, s := range p.texts() {
		dst = appendText(dst, *s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.Roles)))
	for _, role := range p.Roles {
		dst = appendText(dst, role)
	}
	dst = append(dst, p.BodyDigest[:]...)
	dst = binary.AppendUvarint(dst, uint64(p.Timeout))
	dst = binary.AppendUvarint(dst, uint64(p.QueueTimeout))
	return appendBytes(dst, p.Data)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (p *PluginExecution) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	flags := r.Byte()
	*p = PluginExecution{Superadmin: flags&executionSuperadmin != 0, Rerun: flags&executionRerun != 0, Keep: flags&executionKeep != 0}
	for _, s := range p.texts() {
		*s = r.Text()
	}
	if n := r.Count(1); n > MaxRolesPerUser {
		r.Fail()
	} else {
		for range n {
			p.Roles = append(p.Roles, r.Text())
		}
	}
	copy(p.BodyDigest[:], r.Bytes(16))
	p.Timeout, p.QueueTimeout = r.span(), r.span()
	p.Data = r.Bytes(r.Uvarint())
	if flags >= executionKeep<<1 || p.RunID == "" || p.Plugin == "" || p.UserID == "" || p.Timeout == 0 || len(p.Data) > MaxExecuteBytes {
		r.Fail()
	}
	return r.end()
}

// span reads a number of nanoseconds of at most MaxPluginTimeout.
func (r *Wire) span() int64 {
	n := r.Uvarint()
	if n > uint64(MaxPluginTimeout) {
		r.Fail()
		return 0
	}
	return int64(n)
}

// attempt reads the number of an attempt.
func (r *Wire) attempt() int64 {
	n := r.Uvarint()
	if n < 1 || n > 1<<32 {
		r.Fail()
		return 0
	}
	return int64(n)
}

// EncodePayload gives the stored form. What it says for people is cut to MaxRunTextChars.
// Form 1: form, run id, attempt, whether it succeeded, code, detail, milliseconds,
// result, usage block.
func (e *ExecutionEnd) EncodePayload(dst []byte) []byte {
	dst = appendText(append(dst, 1), e.RunID)
	dst = binary.AppendUvarint(dst, uint64(e.Attempt))
	dst = append(dst, boolByte(e.OK))
	dst = appendText(dst, ClipText(string(e.Code), MaxIDChars))
	dst = appendText(dst, ClipText(e.Detail, MaxRunTextChars))
	dst = binary.AppendUvarint(dst, uint64(max(e.DurationMs, 0)))
	dst = appendBytes(dst, e.Result)
	return AppendUsageBlock(dst, len(e.Usage), func(i int) *UsageEvent { return &e.Usage[i] })
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (e *ExecutionEnd) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	*e = ExecutionEnd{RunID: r.name(), Attempt: r.attempt()}
	ok := r.Byte()
	e.Code, e.Detail = Code(r.Text()), r.Text()
	e.OK, e.DurationMs = ok == 1, r.limited()
	e.Result = r.Bytes(r.Uvarint())
	e.Usage, _ = r.usageBlock(nil)
	if ok > 1 || e.OK != (e.Code == "") || len(e.Result) > MaxExecuteBytes || len(e.Usage) > MaxRunUsage ||
		slices.ContainsFunc(e.Usage, func(u UsageEvent) bool { return u.Summary || u.Counted != nil }) {
		r.Fail()
	}
	return r.end()
}

// EncodePayload gives the stored form. Form 1: form, run id, attempt.
func (e *ExecutionRerun) EncodePayload(dst []byte) []byte {
	return binary.AppendUvarint(appendText(append(dst, 1), e.RunID), uint64(e.Attempt))
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (e *ExecutionRerun) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	e.RunID, e.Attempt = r.name(), r.attempt()
	return r.end()
}

// EncodePayload gives the stored form. Form 1: form, run id, attempt, number, name, data.
func (p *PluginPublication) EncodePayload(dst []byte) []byte {
	dst = binary.AppendUvarint(appendText(append(dst, 1), p.RunID), uint64(p.Attempt))
	dst = binary.AppendUvarint(dst, uint64(p.Number))
	return appendBytes(appendText(dst, p.Name), p.Data)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (p *PluginPublication) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	p.RunID, p.Attempt, p.Number, p.Name, p.Data = r.name(), r.attempt(), r.attempt(), r.name(), r.Bytes(r.Uvarint())
	if r.Err == nil && p.Judge() != nil {
		r.Fail()
	}
	return r.end()
}

// Judge says why a plugin may not publish this; nil when it may.
func (p *PluginPublication) Judge() *Error {
	switch {
	case !PublishedName(p.Name):
		return Errorf(CodeValidation, "%v is no name of a fact: [a-z][a-z0-9_.]{0,127}, and neither executed nor execution_error", shown(p.Name))
	case len(p.Data) > MaxPublishedBytes:
		return Errorf(CodePayloadTooLarge, "what is published must have at most %d bytes", MaxPublishedBytes)
	case !jsontext.Value(p.Data).IsValid():
		return Errorf(CodeInvalidJSON, "what is published is not JSON")
	}
	if _, err := readJSONValue(p.Data); err != nil { // nested too deeply, or not as contract §1 has it
		return Errorf(err.Code, "what is published: %s", err.Detail)
	}
	return nil
}

// ClipText gives the first characters of a text, which is valid Unicode afterwards.
func ClipText(s string, chars int) string {
	if len(s) > 4*chars {
		s = s[:4*chars]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	for i := range s {
		if chars--; chars < 0 {
			return s[:i]
		}
	}
	return s
}

// EncodePayload gives the stored form. Form 1: form, run id, who asked.
func (c *RunCancel) EncodePayload(dst []byte) []byte {
	return appendText(appendText(append(dst, 1), c.RunID), c.By)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (c *RunCancel) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	c.RunID, c.By = r.name(), r.Text()
	return r.end()
}

// EncodePayload gives the stored form. Form 1: form, events, then errors when there are any.
func (p *RunReport) EncodePayload(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, 1), uint64(len(p.Events)))
	for i := range p.Events {
		dst = appendRunEvent(dst, &p.Events[i])
	}
	if len(p.Rejected) > 0 {
		dst = appendEventErrors(dst, p.Rejected)
	}
	return dst
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (p *RunReport) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	n := r.Count(minRunEvent)
	if n > MaxRunEvents {
		r.Fail()
		n = 0
	}
	p.Events, p.Rejected = make([]RunEvent, 0, n), nil
	for range n {
		p.Events = append(p.Events, r.runEvent())
	}
	if r.Err == nil && len(r.B) > 0 {
		if p.Rejected = r.eventErrors(); len(p.Rejected) == 0 || len(p.Rejected) > MaxRunEvents {
			r.Fail()
		}
	}
	if n+len(p.Rejected) == 0 {
		r.Fail()
	}
	return r.end()
}
