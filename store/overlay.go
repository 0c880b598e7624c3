package store

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"unsafe"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// The newest aggregates live in memory and reach their bucket in folds: a fold
// takes the rows of a frozen generation in key order, a slice with each message
// (architecture §4). Memory holds nothing that the event log cannot give again.
type overlay struct {
	live   *generation
	frozen *generation // nil when no fold is running
}

// generation is a set of aggregate rows. Once frozen it never changes.
type generation struct {
	number uint64
	apps   map[string]map[uint32]map[string]*schemas.UsageSums // app → hour → rest of the key → sums
	rows   int
	chats  map[chatKey]*chatRow
	sorted chan struct{} // closed when order and chatOrder are there
	order  []foldRow

	chatOrder []foldChat

	sums  []schemas.UsageSums // room for the next rows: nearly every event may need one
	texts []byte              // room for their keys
}

// Rows and keys of a generation are allocated this many at a time.
const (
	sumsAtOnce  = 512
	textsAtOnce = 32 << 10
)

// newSums gives a row of zeros.
func (g *generation) newSums() *schemas.UsageSums {
	if len(g.sums) == 0 {
		g.sums = make([]schemas.UsageSums, sumsAtOnce)
	}
	s := &g.sums[0]
	g.sums = g.sums[1:]
	return s
}

// text keeps a copy of b.
func (g *generation) text(b []byte) string {
	if len(g.texts) < len(b) {
		g.texts = make([]byte, max(textsAtOnce, len(b)))
	}
	n := copy(g.texts, b)
	s := unsafe.String(unsafe.SliceData(g.texts), n) // never written again
	g.texts = g.texts[n:]
	return s
}

type foldRow struct {
	key  []byte
	head int // length of hour and app in it
	sums *schemas.UsageSums
}

func (r *foldRow) rest() []byte { return r.key[r.head:] }

func newGeneration(number uint64) *generation {
	return &generation{number: number, apps: map[string]map[uint32]map[string]*schemas.UsageSums{}, chats: map[chatKey]*chatRow{}}
}

// adder adds events and adjustments to a generation; it remembers where the last
// one went.
type adder struct {
	to    *generation
	app   string
	hours map[uint32]map[string]*schemas.UsageSums
	hour  uint32
	rows  map[string]*schemas.UsageSums
	key   []byte
	exact bool
}

func (g *generation) adder() *adder { return &adder{to: g, exact: true} }

func (a *adder) add(e *schemas.UsageEvent) {
	one := schemas.CountedOf(e)
	a.key = appendRest(a.key[:0], e.TenantID, e.UserID, e.WorkflowID, e.Model)
	a.addDelta(e.AppID, hourOf(e.Timestamp), &one)
}

func (a *adder) addAdjustment(adj *Adjustment) {
	a.key = appendRest(a.key[:0], adj.TenantID, adj.UserID, adj.Workflow, adj.Model)
	a.addDelta(adj.AppID, adj.Hour, &adj.Delta)
}

// addDelta adds to the row of an app and hour whose rest of the key is in a.key.
func (a *adder) addDelta(app string, hour uint32, delta *schemas.UsageSums) {
	if a.hours == nil || a.app != app {
		a.hours = a.to.apps[app]
		if a.hours == nil {
			a.hours = map[uint32]map[string]*schemas.UsageSums{}
			a.to.apps[string([]byte(app))] = a.hours
		}
		a.app, a.rows = app, nil
	}
	if a.rows == nil || a.hour != hour {
		a.rows = a.hours[hour]
		if a.rows == nil {
			a.rows = map[string]*schemas.UsageSums{}
			a.hours[hour] = a.rows
		}
		a.hour = hour
	}
	sums := a.rows[string(a.key)]
	if sums == nil {
		sums = a.to.newSums()
		a.rows[a.to.text(a.key)] = sums
		a.to.rows++
	}
	a.exact = sums.Add(delta) && a.exact
}

// freeze ends the generation and orders it beside the running partition.
func (g *generation) freeze() {
	g.sorted = make(chan struct{})
	go func() {
		defer close(g.sorted)
		g.sortRows()
		g.sortChats()
	}()
}

