package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Comparison says how far two stores hold the same rows. It leaves out what does not
// follow from the command stream: where relays stand, the rows that wait for them,
// and the sums over them.
type Comparison struct {
	Rows        int64              `json:"rows"`
	Differing   int64              `json:"differing"`
	Diverges    *Divergence        `json:"diverges,omitempty"`
	Buckets     []BucketComparison `json:"buckets"`
	Differences []Difference       `json:"differences"` // the first of each bucket
}

// BucketComparison is one bucket of both stores, seen from the first.
type BucketComparison struct {
	Bucket    string       `json:"bucket"`
	Rows      int64        `json:"rows"` // that either has
	Differing int64        `json:"differing"`
	Store     BucketDigest `json:"store"`
	Replica   BucketDigest `json:"replica"`
}

// BucketDigest folds the sealed rows of a bucket; their order does not matter.
type BucketDigest struct {
	Rows   uint64 `json:"rows"`
	Digest string `json:"digest"`
}

// Difference is a row in which two stores differ.
type Difference struct {
	Bucket   string `json:"bucket"`
	Name     string `json:"name"`
	Key      string `json:"key"`                // hexadecimal
	Position uint64 `json:"position,omitempty"` // of its message in the log
	What     string `json:"what"`               // missing, extra or different, seen from the first store
}

// Divergence is the first message about which two stores disagree.
type Divergence struct {
	Position uint64    `json:"position"` // in the log
	Epoch    uint32    `json:"epoch"`
	Sequence uint64    `json:"sequence"`           // in the command stream of its epoch
	StoredAt time.Time `json:"stored_at,omitzero"` // when a store still knows it
}

// Compare walks two stores side by side. It lists up to most differing rows of each
// bucket, and counts them all.
func Compare(ctx context.Context, a, b *Store, most int) (c Comparison, err error) {
	c = Comparison{Buckets: []BucketComparison{}, Differences: []Difference{}}
	// Before the first message a record is there or not: a relay may have had it written.
	untouched := a.Checkpoint().Seq == 0 && b.Checkpoint().Seq == 0
	err = a.db.View(func(left *bbolt.Tx) error {
		return b.db.View(func(right *bbolt.Tx) error {
			first := uint64(0)
			for id := range bucketCount {
				if id == bucketFacts || id == bucketDead || id == bucketMeta && untouched {
					continue
				}
				p := pair{ctx: ctx, id: id, most: most, left: bucketOf(left, id), right: bucketOf(right, id)}
				if err := p.compare(); err != nil {
					return fmt.Errorf("compare bucket %s: %w", id, err)
				}
				c.Rows += p.rows
				c.Differing += p.differing
				c.Buckets = append(c.Buckets, p.result())
				c.Differences = append(c.Differences, p.list...)
				first = earlier(first, p.first)
			}
			c.Diverges = divergence(first, left, right)
			return nil
		})
	})
	return c, err
}

// earlier takes the smaller of two log positions; 0 is none.
func earlier(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func divergence(at uint64, stores ...*bbolt.Tx) *Divergence {
	if at == 0 {
		return nil
	}
	d := &Divergence{Position: at, Epoch: uint32(at>>sequenceBits) + firstEpoch, Sequence: at & (1<<sequenceBits - 1)}
	for _, bolt := range stores {
		if v, err := bucketOf(bolt, bucketPositions).get(keySeq(at)); err == nil && len(v) >= 8 {
			d.StoredAt = time.Unix(0, int64(binary.BigEndian.Uint64(v))).UTC()
			break
		}
	}
	return d
}

// pair is one bucket of both stores.
type pair struct {
	ctx         context.Context
	id          bucketID
	most        int
	left, right bucket

	rows, differing int64
	sums            [2]bucketSum
	first           uint64 // log position of a differing row
	list            []Difference
}

// side walks the rows of one store that follow from the stream.
type side struct {
	id   bucketID
	c    *bbolt.Cursor
	sum  *bucketSum
	k, v []byte
}

func (s *side) take(k, v []byte) {
	for k != nil && relayRecord(s.id, k) {
		k, v = s.c.Next()
	}
	if s.k, s.v = k, v; k != nil {
		s.sum.add(s.id, k, v)
	}
}

func (p *pair) compare() error {
	if p.left.Bucket == nil || p.right.Bucket == nil {
		return errDamaged
	}
	x, y := &side{id: p.id, c: p.left.Cursor(), sum: &p.sums[0]}, &side{id: p.id, c: p.right.Cursor(), sum: &p.sums[1]}
	x.take(x.c.First())
	y.take(y.c.First())
	for x.k != nil || y.k != nil {
		if p.rows++; p.rows%4096 == 0 && p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		order := bytes.Compare(x.k, y.k)
		switch {
		case y.k == nil || x.k != nil && order < 0:
			p.differs("extra", x.k, x.v)
			x.take(x.c.Next())
		case x.k == nil || order > 0:
			p.differs("missing", y.k, y.v)
			y.take(y.c.Next())
		default:
			if !bytes.Equal(x.v, y.v) {
				p.differs("different", x.k, x.v, y.v)
			}
			x.take(x.c.Next())
			y.take(y.c.Next())
		}
	}
	return nil
}

func (p *pair) differs(what string, key []byte, values ...[]byte) {
	p.differing++
	at := uint64(0)
	for _, v := range values {
		at = earlier(at, positionOf(p.id, key, v))
	}
	p.first = earlier(p.first, at)
	if len(p.list) < p.most {
		p.list = append(p.list, Difference{Bucket: p.id.String(), Name: rowName(p.id, key, values[0], at), Key: fmt.Sprintf("%x", key), Position: at, What: what})
	}
}

func (p *pair) result() BucketComparison {
	digest := func(s bucketSum) BucketDigest { return BucketDigest{s.Rows, fmt.Sprintf("%016x", s.Digest)} }
	return BucketComparison{Bucket: p.id.String(), Rows: p.rows, Differing: p.differing, Store: digest(p.sums[0]), Replica: digest(p.sums[1])}
}

// relayRecord reports whether a row depends on where relays stand; so do the sums,
// which cover the outboxes.
func relayRecord(bucket bucketID, key []byte) bool {
	return bucket == bucketMeta && (bytes.HasPrefix(key, []byte(relayedPrefix)) || bytes.Equal(key, metaSums))
}
