package integration

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
)

// A whole data directory of a release, stream and all, is written with that release's
// program, built with the tag faults:
//
//	go test ./integration -run TestMakeDataDirectory -make-data-dir 0.2.0 -with /path/to/grout
var (
	makeDataDir = flag.String("make-data-dir", "", "release whose data directory is to be written")
	makeWith    = flag.String("with", "", "program of that release; empty for this one")
)

const (
	releasesDir  = "../store/testdata/formats"
	dataArchive  = "data.tar.gz"
	dataExpected = "data.json"
)

// upgradeApps are those that everything writes to.
var upgradeApps = []string{"app-0", "app-1", "app-2", "app-3", "app-4", "app-5"}

// answers gives what a process says of every app, in plain text.
func answers(t *testing.T, p *process.Process) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, app := range upgradeApps {
		out["totals "+app] = fmt.Sprintf("%+v", totals(t, p, app))
		for _, e := range walk(t, p, "app_id="+app+"&limit=100") {
			effective := ""
			if e.Effective != nil {
				effective = fmt.Sprintf("%+v", *e.Effective)
			}
			out["event "+app+" "+e.ID] = fmt.Sprint(e.Batch, " ", e.Status, " ", effective)
		}
		for _, id := range runIDs(t, p, app) {
			events := request(t, p, "GET", "/api/runs/"+id+"/events?app_id="+app, nil)
			out["run "+app+" "+id] = fmt.Sprintf("%s %s", request(t, p, "GET", "/api/runs/"+id+"?app_id="+app, nil).body, events.body)
		}
	}
	return out
}

// runIDs lists the ids of an app's runs, newest first.
func runIDs(t *testing.T, p *process.Process, app string) (ids []string) {
	t.Helper()
	a := request(t, p, "GET", "/api/runs?limit=1000&app_id="+app, nil)
	var page struct {
		Runs []struct {
			ID string `json:"run_id"`
		} `json:"runs"`
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != 200 {
		t.Fatalf("status %d: %s: %v", a.status, a.body, err)
	}
	for _, r := range page.Runs {
		ids = append(ids, r.ID)
	}
	return ids
}

// TestMakeDataDirectory writes the data directory of a release. Released ones are never
// written again.
func TestMakeDataDirectory(t *testing.T) {
	if *makeDataDir == "" {
		t.Skip("only with -make-data-dir")
	}
	if *makeWith != "" {
		defer func(was string) { grout = was }(grout)
		grout = *makeWith
	}
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, data, 1, "MOZAIKS_FOLD_EVERY=70")
	everything(t, p, 77, 24)
	want := answers(t, p)
	stop(t, p)
	dir := filepath.Join(releasesDir, *makeDataDir)
	text, err := json.MarshalIndent(want, "", " ")
	for _, made := range []string{"secrets", "plugins"} { // at every start, where they are missing
		err = errors.Join(err, os.RemoveAll(filepath.Join(data, made)))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, dataExpected), append(text, '\n'), 0o600)
	}
	if err == nil {
		err = pack(data, filepath.Join(dir, dataArchive))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func pack(dir, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	err = w.AddFS(os.DirFS(dir))
	return errors.Join(err, w.Close(), z.Close(), f.Close())
}

func unpack(t *testing.T, from, dir string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(head.Name))
		switch {
		case !filepath.IsLocal(head.Name):
			t.Fatalf("%s leads out of the directory", head.Name)
		case head.Typeflag == tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		default:
			var raw []byte
			if raw, err = io.ReadAll(io.LimitReader(r, 256<<20)); err == nil {
				if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
					err = os.WriteFile(path, raw, 0o600)
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The data directory of every release is taken over, also when the first try is killed
// anywhere, answers what it answered, goes on, and is what its stream says.
func TestUpgrade(t *testing.T) {
	archives, err := filepath.Glob(filepath.Join(releasesDir, "*", dataArchive))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no data directories in %s: %v", releasesDir, err)
	}
	for _, archive := range archives {
		release := filepath.Base(filepath.Dir(archive))
		text, err := os.ReadFile(filepath.Join(filepath.Dir(archive), dataExpected))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		for _, crash := range []string{"", "migrate.bucket:3", "migrate.copied:1", "migrate.kept:1", "migrate.renamed:1"} {
			t.Run(strings.TrimSuffix(release+" "+crash, " "), func(t *testing.T) {
				data := filepath.Join(t.TempDir(), "data")
				unpack(t, archive, data)
				if crash != "" {
					p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data, Env: []string{"MOZAIKS_PARTITIONS=1", "GROUT_CRASH_AT=" + crash}})
					if err == nil { // a release whose format is today's passes no such point
						p.Kill()
					} else if !errors.Is(err, process.ErrKilled) {
						t.Fatal(err)
					}
				}
				p := start(t, data, 1)
				if d := cmp.Diff(want, answers(t, p)); d != "" {
					t.Errorf("it says something else (-then +now):\n%s", d)
				}
				if kept := oldFiles(t, data); release == "0.1.0" && len(kept) != 1 {
					t.Errorf("kept of the older format: %q", kept)
				}
				everything(t, p, 77, 3) // with the ids of then
				everything(t, p, 78, 3)
				stop(t, p)
				list, code, stderr := verify(t, data, 1, nil)
				if code != 0 || len(list) != 1 || list[0].Verdict != "equal" || list[0].Messages == 0 {
					t.Errorf("code %d, %s, %+v", code, stderr, list)
				}
			})
		}
	}
}

func oldFiles(t *testing.T, data string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(data, "store", "*.format*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}
