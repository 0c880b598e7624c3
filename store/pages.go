package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The layout of bbolt's file, as far as it takes to walk one without trusting it:
// bbolt itself follows a damaged page wherever it leads, and panics or never ends.
const (
	pageHead    = 16
	leafElement = 16
	treeElement = 16
	bucketHead  = 16

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10

	bucketLeaf = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	maxDepth = 64
)

// pageFile is a file of bbolt's that is only looked at.
type pageFile struct {
	f     io.ReaderAt
	size  int64
	page  int
	root  uint64
	high  uint64 // pages in use lie below it
	txid  uint64
	seen  []uint64 // a bit for each page that was reached
	found func(*Damage)
	stop  func() bool // asked at each page
}

// boltMeta is one of the two pages that say where everything begins.
type boltMeta struct {
	pageSize         uint32
	root, high, txid uint64
}

// parseBoltMeta reads a meta page; ok is false when bbolt would not take it either.
func parseBoltMeta(b []byte) (m boltMeta, ok bool) {
	le := binary.LittleEndian
	if len(b) < pageHead+64 || le.Uint16(b[8:])&metaPage == 0 {
		return m, false
	}
	b = b[pageHead : pageHead+64]
	h := fnv.New64a()
	_, _ = h.Write(b[:56])
	m = boltMeta{pageSize: le.Uint32(b[8:]), root: le.Uint64(b[16:]), high: le.Uint64(b[40:]), txid: le.Uint64(b[48:])}
	return m, le.Uint32(b) == boltMagic && le.Uint32(b[4:]) == boltVersion && le.Uint64(b[56:]) == h.Sum64()
}

// openPages finds the newest of the two beginnings, as bbolt does.
func openPages(f *os.File) (*pageFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := &pageFile{f: f, size: info.Size()}
	var best boltMeta
	take := func(at int64) bool {
		var b [pageHead + 64]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return false
		}
		m, ok := parseBoltMeta(b[:])
		if ok && m.pageSize >= 1024 && m.pageSize <= 64<<10 && m.pageSize&(m.pageSize-1) == 0 && (best.pageSize == 0 || m.txid > best.txid) {
			best = m
		}
		return ok
	}
	if take(0) {
		take(int64(best.pageSize))
	} else {
		for size := int64(1024); size <= 64<<10 && !take(size); size *= 2 {
		}
	}
	if best.pageSize == 0 {
		return nil, &Damage{What: "neither of the two pages that the file begins with is whole"}
	}
	p.page, p.root, p.high, p.txid = int(best.pageSize), best.root, best.high, best.txid
	if p.high > uint64(p.size)/uint64(p.page) {
		return nil, &Damage{What: fmt.Sprintf("the file has %d bytes and needs %d: its end is missing", p.size, p.high*uint64(p.page))}
	}
	p.seen = make([]uint64, p.high/64+1)
	return p, nil
}

// take reads a page and what overflows it, and notes that it was reached.
func (p *pageFile) take(id uint64) (flags uint16, count int, b []byte, err error) {
	if id < 2 || id >= p.high {
		return 0, 0, nil, fmt.Errorf("a pointer leads to page %d of %d", id, p.high)
	}
	head := make([]byte, p.page)
	if _, err := p.f.ReadAt(head, int64(id)*int64(p.page)); err != nil {
		return 0, 0, nil, err
	}
	le := binary.LittleEndian
	own, overflow := le.Uint64(head), uint64(le.Uint32(head[12:]))
	flags, count = le.Uint16(head[8:]), int(le.Uint16(head[10:]))
	if own != id || overflow >= p.high-id {
		return 0, 0, nil, fmt.Errorf("page %d says that it is page %d and %d more", id, own, overflow)
	}
	for n := id; n <= id+overflow; n++ {
		if p.seen[n/64]&(1<<(n%64)) != 0 {
			return 0, 0, nil, fmt.Errorf("page %d is reached twice", n)
		}
		p.seen[n/64] |= 1 << (n % 64)
	}
	b = head
	if overflow > 0 {
		b = make([]byte, (overflow+1)*uint64(p.page))
		copy(b, head)
		if _, err := p.f.ReadAt(b[p.page:], int64(id)*int64(p.page)+int64(p.page)); err != nil {
			return 0, 0, nil, err
		}
	}
	return flags, count, b, nil
}

// slice gives n bytes at an offset of a page, or nil.
func slice(b []byte, at, n uint64) []byte {
	if at > uint64(len(b)) || n > uint64(len(b))-at {
		return nil
	}
	return b[at : at+n : at+n]
}

