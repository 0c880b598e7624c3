package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// round harms one file of one directory in one way.
type round struct {
	kind    *kind
	harm    string
	n       int
	file    string // empty: one of the kind's is chosen
	history *history
	seed    uint64
}

func (r *round) name() string {
	return fmt.Sprintf("%s/%s/%d@%s", r.kind.name, r.harm, r.n, r.history.name)
}

// Verdicts. The last five are failures.
const (
	verdictRight       = "right"
	verdictNamed       = "named"
	verdictRepaired    = "repaired"     // named, and right again after grout repair
	verdictHopeless    = "unrepairable" // named, and repair says why it can do nothing
	verdictLoss        = "loss named"   // what a killed process had still to apply is gone, and named
	verdictNothing     = "nothing to harm"
	verdictSilent      = "SILENT"
	verdictUnnamed     = "UNNAMED"
	verdictPanic       = "PANIC"
	verdictHang        = "HANG"
	verdictNotRepaired = "NOT REPAIRED"
)

var failures = []string{verdictSilent, verdictUnnamed, verdictPanic, verdictHang, verdictNotRepaired}

// result is what became of a round.
type result struct {
	Round   string   `json:"round"`
	Seed    uint64   `json:"seed"`
	Binary  string   `json:"binary"` // what was tested
	Kind    string   `json:"kind"`
	Harm    string   `json:"harm"`
	Verdict string   `json:"verdict"`
	What    string   `json:"what"`
	Names   []string `json:"names,omitempty"`
	Detail  []string `json:"detail,omitempty"`
	Took    string   `json:"took"`
}

// startWithin bounds a start: no answer within it is a hang.
const startWithin = 25 * time.Second

// ofGrout are the names with which something can be said to be wrong.
var ofGrout = regexp.MustCompile(`\b(?:STORE|STREAM|RELAY|FACTS|EPOCH|SNAPSHOT|SECRET|SECRETS|RULES)_[A-Z_]{3,}\b`)

