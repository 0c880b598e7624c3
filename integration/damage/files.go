package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kind is a sort of file that a data directory is made of.
type kind struct {
	name  string
	times int // flips in hundredths of what is asked for
	match func(path string) bool
}

// streamFile gives the part of a path behind a stream's directory. A server that was
// killed leaves its streams elsewhere than one that was stopped.
func streamFile(stream string) func(string) (string, bool) {
	return func(path string) (string, bool) {
		for _, dir := range []string{"nats/jetstream/GROUT/streams/", "nats/streams/"} {
			if rest, ok := strings.CutPrefix(path, dir+stream+"/"); ok {
				return rest, true
			}
		}
		return "", false
	}
}

func blocks(stream string) func(string) bool {
	of := streamFile(stream)
	return func(path string) bool {
		rest, ok := of(path)
		return ok && strings.HasSuffix(rest, ".blk")
	}
}

func others(stream string) func(string) bool {
	of := streamFile(stream)
	return func(path string) bool {
		rest, ok := of(path)
		return ok && !strings.HasSuffix(rest, ".blk")
	}
}

var kinds = []kind{
	{"store", 1000, func(p string) bool { return strings.HasPrefix(p, "store/") && strings.HasSuffix(p, ".db") }},
	{"commands", 1000, blocks("MOZAIKS_CMD")},
	{"commands-other", 100, others("MOZAIKS_CMD")},
	{"facts", 100, blocks("MOZAIKS_EVT")},
	{"facts-other", 100, others("MOZAIKS_EVT")},
	{"letters", 100, blocks("MOZAIKS_DLQ")},
	{"letters-other", 100, others("MOZAIKS_DLQ")},
	{"snapshot", 100, func(p string) bool { return strings.HasPrefix(p, "snapshots/") && strings.HasSuffix(p, ".db") }},
	{"manifest", 100, func(p string) bool { return strings.HasPrefix(p, "snapshots/") && strings.HasSuffix(p, ".json") }},
	{"half-snapshot", 20, func(p string) bool { return strings.HasPrefix(p, "snapshots/") && strings.HasSuffix(p, ".db") }},
	{"secret", 100, func(p string) bool { return strings.HasPrefix(p, "secrets/") }},
	{"note", 100, func(p string) bool { return strings.HasPrefix(p, "nats/grout-") || p == "lock" }},
}

func kindNames() (list []string) {
	for _, k := range kinds {
		list = append(list, k.name)
	}
	return list
}

// filesOf lists the files of a kind below a data directory, in order.
func filesOf(data string, k *kind) (list []string, err error) {
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(data, path)
		if err == nil && k.match(rel) {
			list = append(list, rel)
		}
		return err
	})
	slices.Sort(list)
	return list, err
}

// Ways to harm a file.
const (
	harmFlip     = "flip"
	harmTruncate = "truncate"
	harmEmpty    = "empty"
	harmRemove   = "remove"
	harmOlder    = "older"
	harmForeign  = "foreign"
	harmPart     = "part"
)

// plan lists the rounds in an order in which every kind comes early.
func plan(o options, histories []*history) ([]round, error) {
	want := strings.Split(o.kinds, ",")
	var list []round
	for i := range kinds {
		k := &kinds[i]
		if o.kinds != "" && !slices.Contains(want, k.name) {
			continue
		}
		add := func(harm string, n int, h *history, file string) {
			list = append(list, round{kind: k, harm: harm, n: n, history: h, file: file, seed: o.seed})
		}
		flip := harmFlip
		if k.name == "half-snapshot" {
			flip = harmPart
		}
		for n := range max(1, o.rounds*k.times/100) {
			add(flip, n, histories[n%len(histories)], "")
		}
		if flip == harmPart {
			continue
		}
		for n := range min(10, o.rounds) {
			add(harmTruncate, n, histories[n%len(histories)], "")
		}
		whole := 0
		for _, h := range histories {
			files, err := filesOf(h.data, k)
			if err != nil {
				return nil, err
			}
			for _, f := range files {
				for _, harm := range []string{harmEmpty, harmRemove, harmOlder, harmForeign} {
					add(harm, whole, h, f)
					whole++
				}
			}
		}
	}
	if o.kinds != "" && len(list) == 0 {
		return nil, fmt.Errorf("no kind of %q is known; there are %s", o.kinds, strings.Join(kindNames(), ", "))
	}
	r := rand.New(rand.NewPCG(o.seed, 17))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if o.most > 0 {
		of := map[string]int{}
		list = slices.DeleteFunc(list, func(r round) bool { of[r.kind.name]++; return of[r.kind.name] > o.most })
	}
	return list, nil
}

