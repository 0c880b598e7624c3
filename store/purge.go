package store

import "encoding/binary"

// What one message removes of the rows below the line: twice what it wrote itself,
// so that the line is caught up with under any load, but no less than a little. A tick
// removes more; there is one an hour. None of it is so much that a transaction
// would be long.
const (
	purgeRowsAtLeast  = 64
	purgeBytesAtLeast = 1 << 20
	purgeRowsOfTick   = 4096
	purgeBytesOfTick  = 16 << 20
)

// expiring are the buckets whose rows go below the line.
var expiring = [...]bucketID{bucketIDs, bucketEvents, bucketAdjustments, bucketBatches, bucketHolds, bucketRunEvents, bucketRunBodies, bucketRuns, bucketOpenLetters, bucketLetters, bucketCommands, bucketSegments}

// expires reports whether what is written into a bucket counts for the purge.
func (b bucketID) expires() bool {
	switch b {
	case bucketIDs, bucketEvents, bucketAdjustments, bucketBatches, bucketHolds, bucketRunEvents, bucketRunBodies, bucketRuns, bucketLetters, bucketOpenLetters, bucketCommands:
		return true
	default:
		return false
	}
}

// volume is a number of rows and their bytes.
type volume struct{ rows, bytes int }

// purge removes a slice of what is below the line, as the running message allows.
func (tx *Tx) purge() error {
	if !tx.segments.Dead {
		return nil
	}
	left := volume{max(purgeRowsAtLeast, 2*tx.wrote.rows), max(purgeBytesAtLeast, 2*tx.wrote.bytes)}
	if tx.ticked {
		left = volume{max(left.rows, purgeRowsOfTick), max(left.bytes, purgeBytesOfTick)}
	}
	for _, id := range expiring {
		if err := tx.purgeBucket(id, &left); err != nil {
			return err
		}
		if left.rows <= 0 || left.bytes <= 0 {
			return nil
		}
	}
	tx.segments.Dead = false
	return nil
}

// purgeBucket goes on behind what this transaction has removed already: the pages
// that became empty stay until the commit, and walking over them each time would
// take ever longer.
func (tx *Tx) purgeBucket(id bucketID, left *volume) error {
	end := tx.segments.Line.Position
	if id == bucketIDs {
		end = tx.segments.Line.Ordinal
	}
	c := tx.bucket(id).cursor()
	for k, v := c.seek(tx.purged[id]); k != nil && binary.BigEndian.Uint64(k) < end; k, v = c.seek(tx.purged[id]) {
		if left.rows <= 0 || left.bytes <= 0 {
			return nil
		}
		left.rows--
		left.bytes -= len(k) + len(v)
		tx.purged[id] = append(tx.purged[id][:0], k...)
		if id == bucketRuns {
			if err := tx.forgetRun(k, v); err != nil {
				return err
			}
		}
		if err := tx.remove(c, k); err != nil {
			return err
		}
	}
	return c.err
}