func namesIn(texts ...string) (list []string) {
	for _, text := range texts {
		list = append(list, ofGrout.FindAllString(text, -1)...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (r round) run(ctx context.Context, o options, dir string) (res *result, err error) {
	began := time.Now()
	data := filepath.Join(dir, "data")
	if err := copyDir(r.history.data, data); err != nil {
		return nil, err
	}
	res = &result{Round: r.name(), Seed: r.seed, Kind: r.kind.name, Harm: r.harm}
	if res.What, err = r.harmFile(data); err != nil {
		return nil, err
	}
	if res.What == "" {
		res.Verdict = verdictNothing
		return res, nil
	}
	seen := true
	if r.kind.name == "commands" && r.n%4 == 0 {
		if seen, err = r.repairSees(ctx, o, data); err != nil {
			return nil, err
		}
	}
	r.judge(ctx, o, data, res)
	if !seen && len(res.Names) > 0 {
		res.Verdict, res.Detail = verdictNotRepaired, append(res.Detail, "grout repair --dry-run did not see it")
	}
	if r.kind.name == "store" && res.Verdict == verdictNamed {
		r.repair(ctx, o, data, res)
	}
	res.Took = time.Since(began).Round(time.Millisecond).String()
	if slices.Contains(failures, res.Verdict) && o.keep {
		kept := filepath.Join(filepath.Dir(dir), "failed", strings.ReplaceAll(r.name(), "/", "-"))
		err = errors.Join(os.RemoveAll(kept), os.MkdirAll(kept, 0o700), os.Rename(data, filepath.Join(kept, "data")))
	}
	return res, err
}

// judge starts the binary on a directory and compares what it says with the truth.
func (r *round) judge(ctx context.Context, o options, data string, res *result) {
	limit, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	p, err := serve(limit, o, data, r.history.partitions)
	if p != nil {
		defer p.Kill()
	}
	if err != nil {
		log := p.Log()
		res.Names = namesIn(log)
		res.Detail = []string{lastLines(log, 3)}
		switch {
		case limit.Err() != nil:
			res.Verdict = verdictHang
		case strings.Contains(log, "panic:") || strings.Contains(log, "goroutine "):
			res.Verdict = verdictPanic
		case len(res.Names) == 0:
			res.Verdict = verdictUnnamed
		default:
			res.Verdict = verdictNamed
		}
		return
	}
	c, err := newClient(p, r.history.data) // with the keys that callers have
	var l *look
	var ready string
	if err == nil {
		l, err = c.look(limit, &r.history.truth)
	}
	if err == nil {
		_, ready, err = c.do(limit, http.MethodGet, "/ready", "")
	}
	log := p.Log()
	res.Names = namesIn(log, ready)
	switch {
	case strings.Contains(log, "goroutine "):
		res.Verdict, res.Detail = verdictPanic, []string{lastLines(log, 10)}
	case err != nil && len(res.Names) > 0 && p.Signal() == 0 && ended(p.Ended()):
		res.Verdict, res.Detail = verdictNamed, []string{lastLines(log, 2)} // it gave up, and said why
	case err != nil:
		res.Verdict, res.Detail = verdictHang, []string{err.Error(), lastLines(log, 5)}
	default:
		r.verdict(l, res)
	}
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (r *round) verdict(l *look, res *result) {
	for code := range l.codes {
		res.Names = append(res.Names, namesIn(code)...)
		if r.kind.name == "secret" && (code == "UNAUTHORIZED" || code == "FORBIDDEN") {
			res.Names = append(res.Names, code) // whoever has the old key is told
		}
	}
	slices.Sort(res.Names)
	res.Names = slices.Compact(res.Names)
	res.Detail = append(res.Detail, first(l.wrong, 3)...)
	res.Detail = append(res.Detail, first(l.refused, 3)...)
	stalled := l.facts.stalled || l.letters.stalled
	if stalled {
		res.Detail = append(res.Detail, "a stream stalls")
	}
	res.Detail = append(res.Detail, l.strange...)
	named := len(res.Names) > 0
	switch {
	case len(l.wrong) > 0 && named && r.history.killed && strings.HasPrefix(r.kind.name, "commands"):
		res.Verdict = verdictLoss
	case len(l.wrong) > 0:
		res.Verdict = verdictSilent
	case len(l.refused)+len(l.strange) == 0 && !stalled:
		res.Verdict = verdictRight
	case named:
		res.Verdict = verdictNamed
	default:
		res.Verdict = verdictSilent
	}
}

// repaired is what grout repair -o json prints.
type repaired struct {
	Files []struct {
		Sound bool   `json:"sound"`
		What  string `json:"what"`
	} `json:"files"`
	Steps []struct {
		Kind  string `json:"kind"`
		What  string `json:"what"`
		Done  bool   `json:"done"`
		Fault string `json:"fault"`
	} `json:"steps"`
	Missing []string `json:"missing"`
}

func (r *round) runRepair(ctx context.Context, o options, data string, args ...string) (rep repaired, code int, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.binary, append([]string{"repair", "-o", "json", "--data-dir", data, "--partitions", fmt.Sprint(r.history.partitions)}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "MOZAIKS_FOLD_EVERY=3000", "MOZAIKS_COMMAND_MAX_BYTES=16MiB"}
	cmd.Dir = filepath.Dir(data)
	var out, faults strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &faults
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() >= 0 && ctx.Err() == nil {
		code, err = exit.ExitCode(), nil
	}
	if err == nil && out.Len() > 0 {
		err = json.Unmarshal([]byte(out.String()), &rep)
	}
	return rep, code, faults.String(), err
}

// repairSees reports whether a look at the directory finds anything.
func (r *round) repairSees(ctx context.Context, o options, data string) (bool, error) {
	rep, code, text, err := r.runRepair(ctx, o, data, "--dry-run")
	if err != nil {
		return false, fmt.Errorf("grout repair --dry-run: %w: %s", err, text)
	}
	for _, f := range rep.Files {
		if !f.Sound {
			return true, nil
		}
	}
	return code != 0 || len(rep.Steps)+len(rep.Missing) > 0, nil
}

// repair runs grout repair --yes and compares again.
func (r *round) repair(ctx context.Context, o options, data string, res *result) {
	rep, code, text, err := r.runRepair(ctx, o, data, "--yes")
	if err != nil || code == 0 && len(rep.Missing) > 0 {
		res.Verdict, res.Detail = verdictNotRepaired, []string{fmt.Sprint(err), text}
		return
	}
	if code != 0 {
		res.Verdict, res.Detail = verdictHopeless, rep.Missing
		if len(rep.Missing) == 0 {
			res.Verdict, res.Detail = verdictNotRepaired, []string{text, fmt.Sprintf("%+v", rep.Steps)}
		}
		return
	}
	again := &result{}
	r.judge(ctx, o, data, again)
	res.Verdict = verdictRepaired
	if again.Verdict != verdictRight {
		res.Verdict, res.Detail = verdictNotRepaired, append(again.Detail, again.Verdict)
	}
}

func first(list []string, n int) []string { return list[:min(n, len(list))] }

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
