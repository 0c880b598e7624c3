package schemas

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Limits of usage batches (contract §1, §7).
const (
	MaxEventsPerBatch  = 20_000
	MaxListedErrors    = 1_000
	MaxEventsPerPart   = 500
	MaxIDChars         = 128
	MaxNameChars       = 256 // model and workflow
	MaxTokenCount      = 1_000_000_000
	MaxSummaryCount    = 1_000_000_000_000 // of a chat's totals
	MaxMetadataBytes   = 4 << 10
	MaxJSONDepth       = 64
	MaxCostNanos       = 1_000_000_000 * NanosPerUnit
	NanosPerUnit       = 1_000_000_000
	MaxDurationSeconds = 1_000_000_000
)

// Ages that an event's timestamp may have against the instant of its command,
// in nanoseconds (contract §7).
const (
	MaxEventAge   = 34 * 24 * int64(3600e9)
	MaxEventAhead = 24 * int64(3600e9)
)

// UsageEvent is one model call to be counted, already validated except for its
// age. A zero optional field means the field was absent: absent, null and zero
// are the same event. Strings may point into the buffer the event was read from.
type UsageEvent struct {
	Index           uint32 // place in the request, from 0
	EventID         string
	Timestamp       int64 // nanoseconds since 1970 UTC
	AppID           string
	TenantID        string
	UserID          string
	WorkflowID      string
	Model           string
	ChatID          string
	RunID           string
	AgentName       string
	InvocationID    string
	InputTokens     int64
	OutputTokens    int64
	TotalTokens     int64
	CachedTokens    int64
	ReasoningTokens int64
	Cost            int64 // nano-units
	DurationSec     float64
	Cached          bool
	Summary         bool   // its counts are the cumulative totals of its chat
	Metadata        []byte // canonical JSON object

	// Counted is what the event added to the sums when that is not all it says
	// (contract §7); nil is all of it. Only the event log knows: no command carries
	// it, and it is no part of the event's identity.
	Counted *UsageSums
}

// CoveredBySummary tells of a delta that none of its tokens or cost was counted of,
// since a summary of its chat states them already.
func (e *UsageEvent) CoveredBySummary() bool {
	return e.Counted != nil && !e.Summary && *e.Counted == UsageSums{Events: 1}
}

// EventError says why one event of a batch was not counted.
type EventError struct {
	Index   uint32
	EventID string // empty when it could not be read
	AppID   string // empty when it could not be read
	Code    Code
	Detail  string
}

// RejectedEvent is an event that was refused while its batch was read.
type RejectedEvent struct {
	EventError
	Digest uint64 // of its text, for the digest of its batch
}

// ParsedBatch is an ingest request as read: every event is in Events or in Rejected.
type ParsedBatch struct {
	BatchID  string // empty when the request has none
	Events   []UsageEvent
	Rejected []RejectedEvent
}

// Total is the number of events of the request.
func (b *ParsedBatch) Total() int { return len(b.Events) + len(b.Rejected) }

// UsageBatch is the payload of usage.ingest: one partition's share of an ingest
// request, however many apps it holds.
type UsageBatch struct {
	BatchID  string
	Made     bool // grout made the id: nobody can repeat it, so it is not entered
	Parts    []BatchPart
	Events   []UsageEvent
	Rejected []EventError // at most MaxListedErrors; Parts count all
	Prints   []EventPrint // of Events, filled by DecodePayload
}

// EventPrint is what the id log keeps of an event.
type EventPrint struct {
	ID     Fingerprint
	Digest uint64
}

// BatchPart is what belongs to one app of a batch. Its digest covers the app's
// events as a set, so the same events in another order are the same part.
type BatchPart struct {
	AppID    string // empty for events without a readable app
	Digest   [16]byte
	Rejected uint32
}

// ContentDigest covers everything that makes an event what it is, and not where
// it stood: two events with one identity and different digests are a conflict.
func ContentDigest(e *UsageEvent, scratch []byte) (uint64, []byte) {
	b := scratch[:0]
	for _, s := range [...]string{e.EventID, e.AppID, e.TenantID, e.UserID, e.WorkflowID, e.Model, e.ChatID, e.RunID, e.AgentName, e.InvocationID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, n := range [...]int64{e.Timestamp, e.InputTokens, e.OutputTokens, e.TotalTokens, e.CachedTokens, e.ReasoningTokens, e.Cost} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e.DurationSec))
	b = append(b, boolByte(e.Cached)|boolByte(e.Summary)<<1)
	b = append(b, e.Metadata...)
	return xxhash.Sum64(b), b
}