// walk visits the tree below a page. Keys of the tree lie in [from, to); nil is no
// bound. Damage is told and passed over, page by page.
func (p *pageFile) walk(bucket []byte, id uint64, from, to []byte, depth int, leaf func(page uint64, flags uint32, key, value []byte)) {
	if p.stop() {
		return
	}
	flags, count, b, err := p.take(id)
	switch {
	case err != nil:
		p.damaged(bucket, id, err.Error())
	case depth > maxDepth:
		p.damaged(bucket, id, "the tree is deeper than it can be")
	case flags == leafPage:
		p.leaves(bucket, id, b, count, from, to, leaf)
	case flags == branchPage && count > 0:
		p.branches(bucket, id, b, count, from, to, depth, leaf)
	default:
		p.damaged(bucket, id, fmt.Sprintf("the page is of kind %#x with %d elements", flags, count))
	}
}

func (p *pageFile) damaged(bucket []byte, page uint64, what string) {
	p.found(&Damage{Bucket: string(bucket), Page: page, What: what})
}

func (p *pageFile) leaves(bucket []byte, id uint64, b []byte, count int, from, to []byte, leaf func(uint64, uint32, []byte, []byte)) {
	le := binary.LittleEndian
	last := from
	for i := range count {
		at := uint64(pageHead + i*leafElement)
		e := slice(b, at, leafElement)
		if e == nil {
			p.damaged(bucket, id, "the page says that it has more elements than fit")
			return
		}
		pos, ksize, vsize := uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		key, value := slice(b, at+pos, ksize), slice(b, at+pos+ksize, vsize)
		if key == nil || value == nil || ksize == 0 {
			p.damaged(bucket, id, fmt.Sprintf("element %d lies outside of its page", i))
			return
		}
		if order := bytes.Compare(key, last); last != nil && (order < 0 || order == 0 && i > 0) || to != nil && bytes.Compare(key, to) >= 0 {
			p.damaged(bucket, id, fmt.Sprintf("key %x is not where it belongs", key))
			return
		}
		last = key
		leaf(id, le.Uint32(e), key, value)
	}
}

func (p *pageFile) branches(bucket []byte, id uint64, b []byte, count int, from, to []byte, depth int, leaf func(uint64, uint32, []byte, []byte)) {
	le := binary.LittleEndian
	type child struct {
		key []byte
		id  uint64
	}
	children := make([]child, count)
	for i := range children {
		at := uint64(pageHead + i*treeElement)
		e := slice(b, at, treeElement)
		if e == nil {
			p.damaged(bucket, id, "the page says that it has more elements than fit")
			return
		}
		key := slice(b, at+uint64(le.Uint32(e)), uint64(le.Uint32(e[4:])))
		if len(key) == 0 {
			p.damaged(bucket, id, fmt.Sprintf("element %d lies outside of its page", i))
			return
		}
		if i == 0 && bytes.Compare(key, from) < 0 || i > 0 && bytes.Compare(key, children[i-1].key) <= 0 || to != nil && bytes.Compare(key, to) >= 0 {
			p.damaged(bucket, id, fmt.Sprintf("key %x is not where it belongs", key))
			return
		}
		children[i] = child{key, le.Uint64(e[8:])}
	}
	for i, c := range children {
		low, high := c.key, to
		if i+1 < len(children) {
			high = children[i+1].key
		}
		p.walk(bucket, c.id, low, high, depth+1, leaf)
	}
}

// topBucket is a bucket of the file.
type topBucket struct {
	name, value []byte
	page        uint64 // that its row lies on
}

// tops lists the buckets.
func (p *pageFile) tops() (list []topBucket) {
	p.walk(nil, p.root, nil, nil, 0, func(page uint64, flags uint32, key, value []byte) {
		if flags != bucketLeaf || len(value) < bucketHead {
			p.damaged(key, page, "the row of the bucket is none")
			return
		}
		list = append(list, topBucket{key, value, page})
	})
	return list
}

// rows visits the rows of a bucket.
func (p *pageFile) rows(t *topBucket, row func(page uint64, key, value []byte)) {
	leaf := func(page uint64, flags uint32, key, value []byte) {
		if flags != 0 {
			p.damaged(t.name, page, fmt.Sprintf("row %x has flags %#x", key, flags))
			return
		}
		row(page, key, value)
	}
	if root := binary.LittleEndian.Uint64(t.value); root != 0 {
		p.walk(t.name, root, nil, nil, 0, leaf)
		return
	}
	// A small bucket's page lies in its row.
	b := t.value[bucketHead:]
	if len(b) < pageHead || binary.LittleEndian.Uint16(b[8:]) != leafPage {
		p.damaged(t.name, t.page, "the bucket's own page is none")
		return
	}
	p.leaves(t.name, t.page, b, int(binary.LittleEndian.Uint16(b[10:])), nil, nil, leaf)
}
