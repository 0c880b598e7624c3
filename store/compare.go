package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// Difference is a row in which two stores differ.
type Difference struct {
	Bucket   string `json:"bucket"`
	Key      string `json:"key"` // hexadecimal
	Sequence uint64 `json:"sequence,omitempty"`
	What     string `json:"what"` // missing, extra or different, seen from the first store
}

// positional are the buckets whose keys begin with a stream sequence.
var positional = []bucketID{bucketPositions, bucketEvents, bucketAdjustments, bucketBatches}

// Compare walks two stores side by side and tells the rows in which they differ
// until differs says to stop. It leaves out what does not follow from the command
// stream: where relays stand, and the rows that wait for them. It returns the
// number of rows compared.
func Compare(a, b *Store, differs func(Difference) bool) (rows int64, err error) {
	err = a.db.View(func(left *bbolt.Tx) error {
		return b.db.View(func(right *bbolt.Tx) error {
			for id := range bucketCount {
				if id == bucketFacts || id == bucketDead {
					continue
				}
				n, more, err := compareBucket(bucketOf(left, id), bucketOf(right, id), differs)
				rows += n
				if err != nil || !more {
					return err
				}
			}
			return nil
		})
	})
	return rows, err
}

func compareBucket(left, right bucket, differs func(Difference) bool) (n int64, more bool, err error) {
	id := left.id
	if left.Bucket == nil || right.Bucket == nil {
		return 0, false, fmt.Errorf("bucket %s: %w", id, errDamaged)
	}
	x, y := left.Cursor(), right.Cursor()
	k, v := x.First()
	l, w := y.First()
	for k != nil || l != nil {
		if relayRecord(id, k) {
			k, v = x.Next()
			continue
		}
		if relayRecord(id, l) {
			l, w = y.Next()
			continue
		}
		n++
		order := bytes.Compare(k, l)
		what, key := "", k
		switch {
		case l == nil || k != nil && order < 0:
			what = "extra"
			k, v = x.Next()
		case k == nil || order > 0:
			what, key = "missing", l
			l, w = y.Next()
		default:
			if !bytes.Equal(v, w) {
				what = "different"
			}
			k, v = x.Next()
			l, w = y.Next()
		}
		if what != "" && !differs(difference(id, key, what)) {
			return n, false, nil
		}
	}
	return n, true, nil
}

// relayRecord reports whether a row depends on where relays stand; so do the sums,
// which cover the outboxes.
func relayRecord(bucket bucketID, key []byte) bool {
	return bucket == bucketMeta && (bytes.HasPrefix(key, []byte(relayedPrefix)) || bytes.Equal(key, metaSums))
}

func difference(bucket bucketID, key []byte, what string) Difference {
	d := Difference{Bucket: bucket.String(), Key: fmt.Sprintf("%x", key), What: what}
	if slices.Contains(positional, bucket) && len(key) >= 8 {
		d.Sequence = binary.BigEndian.Uint64(key)
	}
	return d
}
