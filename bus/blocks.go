package bus

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
)

// The layout of the embedded server's message blocks, as far as it takes to look at
// them without it. The server looks at a message only when it is asked for; and when
// it has to look at all, after a kill, it cuts a block off at the first message that
// is not what was written, whatever follows.
const (
	blockSuffix = ".blk"
	recordHead  = 22
	recordHash  = 8
	maxRecord   = 32 << 20
	maxUnpacked = 64 << 20

	bitHeaders   = uint32(1) << 31
	bitErased    = uint64(1) << 63
	bitTombstone = uint64(1) << 62
)

// blockRecord is a message as it lies in a block. Its bytes are the block's.
type blockRecord struct {
	seq     uint64
	stored  int64
	subject string
	header  []byte
	data    []byte
	at, end int // in the unpacked block
}

// BlockDamage is a place of a stream's files that is not what was written.
type BlockDamage struct {
	File string `json:"file"`
	// After is the last message before it and Before the first one behind it that
	// can be read; 0 is none.
	After  uint64 `json:"after_sequence"`
	Before uint64 `json:"before_sequence"`
	What   string `json:"what"`
	Torn   bool   `json:"torn"` // the end of the newest block: it may never have been complete
}

func (d *BlockDamage) Error() string {
	between := fmt.Sprintf("between the messages %d and %d", d.After, d.Before)
	if d.Before == 0 {
		between = fmt.Sprintf("behind message %d", d.After)
	}
	return fmt.Sprintf("%s: %s, %s", d.File, d.What, between)
}

// block is one file of a stream.
type block struct {
	path  string
	index uint64
}

// blocksOf lists the blocks of a stream in order.
func blocksOf(dir, stream string) ([]block, error) {
	msgs := filepath.Join(streamsDir(dir), stream, "msgs")
	entries, err := os.ReadDir(msgs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the blocks of stream %s: %w", stream, err)
	}
	var list []block
	for _, e := range entries {
		name, found := strings.CutSuffix(e.Name(), blockSuffix)
		index, err := strconv.ParseUint(name, 10, 32)
		if found && err == nil {
			list = append(list, block{filepath.Join(msgs, e.Name()), index})
		}
	}
	slices.SortFunc(list, func(a, b block) int { return int(int64(a.index) - int64(b.index)) })
	return list, nil
}

// blockHash is the hash of the records of a block.
func blockHash(stream string, index uint64) (hash.Hash64, error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, index))
	return highwayhash.New64(key[:])
}

// blockReader reads blocks into the same memory, one after the other.
type blockReader struct{ raw, records []byte }

func (b *blockReader) read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	into := bytes.NewBuffer(b.raw[:0])
	_, err = into.ReadFrom(f)
	b.raw = into.Bytes()
	return b.raw, err
}

// unpack gives a block's records; packed ones have a checksum of their own.
func (b *blockReader) unpack(raw []byte) ([]byte, error) {
	if len(raw) < 5 || !bytes.HasPrefix(raw, []byte{'c', 'm', 'p', 1}) {
		return raw, nil
	}
	size, n := binary.Uvarint(raw[4:])
	if n <= 0 || size > maxUnpacked || len(raw) < 4+n+recordHash {
		return nil, errors.New("the head of the packed block is none")
	}
	body, last := raw[4+n:len(raw)-recordHash], raw[len(raw)-recordHash:]
	out := bytes.NewBuffer(slices.Grow(b.records[:0], int(size)+bytes.MinRead))
	if _, err := io.Copy(out, io.LimitReader(s2.NewReader(bytes.NewReader(body)), maxUnpacked)); err != nil {
		return nil, fmt.Errorf("the packed block cannot be unpacked: %w", err)
	}
	if b.records = append(out.Bytes(), last...); uint64(len(b.records)) == size {
		return b.records, nil
	}
	return nil, fmt.Errorf("the packed block has %d bytes, its head says %d", out.Len()+recordHash, size)
}

