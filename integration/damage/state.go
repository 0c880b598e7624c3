package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// state keeps what was finished, a line for each round, so that a run can be cut off.
type state struct {
	mu   sync.Mutex
	f    *os.File
	done map[string]*result
	sum  string
}

func openState(path string, o options) (*state, error) {
	s := &state{done: map[string]*result{}, sum: o.sum}
	if o.fresh || o.only != "" {
		path += ".new"
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if text, err := os.ReadFile(path); err == nil {
		lines := bufio.NewScanner(strings.NewReader(string(text)))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			r := &result{}
			if json.Unmarshal(lines.Bytes(), r) == nil && r.Seed == o.seed && r.Binary == o.sum { // the last line may be cut off
				s.done[r.Round] = r
			}
		}
	}
	var err error
	s.f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	return s, err
}

func (s *state) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done[name] != nil
}

func (s *state) add(r *result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[r.Round], r.Binary = r, s.sum
	if slices.Contains(failures, r.Verdict) {
		fmt.Printf("%s: seed %d, round %s: %s\n", r.Verdict, r.Seed, r.Round, r.What)
		for _, d := range r.Detail {
			fmt.Printf("    %s\n", strings.ReplaceAll(d, "\n", "\n    "))
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.f.Write(append(text, '\n'))
	return err
}

func (s *state) Close() error { return s.f.Close() }

// report prints a table of verdicts and gives the number of failures.
func (s *state) report(w io.Writer) (failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type row struct{ kind, harm string }
	counts := map[row]map[string]int{}
	verdicts := map[string]bool{}
	for _, r := range s.done {
		at := row{r.Kind, r.Harm}
		if counts[at] == nil {
			counts[at] = map[string]int{}
		}
		counts[at][r.Verdict]++
		verdicts[r.Verdict] = true
		if slices.Contains(failures, r.Verdict) {
			failed++
		}
	}
	columns := slices.Sorted(maps.Keys(verdicts))
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "KIND\tHARM\t%s\n", strings.Join(columns, "\t"))
	for _, at := range slices.SortedFunc(maps.Keys(counts), func(a, b row) int { return strings.Compare(a.kind+" "+a.harm, b.kind+" "+b.harm) }) {
		fmt.Fprintf(t, "%s\t%s", at.kind, at.harm)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%d", counts[at][c])
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
	fmt.Fprintf(w, "%d rounds, %d failures\n", len(s.done), failed)
	return failed
}