// sortRows orders the rows by their keys: hours and apps first, then what follows
// within each, which is short and has little in common.
func (g *generation) sortRows() {
	type group struct {
		prefix []byte
		rows   map[string]*schemas.UsageSums
	}
	var groups []group
	for app, hours := range g.apps {
		for hour, rows := range hours {
			groups = append(groups, group{appendHourAppKey(nil, hour, app), rows})
		}
	}
	slices.SortFunc(groups, func(a, b group) int { return bytes.Compare(a.prefix, b.prefix) })
	g.order = make([]foldRow, 0, g.rows)
	type row struct {
		rest string
		sums *schemas.UsageSums
	}
	var list []row
	var keys []byte
	for _, group := range groups {
		list = list[:0]
		for rest, sums := range group.rows {
			list = append(list, row{rest, sums})
		}
		slices.SortFunc(list, func(a, b row) int { return strings.Compare(a.rest, b.rest) })
		for _, r := range list {
			n := len(group.prefix) + len(r.rest)
			if cap(keys)-len(keys) < n {
				keys = make([]byte, 0, max(textsAtOnce, n))
			}
			keys = append(append(keys, group.prefix...), r.rest...)
			g.order = append(g.order, foldRow{keys[len(keys)-n : len(keys) : len(keys)], len(group.prefix), r.sums})
		}
	}
}

// from gives the place of the first row at or after a key.
func (g *generation) from(key []byte) int {
	<-g.sorted
	i, _ := slices.BinarySearchFunc(g.order, key, func(r foldRow, k []byte) int { return bytes.Compare(r.key, k) })
	return i
}

// each calls do with the rows of an app inside hours, in no order.
func (g *generation) each(app string, from, to uint32, do func(hour uint32, rest string, sums *schemas.UsageSums)) {
	for hour, rows := range g.apps[app] {
		if hour < from || hour >= to {
			continue
		}
		for rest, sums := range rows {
			do(hour, rest, sums)
		}
	}
}

// foldState is the record of how far aggregates have reached their bucket.
// Everything up to message Folded is there. While To is not 0 the frozen
// generation covers what follows Folded up to To, and its rows below NextKey
// are there too; once all of them are, NextChat says the same of its chats.
type foldState struct {
	Number   uint64 // of the frozen generation, or of the last one
	Folded   uint64
	To       uint64
	NextKey  []byte
	NextChat uint64 // ordinal; 0 while aggregates are folded
	Live     uint64 // events and adjustments in the live generation
}

// pendingRow reports whether a row of the frozen generation is not in its bucket yet.
func (f *foldState) pendingRow(key []byte) bool {
	return f.To != 0 && f.NextChat == 0 && bytes.Compare(key, f.NextKey) >= 0
}

func (f *foldState) pendingChat(ordinal uint64) bool { return f.To != 0 && ordinal >= f.NextChat }

func (f *foldState) append(b []byte) []byte {
	b = append(b, 1)
	for _, n := range [...]uint64{f.Number, f.Folded, f.To, f.Live} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendUvarint(b, uint64(len(f.NextKey)))
	b = append(b, f.NextKey...)
	if f.NextChat != 0 {
		b = binary.AppendUvarint(b, f.NextChat)
	}
	return b
}

func readFoldState(bolt *bbolt.Tx) (foldState, error) {
	v, err := bucketOf(bolt, bucketMeta).get(metaFold)
	if err != nil {
		return foldState{}, err
	}
	return parseFoldState(v)
}

func parseFoldState(b []byte) (f foldState, err error) {
	if b == nil {
		return f, nil
	}
	r := newReader(b)
	r.Form(1)
	f.Number, f.Folded, f.To, f.Live = r.Uvarint(), r.Uvarint(), r.Uvarint(), r.Uvarint()
	f.NextKey = bytes.Clone(r.Bytes(r.Uvarint()))
	if len(r.B) > 0 {
		f.NextChat = r.Uvarint()
	}
	return f, r.Err
}

// sumsRoom holds most rows of sums, with their seal.
const sumsRoom = 32

func appendSums(b []byte, s *schemas.UsageSums) []byte { return s.Append(append(b, 1)) }

func parseSums(b []byte) (s schemas.UsageSums, err error) {
	r := newReader(b)
	r.Form(1)
	s = r.Sums()
	return s, r.Err
}
