package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"grout/schemas"
)

// Folding rows into blocks, in any slices, comes to what adding them up row by row does.
func TestBlocksOfAggregatesEqualTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		s := openAt(t, filepath.Join(rapidDir(t), "s.db"), Options{Partitions: 1})
		defer closeStore(t, s)
		users := 1 + r.IntN(3000)
		model := map[string]schemas.UsageSums{}
		for range 1 + r.IntN(6) {
			rows := drawFoldRows(r, 1+r.IntN(600), users)
			for _, row := range rows {
				sums := model[string(row.key)]
				sums.Add(row.sums)
				model[string(row.key)] = sums
			}
			if err := s.Update(func(tx *Tx) error {
				for len(rows) > 0 {
					n := min(1+r.IntN(200), len(rows))
					if err := tx.foldHours(rows[:n]); err != nil {
						return err
					}
					rows = rows[n:]
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]schemas.UsageSums{}
		if err := s.db.View(func(bolt *bbolt.Tx) error { return walkBlocks(bolt, got) }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(model, got); d != "" {
			t.Fatal(d)
		}
	})
}

func drawFoldRows(r *rand.Rand, n, users int) []foldRow {
	rows := map[string]foldRow{}
	for range n {
		key := appendHourAppKey(nil, 7+uint32(r.IntN(2)), fmt.Sprint("app", r.IntN(2)))
		head := len(key)
		key = appendRest(key, "", fmt.Sprint("user", r.IntN(users)), "", fmt.Sprint("m", r.IntN(3)))
		sums := schemas.UsageSums{Events: 1, TotalTokens: r.Int64() >> r.IntN(63), Cost: schemas.AmountOf(r.Int64() >> r.IntN(63))}
		rows[string(key)] = foldRow{key, head, &sums}
	}
	list := slices.Collect(maps.Values(rows))
	slices.SortFunc(list, func(a, b foldRow) int { return bytes.Compare(a.key, b.key) })
	return list
}

// walkBlocks reads all rows, and that blocks are in order, not too large and not empty.
func walkBlocks(bolt *bbolt.Tx, into map[string]schemas.UsageSums) error {
	c := bucketOf(bolt, bucketHours).cursor()
	var last []byte
	for k, block := c.first(); k != nil; k, block = c.next() {
		head, err := headLength(k)
		if err != nil {
			return err
		}
		if len(block) > hoursBlockBytes {
			return fmt.Errorf("block %x has %d bytes", k, len(block))
		}
		r := readHours(block)
		rows := 0
		for ; r.next(); rows++ {
			key := append(k[:head:head], r.rest...)
			if bytes.Compare(key, k) < 0 || bytes.Compare(key, last) <= 0 {
				return fmt.Errorf("row %x of block %x stands behind %x", key, k, last)
			}
			last = key
			if into[string(key)], err = r.parse(); err != nil {
				return err
			}
		}
		if r.Err != nil || rows == 0 {
			return fmt.Errorf("block %x has %d rows: %v", k, rows, r.Err)
		}
	}
	return c.err
}

// A block that ends inside a row is damaged; one that ends behind a row is another block.
func TestDamagedBlocks(t *testing.T) {
	var w hoursWriter
	one := schemas.UsageSums{Events: 1}
	ends := map[int]int{}
	for i := range 5 {
		w.row(fmt.Append(nil, "row ", i), one.Append(nil))
		ends[len(w.block)] = i + 1
	}
	for n := range w.block {
		rows := 0
		err := eachHour(w.block[:n], func(string, *schemas.UsageSums) { rows++ })
		want, whole := ends[n]
		if n == 1 {
			want, whole = 0, true
		}
		if whole != (err == nil) || whole && rows != want {
			t.Errorf("the first %d bytes are read as %d rows: %v", n, rows, err)
		}
	}
	for _, b := range [][]byte{{2}, {1, 1, 1, 'x', 0, 0, 0, 0, 0, 0, 0}, {1, 0, 200, 1}, {1, 0, 1, 'x', 0x80}} {
		if err := eachHour(b, func(string, *schemas.UsageSums) {}); err == nil {
			t.Errorf("%x is read", b)
		}
	}
}

func FuzzHours(f *testing.F) {
	var w hoursWriter
	one := schemas.UsageSums{Events: 1}
	w.row([]byte("a"), one.Append(nil))
	f.Add(w.block)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = eachHour(b, func(rest string, _ *schemas.UsageSums) {
			if len(rest) > len(b)*len(b) {
				t.Errorf("%d bytes of %d", len(rest), len(b))
			}
		})
	})
}
