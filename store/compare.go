package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

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
var positional = [][]byte{bucketPositions, bucketEvents, bucketAdjustments, bucketBatches}

// Compare walks two stores side by side and tells the rows in which they differ
// until differs says to stop. It leaves out what does not follow from the command
// stream: where relays stand, and the rows that wait for them. It returns the
// number of rows compared.
func Compare(a, b *Store, differs func(Difference) bool) (rows int64, err error) {
	err = a.db.View(func(left *bbolt.Tx) error {
		return b.db.View(func(right *bbolt.Tx) error {
			for _, name := range buckets {
				if bytes.Equal(name, bucketFacts) || bytes.Equal(name, bucketDead) {
					continue
				}
				n, more, err := compareBucket(name, left.Bucket(name), right.Bucket(name), differs)
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

func compareBucket(name []byte, left, right *bbolt.Bucket, differs func(Difference) bool) (rows int64, more bool, err error) {
	if left == nil || right == nil {
		return 0, false, fmt.Errorf("bucket %s: %w", name, errDamaged)
	}
	x, y := left.Cursor(), right.Cursor()
	k, v := x.First()
	l, w := y.First()
	for k != nil || l != nil {
		if relayRecord(name, k) {
			k, v = x.Next()
			continue
		}
		if relayRecord(name, l) {
			l, w = y.Next()
			continue
		}
		rows++
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
		if what != "" && !differs(difference(name, key, what)) {
			return rows, false, nil
		}
	}
	return rows, true, nil
}

func relayRecord(bucket, key []byte) bool {
	return bytes.Equal(bucket, bucketMeta) && bytes.HasPrefix(key, []byte(relayedPrefix))
}

func difference(bucket, key []byte, what string) Difference {
	d := Difference{Bucket: string(bucket), Key: fmt.Sprintf("%x", key), What: what}
	for _, name := range positional {
		if bytes.Equal(name, bucket) && len(key) >= 8 {
			d.Sequence = binary.BigEndian.Uint64(key)
		}
	}
	return d
}
