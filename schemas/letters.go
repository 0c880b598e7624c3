package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
)

// LetterStatus is what has become of a dead letter.
type LetterStatus byte

// A letter waits until somebody has its command sent again, and that had an outcome, or
// drops it. A command that dies once more, sent by whomever, lets its letter wait again.
const (
	LetterWaiting LetterStatus = iota + 1
	LetterRetried
	LetterDropped
)

var letterStatusNames = [...]string{LetterWaiting: "waiting", LetterRetried: "retried", LetterDropped: "dropped"}

func (s LetterStatus) String() string {
	if int(s) < len(letterStatusNames) {
		return letterStatusNames[s]
	}
	return ""
}

// LetterStatusNamed gives the status of a name.
func LetterStatusNamed(name string) (LetterStatus, bool) {
	i := slices.Index(letterStatusNames[:], name)
	return LetterStatus(max(i, 0)), i > 0
}

// LetterRefiled is how long a letter stands for the same command that dies again; after
// it another one is filed, since streams do not keep letters for much longer.
const LetterRefiled = 7 * 24 * hour

// LetterID derives the id of a letter from what it follows from, its number there, and
// its original: the same that dies again has the same letter, and nothing else has. It is
// no id of a fact.
func LetterID(c Cause, n uint32, o *OriginalMessage) string {
	h := sha256.New()
	b := appendText(nil, c.Source)
	b = appendText(b, c.ID)
	b = binary.BigEndian.AppendUint32(b, n)
	h.Write(appendText(b, o.Subject))
	h.Write(o.Data)
	sum := h.Sum(nil)
	return idEncoding.EncodeToString(sum[:16])
}

// Letter is what is known of a dead letter beside its original, which the stream of dead
// letters holds as long as that keeps it.
type Letter struct {
	Status   LetterStatus
	ID       string
	AppID    string // empty when it could not be read
	Kind     string // likewise
	Code     Code
	Reason   string
	Attempts int64
	FiledAt  int64 // nanoseconds since 1970 UTC, as the next two
	DiedAt   int64 // the last time
	ClosedAt int64 // when it was retried or dropped; 0: it waits
	Cause    Cause

	CorrelationID string
	Subject       string // of the original, in its stream
	Sequence      uint64
	Bytes         int64 // of the original's data

	// Outcome of the command that was sent again: refused by a code, or done, with what
	// its answer says, as far as that is short.
	Outcome CommandOutcome
}

// MaxKeptLetterResult is how long the answer to a retried command may be that its letter
// keeps.
const MaxKeptLetterResult = 8 << 10

// LetterPlace is where a letter stands in the log of its partition; zero is none.
type LetterPlace struct {
	Partition int
	Seq       uint64
	Index     uint32
}

// LetterQuery asks for a page of dead letters, newest first in each partition.
type LetterQuery struct {
	AppID, Kind   string // empty: of all
	Code          Code
	Status        LetterStatus // 0: all
	Since, Before int64        // filed at or after, and before; 0: no bound
	Limit         int
	Behind        LetterPlace // goes on behind it; zero: the newest
}

// Wants tells whether a letter is asked for.
func (q *LetterQuery) Wants(l *Letter) bool {
	return (q.AppID == "" || q.AppID == l.AppID) && (q.Kind == "" || q.Kind == l.Kind) && (q.Code == "" || q.Code == l.Code) &&
		(q.Status == 0 || q.Status == l.Status) && (q.Since == 0 || l.FiledAt >= q.Since) && (q.Before == 0 || l.FiledAt < q.Before)
}

// LetterPage is a page of letters; More follow behind Next.
type LetterPage struct {
	Letters []Letter
	More    bool
	Next    LetterPlace
}

// LetterRetry is the payload of letter.retry: a command that died is carried out
// again, in the place of this one and with its own id and source, unless its letter does
// not wait any more. Only grout writes it.
type LetterRetry struct {
	ID    string // of the letter
	Frame CommandFrame
}

