package store

import (
	"encoding/binary"
	"math"

	"grout/schemas"
)

// Buckets. Keys are big-endian, and sequential wherever the volume is.
var (
	bucketMeta        = []byte("meta")        // name → record
	bucketPositions   = []byte("positions")   // seq → time, digest: the last messages
	bucketEvents      = []byte("events")      // seq, chunk → accepted events of a message
	bucketAdjustments = []byte("adjustments") // seq, index → compensating entry of a correction
	bucketIDs         = []byte("ids")         // first ordinal → id entries
	bucketBatches     = []byte("batches")     // seq, index → what became of an ingest command
	bucketHours       = []byte("hours")       // hour, app, tenant, user, workflow, model → sums
	bucketApps        = []byte("apps")        // app → its counters
	bucketFacts       = []byte("outbox_evt")  // position → row
	bucketDead        = []byte("outbox_dlq")  // position → row
)

var buckets = [][]byte{
	bucketMeta, bucketPositions, bucketEvents, bucketAdjustments, bucketIDs, bucketBatches,
	bucketHours, bucketApps, bucketFacts, bucketDead,
}

// Records of the meta bucket.
var (
	metaFormat  = []byte("format")
	metaApplied = []byte("applied")
	metaFold    = []byte("fold")
	metaIDs     = []byte("next_ordinal")
)

// relayedPrefix begins the records of where relays stand.
const relayedPrefix = "relayed_"

// metaRelayed is where a relay stands.
func metaRelayed(dest string) []byte { return []byte(relayedPrefix + dest) }

func outboxBucket(dest string) []byte {
	if dest == schemas.DestDeadLetters {
		return bucketDead
	}
	return bucketFacts
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
