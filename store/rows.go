package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Every row is sealed: behind its value stand four bytes, the CRC-32C of bucket,
// key and value, so a row that was changed, or that lies where it does not belong,
// is never taken for the truth. Beside the seals meta keeps, for each bucket, the
// number of its rows and the sum of their hashes: they tell when rows are missing or
// when a page shows what it held before. Reads verify seals; Check verifies both
// (architecture §4).
const sealSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealOf(id bucketID, key, value []byte) uint32 {
	var head [5]byte
	head[0] = byte(id)
	binary.BigEndian.PutUint32(head[1:], uint32(len(key)))
	crc := crc32.Update(0, castagnoli, head[:])
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, value)
}

func seal(id bucketID, key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, sealOf(id, key, value))
}

// unseal gives the value of a sealed row, and whether its seal is right.
func unseal(id bucketID, key, sealed []byte) (value []byte, ok bool) {
	n := len(sealed) - sealSize
	if n < 0 {
		return nil, false
	}
	value = sealed[:n:n]
	return value, binary.BigEndian.Uint32(sealed[n:]) == sealOf(id, key, value)
}

// RowDamage says that a row is not what was written.
type RowDamage struct {
	Bucket string
	Key    []byte
}

func (d *RowDamage) Error() string {
	return fmt.Sprintf("bucket %s, key %x: %v", d.Bucket, d.Key, errDamaged)
}

// Unwrap lets callers recognise damage of any kind.
func (d *RowDamage) Unwrap() error { return schemas.ErrDamaged }

// bucket reads sealed rows.
type bucket struct {
	*bbolt.Bucket
	id bucketID
}

func bucketOf(bolt *bbolt.Tx, id bucketID) bucket {
	return bucket{bolt.Bucket([]byte(id.String())), id}
}

// get gives the value of a key; nil when there is none.
func (r bucket) get(key []byte) ([]byte, error) {
	sealed := r.Get(key)
	if sealed == nil {
		return nil, nil
	}
	value, ok := unseal(r.id, key, sealed)
	if !ok {
		return nil, &RowDamage{r.id.String(), append([]byte(nil), key...)}
	}
	return value, nil
}

func (r bucket) cursor() *cursor { return &cursor{c: r.Cursor(), id: r.id} }

// cursor walks a bucket. At a damaged row it stops as at the end, and err tells.
type cursor struct {
	c   *bbolt.Cursor
	id  bucketID
	err error
}

func (c *cursor) first() (key, value []byte)         { return c.open(c.c.First()) }
func (c *cursor) last() (key, value []byte)          { return c.open(c.c.Last()) }
func (c *cursor) next() (key, value []byte)          { return c.open(c.c.Next()) }
func (c *cursor) prev() (key, value []byte)          { return c.open(c.c.Prev()) }
func (c *cursor) seek(to []byte) (key, value []byte) { return c.open(c.c.Seek(to)) }

func (c *cursor) open(key, sealed []byte) ([]byte, []byte) {
	if key == nil {
		return nil, nil
	}
	value, ok := unseal(c.id, key, sealed)
	if !ok {
		c.err = &RowDamage{c.id.String(), append([]byte(nil), key...)}
		return nil, nil
	}
	return key, value
}

// bucketSum is what meta keeps of a bucket.
type bucketSum struct {
	Rows   uint64
	Digest uint64 // sum of the rows' hashes
}

func rowHash(id bucketID, key, sealed []byte) uint64 {
	k := xxhash.Sum64(key) + uint64(id)*0x9e3779b97f4a7c15
	hi, lo := bits.Mul64(k|1, xxhash.Sum64(sealed)^0xd6e8feb86659fd93)
	return hi ^ lo
}

func (s *bucketSum) add(id bucketID, key, sealed []byte) {
	s.Rows++
	s.Digest += rowHash(id, key, sealed)
}

func (s *bucketSum) remove(id bucketID, key, sealed []byte) {
	s.Rows--
	s.Digest -= rowHash(id, key, sealed)
}

// bucketSums are the sums of all buckets. That of meta leaves out the record that
// holds them.
type bucketSums [bucketCount]bucketSum

func (s *bucketSums) append(b []byte) []byte {
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(len(s)))
	for i := range s {
		b = binary.AppendUvarint(b, s[i].Rows)
		b = binary.BigEndian.AppendUint64(b, s[i].Digest)
	}
	return b
}

func parseSumsRecord(v []byte) (s bucketSums, err error) {
	r := newReader(v)
	r.Form(1)
	for i := range r.Count(9) {
		if i >= len(s) {
			r.Fail()
			break
		}
		s[i].Rows = r.Uvarint()
		if d := r.Bytes(8); d != nil {
			s[i].Digest = binary.BigEndian.Uint64(d)
		}
	}
	return s, r.Err
}

// bucket gives a bucket for writing.
func (tx *Tx) bucket(id bucketID) bucket {
	if tx.buckets[id].Bucket == nil {
		tx.buckets[id] = bucketOf(tx.bolt, id)
		if id.appended() {
			tx.buckets[id].FillPercent = sequentialFill
		}
	}
	return tx.buckets[id]
}

// put writes a row. The value belongs to the transaction from then on.
func (tx *Tx) put(id bucketID, key, value []byte) error {
	b := tx.bucket(id)
	if old := b.Get(key); old != nil {
		tx.sums[id].remove(id, key, old)
	}
	return tx.write(b, key, value)
}

// update writes what becomes of a row, whose value is nil when there is none. It spares
// put's look for the row.
func (tx *Tx) update(id bucketID, key []byte, become func(old []byte) ([]byte, error)) error {
	b := tx.bucket(id)
	sealed := b.Get(key)
	var old []byte
	if sealed != nil {
		var ok bool
		if old, ok = unseal(id, key, sealed); !ok {
			return &RowDamage{id.String(), append([]byte(nil), key...)}
		}
		tx.sums[id].remove(id, key, sealed)
	}
	value, err := become(old)
	if err != nil {
		return err
	}
	return tx.write(b, key, value)
}

// add writes a row whose key is new.
func (tx *Tx) add(id bucketID, key, value []byte) error { return tx.write(tx.bucket(id), key, value) }

func (tx *Tx) write(b bucket, key, value []byte) error {
	sealed := seal(b.id, key, value)
	tx.sums[b.id].add(b.id, key, sealed)
	if b.id.expires() {
		tx.wrote.rows++
		tx.wrote.bytes += len(key) + len(sealed)
	}
	return b.Put(key, sealed)
}

// remove deletes the row that a cursor stands on.
func (tx *Tx) remove(c *cursor, key []byte) error {
	tx.sums[c.id].remove(c.id, key, tx.bucket(c.id).Get(key))
	return c.c.Delete()
}
