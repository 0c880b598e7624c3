package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDamage bounds what is listed of one file.
const maxDamage = 100

// Damage is one place of a file that is not what was written.
type Damage struct {
	Bucket string `json:"bucket,omitempty"`
	Key    string `json:"key,omitempty"` // hexadecimal
	Page   uint64 `json:"page,omitempty"`
	What   string `json:"what"`
}

func (d *Damage) Error() string {
	var b strings.Builder
	for _, f := range [...]struct{ name, value string }{{"bucket ", d.Bucket}, {"key ", d.Key}} {
		if f.value != "" {
			b.WriteString(f.name + f.value + ", ")
		}
	}
	if d.Page != 0 {
		fmt.Fprintf(&b, "page %d, ", d.Page)
	}
	return b.String() + d.What
}

// Checkup is what Check found in a file.
type Checkup struct {
	Path    string        `json:"path"`
	Format  uint32        `json:"format"`
	Rows    int64         `json:"rows"`
	Bytes   int64         `json:"bytes"` // of the file
	Took    time.Duration `json:"-"`
	Damaged int64         `json:"damaged"` // places; at most 100 are listed
	Damage  []Damage      `json:"damage"`
}

// DamageError says that a file was refused because it is damaged.
type DamageError struct{ Checkup Checkup }

func (e *DamageError) Error() string {
	c := &e.Checkup
	more := ""
	if c.Damaged > 1 {
		more = fmt.Sprintf(" (and %d more)", c.Damaged-1)
	}
	return fmt.Sprintf("STORE_DAMAGED: %s: %s%s; nothing was read from it: run grout repair, which rebuilds it from a snapshot and the command stream", c.Path, c.Damage[0].Error(), more)
}

// Unwrap lets callers recognise damage of any kind.
func (e *DamageError) Unwrap() error { return errDamaged }

// Check reads every page of a file that can be reached and verifies its structure,
// each row's seal, and each bucket's rows against the sums in meta. It trusts
// nothing, so it comes before anything else is read. A file that was made and never
// written to is sound.
func Check(ctx context.Context, path string) (Checkup, error) {
	start := time.Now()
	c := &checker{ctx: ctx, Checkup: Checkup{Path: path, Damage: []Damage{}}, meta: map[string][]byte{}}
	err := c.run()
	c.Took = time.Since(start)
	return c.Checkup, err
}

type checker struct {
	Checkup
	ctx  context.Context
	sums bucketSums
	meta map[string][]byte // its records, sealed
}

func (c *checker) found(d *Damage) {
	c.Damaged++
	if len(c.Damage) < maxDamage {
		c.Damage = append(c.Damage, *d)
	}
}

func (c *checker) run() error {
	f, err := openShared(c.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	pages, err := openPages(f)
	var damage *Damage
	if errors.As(err, &damage) {
		c.found(damage)
		return nil
	}
	if err != nil {
		return err
	}
	c.Bytes = pages.size
	pages.found, pages.stop = c.found, func() bool { return c.ctx.Err() != nil }
	tops := pages.tops()
	if len(tops) == 0 && c.Damaged == 0 {
		c.Format = Format // made, and never written to
		return c.ctx.Err()
	}
	c.buckets(pages, tops)
	return c.ctx.Err()
}

// buckets looks at meta first: it says what is to be found elsewhere.
func (c *checker) buckets(pages *pageFile, tops []topBucket) {
	place := func(id bucketID) int {
		return slices.IndexFunc(tops, func(t topBucket) bool { return string(t.name) == id.String() })
	}
	if at := place(bucketMeta); at >= 0 {
		pages.rows(&tops[at], func(page uint64, key, sealed []byte) {
			c.Rows++
			c.meta[string(key)] = slices.Clone(sealed)
			c.row(bucketMeta, page, key, sealed)
		})
	}
	if v := c.meta[string(metaFormat)]; len(v) >= 4 {
		c.Format = binary.BigEndian.Uint32(v)
	}
	if c.Format > Format { // whoever opens it says so; what it holds is not known here
		if _, ok := unseal(bucketMeta, metaFormat, c.meta[string(metaFormat)]); ok {
			return
		}
	}
	for i := range tops {
		id, known := bucketNamed(tops[i].name)
		switch {
		case !known:
			pages.damaged(tops[i].name, tops[i].page, "no bucket has this name")
		case id != bucketMeta:
			pages.rows(&tops[i], func(page uint64, key, sealed []byte) {
				c.Rows++
				c.row(id, page, key, sealed)
			})
		}
	}
	for id := range c.known() {
		if place(id) < 0 {
			c.found(&Damage{Bucket: id.String(), What: "the bucket is missing"})
		}
	}
	if c.Format != 1 {
		c.judge()
	}
}

// known is the number of buckets that a file of this format has.
func (c *checker) known() bucketID {
	if c.Format == 1 {
		return bucketsOfFormat1
	}
	return bucketCount
}

func bucketNamed(name []byte) (bucketID, bool) {
	for id := range bucketCount {
		if id.String() == string(name) {
			return id, true
		}
	}
	return 0, false
}

func (c *checker) row(id bucketID, page uint64, key, sealed []byte) {
	if c.Format == 1 || id == bucketMeta && string(key) == string(metaSums) {
		return
	}
	c.sums[id].add(id, key, sealed)
	if id == bucketMeta {
		return // judged together, once the format is known
	}
	if _, ok := unseal(id, key, sealed); !ok {
		c.found(&Damage{Bucket: id.String(), Key: fmt.Sprintf("%x", key), Page: page, What: "the row's seal is broken"})
	}
}

// judge compares meta's records with what was found.
func (c *checker) judge() {
	for _, key := range slices.Sorted(maps.Keys(c.meta)) {
		if _, ok := unseal(bucketMeta, []byte(key), c.meta[key]); !ok {
			c.found(&Damage{Bucket: bucketMeta.String(), Key: key, What: "the record's seal is broken"})
		}
	}
	v, ok := unseal(bucketMeta, metaSums, c.meta[string(metaSums)])
	if !ok {
		c.found(&Damage{Bucket: bucketMeta.String(), Key: string(metaSums), What: "the record of sums is missing or broken"})
		return
	}
	want, err := parseSumsRecord(v)
	if err != nil {
		c.found(&Damage{Bucket: bucketMeta.String(), Key: string(metaSums), What: err.Error()})
		return
	}
	for id := range bucketCount {
		if got := c.sums[id]; got != want[id] {
			c.found(&Damage{Bucket: id.String(), What: fmt.Sprintf("%d rows with the sum %x, meta says %d with %x: rows are missing, or a page is not the newest", got.Rows, got.Digest, want[id].Rows, want[id].Digest)})
		}
	}
}

// openShared opens a file unless somebody is writing to it.
func openShared(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errHeld
			}
			return nil, err
		}
		time.Sleep(lockRetry)
	}
}