// readRecord reads the record at a place. whole is false when the block ends before
// the record does; after an error end is still where it ends, if that can be told.
func readRecord(b []byte, at int, h hash.Hash64) (r blockRecord, whole bool, err error) {
	if len(b)-at < recordHead {
		return r, false, errors.New("the block ends inside of a message")
	}
	le := binary.LittleEndian
	size, subject := le.Uint32(b[at:]), int(le.Uint16(b[at+20:]))
	headers := size&bitHeaders != 0
	size &^= bitHeaders
	least := recordHead + subject + recordHash
	if headers {
		least += 4
	}
	if size > maxRecord || int(size) < least {
		return r, true, fmt.Errorf("a message of %d bytes cannot be", size)
	}
	if int(size) > len(b)-at {
		return r, false, errors.New("the block ends inside of a message")
	}
	r = blockRecord{seq: le.Uint64(b[at+4:]), stored: int64(le.Uint64(b[at+12:])), at: at, end: at + int(size)}
	rec := b[at:r.end:r.end]
	body := rec[recordHead : len(rec)-recordHash]
	r.subject = string(body[:subject])
	body = body[subject:]
	head := 0
	if headers {
		head = int(le.Uint32(body))
		body = body[4:]
	}
	h.Reset()
	_, _ = h.Write(rec[4:20])
	_, _ = h.Write([]byte(r.subject))
	_, _ = h.Write(body)
	var sum [recordHash]byte
	if !bytes.Equal(h.Sum(sum[:0]), rec[len(rec)-recordHash:]) {
		return r, true, errors.New("a message's checksum is not that of its bytes")
	}
	// The length of the headers is under no checksum; they end as headers do.
	if headers && (head > len(body) || head < 4 || !bytes.HasSuffix(body[:head], []byte("\r\n\r\n")) || !bytes.HasPrefix(body, []byte("NATS/1.0"))) {
		return r, true, errors.New("a message's headers do not end where it says")
	}
	r.header, r.data = body[:head:head], body[head:]
	return r, true, nil
}

// scan visits the messages of a block, and the sequences of those that were taken
// out of it. Behind a record that is not what was
// written it looks for the next one that is.
func (buf *blockReader) scan(stream string, f block, newest bool, after uint64, visit func(*blockRecord) error, visitErased func(uint64)) (list []BlockDamage, last uint64, err error) {
	last = after
	raw, err := buf.read(f.path)
	if err != nil {
		return nil, last, fmt.Errorf("read a block of stream %s: %w", stream, err)
	}
	found := func(what error, torn bool) {
		list = append(list, BlockDamage{File: f.path, After: last, What: what.Error(), Torn: torn})
	}
	b, err := buf.unpack(raw)
	if err != nil {
		found(err, false)
		return list, last, nil
	}
	h, err := blockHash(stream, f.index)
	if err != nil {
		return nil, last, err
	}
	for at := 0; at < len(b); {
		r, whole, err := readRecord(b, at, h)
		if err != nil {
			next := nextRecord(b, at, h)
			found(err, newest && next < 0 && (!whole || zeros(b[at:])))
			if next < 0 {
				break
			}
			at = next
			continue
		}
		at = r.end
		if erased := r.seq &^ bitErased; r.seq&bitErased != 0 && erased&bitTombstone == 0 && erased > last && visitErased != nil {
			visitErased(erased)
		}
		if r.seq == 0 || r.seq&(bitErased|bitTombstone) != 0 {
			continue // of a message that was deleted
		}
		for i := len(list) - 1; i >= 0 && list[i].Before == 0; i-- {
			list[i].Before = r.seq
		}
		last = max(last, r.seq)
		if err := visit(&r); err != nil {
			return list, last, err
		}
	}
	return list, last, nil
}

// zeros reports a tail that a power cut leaves: space that was given to the file and
// never written.
func zeros(b []byte) bool {
	const sector = 512
	return len(bytes.TrimRight(b, "\x00"))+sector <= len(b)
}

// nextRecord finds the next whole record behind a damaged one; -1 is none. A place
// that only looks like one is given away by its checksum.
func nextRecord(b []byte, at int, h hash.Hash64) int {
	le := binary.LittleEndian
	for at++; at+recordHead+recordHash <= len(b); at++ {
		size, subject := le.Uint32(b[at:])&^bitHeaders, int(le.Uint16(b[at+20:]))
		if subject == 0 || subject > 4096 || int(size) > len(b)-at || int(size) < recordHead+subject+recordHash {
			continue
		}
		if _, _, err := readRecord(b, at, h); err == nil {
			return at
		}
	}
	return -1
}