// IDKind separates the identities that share the id log.
type IDKind byte

// Kinds of identities.
const (
	IDEvent      IDKind = 'e'
	IDBatch      IDKind = 'b'
	IDAdjustment IDKind = 'a' // of an event: what it counts for now
	IDChat       IDKind = 'c' // has a log of its own
	IDHold       IDKind = 'h'
	IDRun        IDKind = 'r'
	IDRunKey     IDKind = 'k' // idempotency key of a user and plugin
	IDRunEvent   IDKind = 'v' // of a reported event
	IDLetter     IDKind = 'd' // of a dead letter; it is no app's
	IDCommand    IDKind = 'm' // of a command that somebody else has published
)

// Fingerprint identifies an id of an app for ever (architecture §3, id log).
type Fingerprint [16]byte

// FingerprintOf hashes kind, app and the exact id.
func FingerprintOf(kind IDKind, app, id string, scratch []byte) (Fingerprint, []byte) {
	b := append(scratch[:0], byte(kind))
	b = binary.AppendUvarint(b, uint64(len(app)))
	b = append(b, app...)
	b = append(b, id...)
	return digest16(b), b
}

func digest16(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// SplitBatch makes the commands of a request, one for each partition that has a
// share of it, keyed by partition. Events without a readable app go with the
// lowest of them. The events of the result are those of the request, moved.
func SplitBatch(in *ParsedBatch, batchID string, made bool, partitions int) map[int]*UsageBatch {
	type part struct {
		batch  *UsageBatch
		index  int
		hashes []uint64
	}
	byApp := make(map[string]*part, 8)
	out := map[int]*UsageBatch{}
	var scratch []byte
	var last *part
	lastApp := ""
	partOf := func(app string, partition int) *part {
		if last != nil && app == lastApp {
			return last
		}
		p := byApp[app]
		if p == nil {
			b := out[partition]
			if b == nil {
				b = &UsageBatch{BatchID: batchID, Made: made}
				out[partition] = b
			}
			p = &part{batch: b, index: len(b.Parts)}
			b.Parts = append(b.Parts, BatchPart{AppID: app})
			byApp[app] = p
		}
		last, lastApp = p, app
		return p
	}
	for i := range in.Events {
		e := &in.Events[i]
		p := partOf(e.AppID, PartitionOf(e.AppID, partitions))
		var h uint64
		h, scratch = ContentDigest(e, scratch)
		p.hashes = append(p.hashes, h)
		if partitions > 1 {
			p.batch.Events = append(p.batch.Events, *e)
		}
	}
	if partitions <= 1 && len(in.Events) > 0 {
		out[0].Events = in.Events
	}
	for _, readable := range []bool{true, false} {
		lowest := 0
		if !readable && len(out) > 0 {
			lowest = partitions
			for q := range out {
				lowest = min(lowest, q)
			}
		}
		for i := range in.Rejected {
			r := &in.Rejected[i]
			if (r.AppID != "") != readable {
				continue
			}
			q := lowest
			if readable {
				q = PartitionOf(r.AppID, partitions)
			}
			p := partOf(r.AppID, q)
			p.hashes = append(p.hashes, r.Digest)
			p.batch.Parts[p.index].Rejected++
			p.batch.Rejected = append(p.batch.Rejected, r.EventError)
		}
	}
	for _, b := range out { // those without an app were added last
		slices.SortStableFunc(b.Rejected, func(x, y EventError) int { return cmp.Compare(x.Index, y.Index) })
		b.Rejected = b.Rejected[:min(len(b.Rejected), MaxListedErrors)]
	}
	for _, p := range byApp {
		slices.Sort(p.hashes)
		b := scratch[:0]
		for _, h := range p.hashes {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		p.batch.Parts[p.index].Digest = digest16(b)
		scratch = b
	}
	return out
}