// harm does to a file of a copy what the round says, and tells what it was. A file that
// is not in the other directory is removed instead.
func (r *round) harmFile(data string) (string, error) {
	rng := rand.New(rand.NewPCG(r.seed, uint64(r.n)*1000+uint64(len(r.harm))+hashOf(r.kind.name)))
	file := r.file
	if file == "" {
		files, err := filesOf(data, r.kind)
		if err != nil || len(files) == 0 {
			return "", err
		}
		file = files[rng.IntN(len(files))]
	}
	path := filepath.Join(data, file)
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	what := file
	switch r.harm {
	case harmFlip:
		from := int64(0)
		if r.history.killed && r.kind.name == "commands" && r.n%8 > 3 { // what is not applied yet
			from = info.Size() - info.Size()/20
		}
		at, bit, err := flipBit(path, from, rng)
		if err != nil || at < 0 {
			return "", err
		}
		what = fmt.Sprintf("%s: bit %d of byte %d flipped", file, bit, at)
	case harmTruncate:
		size := rng.Int64N(max(info.Size(), 1))
		what = fmt.Sprintf("%s: cut to %d of %d bytes", file, size, info.Size())
		err = os.Truncate(path, size)
	case harmEmpty:
		what += ": emptied"
		err = os.Truncate(path, 0)
	case harmRemove:
		what += ": removed"
		return what, os.Remove(path)
	case harmPart:
		what = file + ".part: half written"
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return what, os.WriteFile(path+".part", text[:rng.IntN(len(text))], 0o600)
	case harmOlder:
		what, err = replace(path, filepath.Join(r.history.half, file), what+": an older one")
	case harmForeign:
		what, err = replace(path, filepath.Join(r.history.foreign, file), what+": one of another instance")
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return what, nil
	}
	return what, os.Chtimes(path, info.ModTime(), info.ModTime()) // a disk that fails leaves no trace
}

// replace puts another directory's file in the place of one. A stream's files of a
// server that was killed lie elsewhere than those of one that was stopped.
func replace(path, from, what string) (string, error) {
	if _, err := os.Stat(from); err != nil {
		from = strings.Replace(from, "/nats/streams/", "/nats/jetstream/GROUT/streams/", 1)
	}
	text, err := os.ReadFile(from)
	if os.IsNotExist(err) {
		return what + " (there is none: removed)", os.Remove(path)
	}
	if err != nil {
		return "", err
	}
	return what, os.WriteFile(path, text, 0o600)
}

// flipBit flips one bit, in a place that is in use: not all of a store's pages are.
func flipBit(path string, least int64, rng *rand.Rand) (at int64, bit int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return -1, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return -1, 0, err
	}
	const page = 4096
	b := make([]byte, page)
	for range 1000 {
		at := least + rng.Int64N(info.Size()-least)
		from := at / page * page
		n, err := f.ReadAt(b, from)
		if n == 0 {
			return -1, 0, err
		}
		if len(strings.Trim(string(b[:n]), "\x00")) == 0 {
			continue
		}
		bit := rng.IntN(8)
		one := []byte{b[at-from] ^ 1<<bit}
		_, err = f.WriteAt(one, at)
		return at, bit, err
	}
	return -1, 0, nil
}

func hashOf(text string) (h uint64) {
	for _, c := range text {
		h = h*131 + uint64(c)
	}
	return h << 20
}