// RetryRoom is by how much the frame of a retry may be larger than what it holds.
const RetryRoom = 4 << 10

// EncodePayload gives the stored form: form 1, id of the letter, the command as a group
// of one.
func (p *LetterRetry) EncodePayload(dst []byte) []byte {
	dst = appendText(append(dst, 1), p.ID)
	return AppendGroup(dst, []CommandFrame{p.Frame})
}

// DecodePayload reads what EncodePayload wrote.
func (p *LetterRetry) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	p.ID = r.Text()
	if r.Err != nil {
		return r.Err
	}
	list, err := DecodeGroup(r.B)
	if err != nil {
		return err
	}
	if len(list) != 1 || list[0].Kind == "" {
		r.Fail()
		return r.Err
	}
	p.Frame = list[0]
	return nil
}

// LetterDrop is the payload of letter.drop: a letter is not wanted any more. Only
// grout writes it.
type LetterDrop struct {
	ID string
}

// EncodePayload gives the stored form: form 1, id of the letter.
func (p *LetterDrop) EncodePayload(dst []byte) []byte { return appendText(append(dst, 1), p.ID) }

// DecodePayload reads what EncodePayload wrote.
func (p *LetterDrop) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	p.ID = r.Text()
	return r.end()
}

// Retryable tells whether a command of a kind may be carried out again from a letter.
// What grout alone writes it writes again by itself, or a user has asked for it and got
// no answer.
func Retryable(kind string) bool {
	return slices.Contains(commandNames, kind) && !slices.Contains(internalNames, kind)
}

// LetterData is a dead letter as it is listed, and the answer to a retry and to a drop.
type LetterData struct {
	ID              string             `json:"id"`
	Status          string             `json:"status"`
	AppID           *string            `json:"app_id"` // null: it could not be read
	Kind            *string            `json:"kind"`   // likewise
	Code            Code               `json:"code"`
	Reason          string             `json:"reason"`
	Attempts        int64              `json:"attempts"`
	FiledAt         string             `json:"filed_at"`
	DiedAt          string             `json:"died_at"`
	ClosedAt        *string            `json:"closed_at"`
	CausationID     string             `json:"causation_id"`
	CausationSource string             `json:"causation_source"`
	CorrelationID   *string            `json:"correlation_id"`
	Subject         string             `json:"subject"`
	Sequence        uint64             `json:"sequence"`
	Bytes           int64              `json:"bytes"`
	Outcome         *LetterOutcomeData `json:"outcome"` // null: it was not carried out
}

// LetterOutcomeData is what came of a command that was sent again: code and detail of a
// refusal, else the answer, when it is short.
type LetterOutcomeData struct {
	Code   *string         `json:"code"`
	Detail *string         `json:"detail"`
	Result json.RawMessage `json:"result"`
}

// Data gives the letter as it is listed.
func (l *Letter) Data() LetterData {
	d := LetterData{
		ID: l.ID, Status: l.Status.String(), AppID: textOrNull(l.AppID), Kind: textOrNull(l.Kind), Code: l.Code, Reason: l.Reason,
		Attempts: l.Attempts, FiledAt: InstantText(l.FiledAt), DiedAt: InstantText(l.DiedAt), ClosedAt: InstantOrNull(l.ClosedAt),
		CausationID: l.Cause.ID, CausationSource: l.Cause.Source, CorrelationID: textOrNull(l.CorrelationID),
		Subject: l.Subject, Sequence: l.Sequence, Bytes: l.Bytes,
	}
	if l.Status == LetterRetried {
		d.Outcome = &LetterOutcomeData{Code: textOrNull(string(l.Outcome.Code)), Detail: textOrNull(l.Outcome.Detail), Result: l.Outcome.Body}
	}
	return d
}

// AppendJSON adds the letter as it is listed.
func (l *Letter) AppendJSON(dst []byte) []byte { return appendJSON(dst, l.Data()) }
