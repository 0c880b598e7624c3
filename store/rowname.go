package store

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// positionOf gives the log position of the message that a row belongs to; 0 when it
// belongs to none, like a row of sums.
func positionOf(id bucketID, key, sealed []byte) uint64 {
	switch id {
	case bucketPositions, bucketEvents, bucketAdjustments, bucketBatches, bucketHolds, bucketSegments,
		bucketRuns, bucketRunEvents, bucketRunBodies, bucketOpenRuns, bucketLetters, bucketOpenLetters, bucketCommands:
		if len(key) >= 8 {
			return binary.BigEndian.Uint64(key)
		}
	case bucketIDs:
		if len(sealed) >= idChunkHead+sealSize {
			return binary.BigEndian.Uint64(sealed[1:])
		}
	case bucketConfig, bucketManifests, bucketOpenHolds, bucketRunsByApp: // position and index end the key
		if len(key) > 12 {
			return binary.BigEndian.Uint64(key[len(key)-12:])
		}
	}
	return 0
}

// rowName says for people what a row is about. at is the log position it belongs to.
func rowName(id bucketID, key, sealed []byte, at uint64) string {
	number := func() uint32 {
		if len(key) == 12 {
			return binary.BigEndian.Uint32(key[8:])
		}
		return 0
	}
	switch id {
	case bucketMeta:
		return fmt.Sprintf("record %q", key)
	case bucketPositions:
		return messageName(at)
	case bucketEvents:
		return fmt.Sprintf("events of %s, chunk %d", messageName(at), number())
	case bucketAdjustments:
		return fmt.Sprintf("correction by command %d of %s", number(), messageName(at))
	case bucketBatches:
		return fmt.Sprintf("batch of command %d of %s", number(), messageName(at))
	case bucketIDs:
		return "ids that " + messageName(at) + " entered"
	case bucketSegments:
		return "segment that begins with " + messageName(at)
	case bucketConfig:
		r := newReader(key)
		return fmt.Sprintf("configuration %q, set by %s", r.text(), messageName(at))
	case bucketChats:
		if c, err := parseChat(sealed[:max(len(sealed)-sealSize, 0)]); err == nil {
			return fmt.Sprintf("chat %q of app %q", c.chat, c.app)
		}
	case bucketChatIDs:
		if len(key) == 8 {
			return fmt.Sprintf("chats from number %d on", binary.BigEndian.Uint64(key))
		}
	case bucketLetters, bucketOpenLetters:
		return fmt.Sprintf("dead letter of command %d of %s", number(), messageName(at))
	case bucketHolds:
		return fmt.Sprintf("hold that command %d of %s was granted", number(), messageName(at))
	case bucketManifests, bucketCounters, bucketOpenHolds, bucketWindows, bucketLeases, bucketConsumed, bucketTold, bucketDue:
		if name := entitlementName(id, key, at); name != "" {
			return name
		}
	case bucketRuns, bucketRunEvents, bucketRunBodies, bucketOpenRuns, bucketRunsByApp:
		if name := runRowName(id, key, at); name != "" {
			return name
		}
	case bucketCommands:
		return fmt.Sprintf("what became of command %d of %s", number(), messageName(at))
	case bucketDeliveries:
		return fmt.Sprintf("where delivery %q stands", key)
	case bucketApps:
		return fmt.Sprintf("counters of app %q", key)
	case bucketHours:
		if name := hourName(key); name != "" {
			return name
		}
	}
	return "row " + hex.EncodeToString(key)
}

// entitlementName reads the key of a row of what entitlements keep; empty when it is
// none.
func entitlementName(id bucketID, key []byte, at uint64) string {
	r := newReader(key)
	var text string
	switch id {
	case bucketDue:
		r.Byte()
		text = "what is due at " + time.Unix(0, r.instant()).UTC().Format(time.RFC3339Nano)
		r.B = nil
	case bucketOpenHolds:
		text = fmt.Sprintf("open hold of app %q", r.text())
		r.instant()
		r.place()
	default:
		app, scope := r.scope()
		text = fmt.Sprintf("app %q", app)
		if scope.ID != "" {
			text += fmt.Sprintf(", %s %q", scope.Kind, scope.ID)
		}
		if id == bucketManifests {
			r.place()
			text = "manifest of " + text + ", synced by " + messageName(at)
			break
		}
		text = id.String() + " of " + text
		for len(r.B) > 0 && r.Err == nil {
			text += fmt.Sprintf(", %q", r.text())
		}
	}
	if r.Err != nil || len(r.B) > 0 {
		return ""
	}
	return text
}

// runRowName reads the key of a row about a run; empty when it is none.
func runRowName(id bucketID, key []byte, at uint64) string {
	r := newReader(key)
	text := ""
	if id == bucketRunsByApp {
		text = fmt.Sprintf(" of app %q", r.text())
	}
	run := fmt.Sprintf("run %d%s that %s stored", r.place().Index, text, messageName(at))
	switch id {
	case bucketRunEvents:
		run = fmt.Sprintf("event %d of %s", r.instant(), run)
	case bucketRunBodies:
		part := "data"
		if runBody(r.Byte()) == bodyResult {
			part = "result"
		}
		run = part + " of " + run
	case bucketOpenRuns:
		run = "open " + run
	}
	if r.Err != nil || len(r.B) > 0 {
		return ""
	}
	return run
}

func messageName(at uint64) string {
	seq := at & (1<<sequenceBits - 1)
	if at>>sequenceBits == 0 {
		return fmt.Sprintf("message %d", seq)
	}
	return fmt.Sprintf("message %d of epoch %d", seq, at>>sequenceBits+firstEpoch)
}

// hourName reads the key of a block of aggregates; empty when it is none.
func hourName(key []byte) string {
	if len(key) < 4 {
		return ""
	}
	hour := time.Unix(int64(binary.BigEndian.Uint32(key))*3600, 0).UTC()
	r := newReader(key[4:])
	text := "sums of " + hour.Format("2006-01-02T15:04Z")
	for i, field := range [...]string{"app", "tenant", "user", "workflow", "model"} {
		if i == 1 && len(r.B) == 0 { // the first block of the hour and app
			break
		}
		if i == 1 {
			text += " from"
		}
		if v := r.text(); v != "" {
			text += fmt.Sprintf(" %s %q", field, v)
		}
	}
	if r.Err != nil || len(r.B) > 0 {
		return ""
	}
	return text
}
