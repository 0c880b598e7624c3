package store

import (
	"encoding/binary"
	"math"

	"grout/schemas"
)

// bucketID names a bucket. Keys are big-endian, and sequential wherever the volume
// is. The order is that of the sums in meta (rows.go): new ones come last.
type bucketID int

const (
	bucketMeta        bucketID = iota // name → record
	bucketPositions                   // log position → time, digest: the last messages
	bucketEvents                      // log position, chunk → accepted events of a message
	bucketAdjustments                 // log position, index → compensating entry of a correction
	bucketIDs                         // first ordinal → id entries
	bucketBatches                     // log position, index → what became of an ingest command
	bucketHours                       // hour, app, rest of the first key → sums of tenant, user, workflow, model
	bucketApps                        // app → its counters
	bucketFacts                       // position → row
	bucketDead                        // position → row
	bucketSegments                    // first log position → where a segment begins
	bucketConfig                      // name, log position, index → version of a configuration
	bucketChats                       // ordinal → chat
	bucketChatIDs                     // first ordinal → fingerprints of chats
	bucketManifests                   // app, scope, log position, index → version of a manifest
	bucketCounters                    // app, scope → counters of its budget
	bucketHolds                       // log position, index → reservation of tokens
	bucketOpenHolds                   // app, expiry, log position, index → nothing: the hold is open
	bucketDue                         // class, instant, kind, key → nothing: something is due then
	bucketWindows                     // app, scope, limit → what a rate limit counted
	bucketLeases                      // app, scope, limit, id → expiry
	bucketConsumed                    // app, user, plugin, limit → what was used up
	bucketTold                        // app, scope, name → period it was told in
	bucketRuns                        // log position, number → run
	bucketRunsByApp                   // app, log position, number → nothing: the run is one of the app
	bucketRunEvents                   // log position, number, sequence → event of a run
	bucketRunBodies                   // log position, number, part → data or result of an execution
	bucketOpenRuns                    // log position, number → nothing: the execution has not ended
	bucketDeliveries                  // name → where a delivery out of the house stands
	bucketLetters                     // log position, index → what is known of a dead letter
	bucketOpenLetters                 // log position, index → nothing: the letter waits
	bucketCommands                    // log position, index → what became of a command that somebody else published
	bucketCount

	bucketsOfFormat1 = bucketDead + 1
)

var bucketNames = [bucketCount]string{
	"meta", "positions", "events", "adjustments", "ids", "batches", "hours", "apps", "outbox_evt", "outbox_dlq",
	"segments", "config", "chats", "chat_ids", "manifests", "counters", "holds", "open_holds", "due",
	"rate_windows", "leases", "consumed", "told", "runs", "runs_by_app", "run_events", "run_bodies", "open_runs", "deliveries", "letters", "open_letters", "commands",
}

func (b bucketID) String() string { return bucketNames[b] }

// appended reports whether a bucket is only ever appended to.
func (b bucketID) appended() bool {
	switch b {
	case bucketMeta, bucketHours, bucketApps, bucketConfig, bucketManifests, bucketCounters, bucketOpenHolds, bucketDue,
		bucketWindows, bucketLeases, bucketConsumed, bucketTold, bucketRunsByApp, bucketOpenRuns, bucketDeliveries, bucketOpenLetters:
		return false
	default:
		return true
	}
}

// Records of the meta bucket.
var (
	metaFormat   = []byte("format")
	metaApplied  = []byte("applied")
	metaFold     = []byte("fold")
	metaIDs      = []byte("next_ordinal")
	metaSums     = []byte("sums")
	metaClock    = []byte("clock")
	metaSegments = []byte("segments")
	metaOrigin   = []byte("origin")
)

// relayedPrefix begins the records of where relays stand.
const relayedPrefix = "relayed_"

// metaRelayed is where a relay stands.
func metaRelayed(dest string) []byte { return []byte(relayedPrefix + dest) }

func outboxBucket(dest string) bucketID {
	if dest == schemas.DestDeadLetters {
		return bucketDead
	}
	return bucketFacts
}

// sequenceBits of a log position are the message's sequence in the command stream,
// those above them the epoch: a stream that was recreated counts from 1 again, and
// what it brings stands behind everything before it.
const sequenceBits = 40

// logPosition places a message of any epoch in one order. Keys and references hold
// it wherever they speak of a message; in the first epoch it is the sequence.
func logPosition(epoch uint32, seq uint64) uint64 {
	return uint64(epoch-firstEpoch)<<sequenceBits | seq
}

func keySeq(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func keyChunk(seq uint64, chunk int) []byte {
	return binary.BigEndian.AppendUint32(keySeq(seq), uint32(chunk))
}

func keyCommand(seq uint64, index uint32) []byte {
	return binary.BigEndian.AppendUint32(keySeq(seq), index)
}

func keyOrdinal(ordinal uint64) []byte { return binary.BigEndian.AppendUint64(nil, ordinal) }

// hourSpan is the length of an aggregate's hour.
const hourSpan = int64(3600e9)

// hourOf gives the hour since 1970 UTC of an instant; earlier ones are hour 0,
// which no accepted event can have.
func hourOf(nanos int64) uint32 {
	if nanos < 0 {
		return 0
	}
	return uint32(min(nanos/hourSpan, math.MaxUint32))
}

// appendHourAppKey begins the key of an aggregate row, which appendRest ends with
// tenant, user, workflow and model. Texts carry their length, so that no text can
// run into its neighbour; rows of an hour and app lie together.
func appendHourAppKey(b []byte, hour uint32, app string) []byte {
	b = binary.BigEndian.AppendUint32(b, hour)
	return appendText(b, app)
}

func appendRest(b []byte, texts ...string) []byte {
	for _, s := range texts {
		b = appendText(b, s)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
