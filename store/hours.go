package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"grout/schemas"
)

// Aggregates lie in blocks: the rows of one hour and app in the order of the rest of
// their keys, each of which says only in what it differs from the one before it. The
// first block of an hour and app has the two as its key; another one's key ends with
// the rest of the first row that it held when it was split off, and every row from
// there to the next block belongs to it. Where blocks are split depends on the rows
// that were folded and their order, so on messages alone.
//
//	form 1: form, rows × (length shared with the rest before, length of what differs, what differs, sums)
const hoursBlockBytes = 1536

// hoursReader walks the rows of a block.
type hoursReader struct {
	reader
	rest   []byte // of the row at hand
	shared int    // with the one before it
	sums   []byte // stored form
}

func readHours(block []byte) hoursReader {
	r := hoursReader{reader: newReader(block)}
	r.Form(1)
	return r
}

// next moves on to the next row. At the end, or where the block is damaged, there is
// none; Err tells which.
func (r *hoursReader) next() bool {
	if len(r.B) == 0 {
		return false
	}
	shared := r.Uvarint()
	differs := r.Bytes(r.Uvarint())
	if shared > uint64(len(r.rest)) {
		r.Fail()
	}
	if r.Err != nil {
		return false
	}
	r.shared = int(shared)
	r.rest = append(r.rest[:shared], differs...)
	from := r.B
	for range schemas.UsageSumsFields {
		r.skipVarint()
	}
	r.sums = from[:len(from)-len(r.B)]
	return r.Err == nil
}

func (r *hoursReader) skipVarint() {
	for i, c := range r.B {
		if c < 0x80 {
			r.B = r.B[i+1:]
			return
		}
	}
	r.Fail()
}

func (r *hoursReader) parse() (schemas.UsageSums, error) {
	w := newReader(r.sums)
	s := w.Sums()
	return s, w.Err
}

// hoursWriter builds a block.
type hoursWriter struct {
	block []byte
	rest  []byte // of the last row
}

func (w *hoursWriter) row(rest, sums []byte) {
	shared := 0
	for shared < min(len(w.rest), len(rest)) && w.rest[shared] == rest[shared] {
		shared++
	}
	w.put(shared, rest, sums)
}

// put adds a row of which it is known how much it shares.
func (w *hoursWriter) put(shared int, rest, sums []byte) {
	if len(w.block) == 0 {
		w.block = append(w.block, 1)
	}
	w.block = binary.AppendUvarint(w.block, uint64(shared))
	w.block = binary.AppendUvarint(w.block, uint64(len(rest)-shared))
	w.block = append(w.block, rest[shared:]...)
	w.block = append(w.block, sums...)
	w.rest = append(w.rest[:shared], rest[shared:]...)
}

// mergeHours adds rows, which are in order, to those of a block.
func (tx *Tx) mergeHours(w *hoursWriter, block []byte, rows []foldRow) error {
	var old hoursReader
	more := false
	if block != nil {
		old = readHours(block)
		more = old.next()
	}
	verbatim := true // the last row written is the one before the old row at hand
	var buf [sumsRoom]byte
	for i := 0; more || i < len(rows); {
		order := 1
		switch {
		case !more:
		case i == len(rows):
			order = -1
		default:
			order = bytes.Compare(old.rest, rows[i].rest())
		}
		switch {
		case order > 0:
			w.row(rows[i].rest(), rows[i].sums.Append(buf[:0]))
			i++
			verbatim = false
			continue
		case order == 0:
			sums, err := old.parse()
			if err != nil {
				return err
			}
			if !sums.Add(rows[i].sums) {
				tx.store.overflowed.Store(true)
			}
			i++
			old.sums = sums.Append(buf[:0])
		}
		if verbatim {
			w.put(old.shared, old.rest, old.sums)
		} else {
			w.row(old.rest, old.sums)
		}
		verbatim = true
		more = old.next()
	}
	return old.Err
}

// foldHours adds rows, which are in order, to their blocks.
func (tx *Tx) foldHours(rows []foldRow) error {
	for len(rows) > 0 {
		n, err := tx.foldBlock(rows)
		if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// foldBlock adds the rows that belong to the block of the first of them, and tells how
// many they are.
func (tx *Tx) foldBlock(rows []foldRow) (n int, err error) {
	b := tx.bucket(bucketHours)
	head := rows[0].key[:rows[0].head]
	c := b.Cursor()
	k, sealed := c.Seek(rows[0].key)
	if !bytes.Equal(k, rows[0].key) {
		k, sealed = c.Prev()
	}
	key, next := head, []byte(nil)
	var block []byte
	if bytes.HasPrefix(k, head) {
		ok := false
		if block, ok = unseal(b.id, k, sealed); !ok {
			return 0, &RowDamage{b.id.String(), bytes.Clone(k)}
		}
		key = bytes.Clone(k)
		if follows, _ := c.Next(); bytes.HasPrefix(follows, head) {
			next = follows
		}
	}
	for n = 1; n < len(rows) && bytes.HasPrefix(rows[n].key, head) && (next == nil || bytes.Compare(rows[n].key, next) < 0); n++ {
	}
	w := hoursWriter{block: make([]byte, 0, len(block)+n*sumsRoom)}
	if err := tx.mergeHours(&w, block, rows[:n]); err != nil {
		return 0, fmt.Errorf("aggregates at %x: %w", key, err)
	}
	if block != nil {
		tx.sums[b.id].remove(b.id, k, sealed)
	}
	return n, tx.putHours(key, head, w.block)
}

// putHours writes a block at its key, and what is too much for it as blocks behind it.
func (tx *Tx) putHours(key, head, block []byte) error {
	b := tx.bucket(bucketHours)
	if len(block) <= hoursBlockBytes {
		return tx.write(b, key, block)
	}
	pieces := 1 + len(block)*3/(2*hoursBlockBytes) // each two thirds full
	room := len(block)/pieces + 1
	r := readHours(block)
	w := hoursWriter{}
	for r.next() {
		if len(w.block) >= room {
			if err := tx.write(b, key, w.block); err != nil {
				return err
			}
			key = append(head[:len(head):len(head)], r.rest...)
			w = hoursWriter{}
		}
		w.row(r.rest, r.sums)
	}
	if r.Err != nil {
		return r.Err
	}
	return tx.write(b, key, w.block)
}

// eachHour passes on the rows of a block. Texts are new.
func eachHour(block []byte, do func(rest string, sums *schemas.UsageSums)) error {
	r := readHours(block)
	for r.next() {
		sums, err := r.parse()
		if err != nil {
			return err
		}
		do(string(r.rest), &sums)
	}
	return r.Err
}

// headLength tells how much of a key of an aggregate are hour and app.
func headLength(key []byte) (int, error) {
	if len(key) < 4 {
		return 0, errDamaged
	}
	r := newReader(key[4:])
	r.Bytes(r.Uvarint())
	return len(key) - len(r.B), r.Err
}
