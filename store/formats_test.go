package store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
	"grout/store"
)

// eachFormat runs a test with a copy of the file of every release.
func eachFormat(t *testing.T, test func(t *testing.T, path string, want *formatFacts)) {
	dirs, err := filepath.Glob(filepath.Join(formatsDir, "*", formatExpected))
	if err != nil || len(dirs) < 2 {
		t.Fatalf("%d releases in %s: %v", len(dirs), formatsDir, err)
	}
	for _, expected := range dirs {
		dir := filepath.Dir(expected)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			text, err := os.ReadFile(expected)
			if err != nil {
				t.Fatal(err)
			}
			var want formatFacts
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "partition-000.db")
			unpackFile(t, filepath.Join(dir, formatFile), path)
			test(t, path, &want)
		})
	}
}

// describeAs describes a store as the release of want did: the first one knew chats
// from their events only.
func describeAs(t *testing.T, s *store.Store, want *formatFacts) *formatFacts {
	t.Helper()
	got := describe(t, s)
	if want.Origin == 0 {
		if got.Origin != formatCreated {
			t.Errorf("origin %d", got.Origin)
		}
		got.Origin = 0
	}
	if want.Chats == nil {
		sameChats(t, s, got)
		got.Chats = nil
	}
	for app, was := range want.Digests {
		if !strings.Contains(was, "/") {
			got.Digests[app], _, _ = strings.Cut(got.Digests[app], "/")
		}
	}
	return got
}

// sameChats compares the totals of chats with the sums over their events, which are
// the same as long as there was no summary.
func sameChats(t *testing.T, s *store.Store, got *formatFacts) {
	t.Helper()
	totals := map[string]*schemas.UsageSums{}
	users := map[string]string{}
	for _, app := range formatApps {
		for _, e := range eventsOf(t, s, app) {
			if e.ChatID == "" {
				continue
			}
			key := app + " " + e.ChatID
			if totals[key] == nil {
				totals[key] = &schemas.UsageSums{}
			}
			own := e.Effective
			if e.Status == schemas.EventCounted {
				own = schemas.SumsOf(&e.UsageEvent)
			}
			totals[key].Add(&own)
			users[key] = e.UserID // the first one comes last
		}
	}
	want := map[string]string{}
	for key, total := range totals {
		want[key] = fmt.Sprintf("%q %s", users[key], sums(total))
	}
	if d := cmp.Diff(want, got.Chats); d != "" || len(want) == 0 {
		t.Errorf("chats are not what their events sum up to (-want +got):\n%s", d)
	}
}

func formatOf(t *testing.T, path string) uint32 {
	t.Helper()
	c, err := store.Check(t.Context(), path)
	if err != nil || c.Damaged > 0 {
		t.Fatalf("%v %+v", err, c)
	}
	return c.Format
}

func digestOf(t *testing.T, path string) [32]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

// The file of every release opens and answers what it answered then.
func TestEveryFormatOpens(t *testing.T) {
	eachFormat(t, func(t *testing.T, path string, want *formatFacts) {
		before, format := digestOf(t, path), formatOf(t, path)
		looking := store.Options{Partitions: formatPartitions, ReadOnly: true}
		if s, err := store.Open(path, looking); format == store.Format {
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, describeAs(t, s, want)); d != "" {
				t.Errorf("read only, it says something else (-want +got):\n%s", d)
			}
			if err := everyBucketFilled(t, s); err != nil {
				t.Error(err)
			}
			closeFormat(t, s)
		} else if err == nil || !strings.Contains(err.Error(), "start grout once") {
			t.Errorf("a file of format %d, read only: %v", format, err)
		}
		s := openFormat(t, path)
		if d := cmp.Diff(want, describeAs(t, s, want)); d != "" {
			t.Errorf("it says something else (-want +got):\n%s", d)
		}
		switch m := s.Migrated(); {
		case format == store.Format && m != nil:
			t.Errorf("a file of today was migrated: %+v", m)
		case format != store.Format && (m == nil || m.From != int(format) || m.To != store.Format || m.Rows == 0):
			t.Errorf("migrated: %+v", m)
		case m != nil && digestOf(t, m.Kept) != before:
			t.Error("the older file was not kept as it was")
		}
		closeFormat(t, s)
		if got := formatOf(t, path); got != store.Format {
			t.Errorf("format %d after opening", got)
		}
		s = openFormat(t, path)
		defer closeFormat(t, s)
		if s.Migrated() != nil {
			t.Error("migrated twice")
		}
		goesOn(t, s, want)
	})
}

// everyBucketFilled tells of a bucket that the newest file says nothing of: what is
// added to the store is added to what TestMakeFormat applies.
func everyBucketFilled(t *testing.T, s *store.Store) error {
	c, err := store.Compare(t.Context(), s, s, 1)
	if err != nil || c.Differing > 0 || c.Diverges != nil {
		return fmt.Errorf("a store differs from itself: %+v %w", c, err)
	}
	for _, b := range c.Buckets {
		if b.Rows == 0 || b.Store != b.Replica {
			return fmt.Errorf("bucket %s: %+v", b.Bucket, b)
		}
	}
	return nil
}

// goesOn sends everything again, and more: what was known is known.
func goesOn(t *testing.T, s *store.Store, want *formatFacts) {
	t.Helper()
	groups := formatHistory()
	events := 0
	var ingest, corrections [][]schemas.CommandFrame
	for _, app := range formatApps {
		in := schemas.ParsedBatch{}
		list := eventsOf(t, s, app)
		for i := range list {
			e := list[i].UsageEvent
			e.Index, e.Counted = uint32(i), nil
			in.Events = append(in.Events, e)
		}
		events += len(list)
		b := schemas.SplitBatch(&in, "again-"+app, false, 1)[0]
		ingest = append(ingest, []schemas.CommandFrame{again(schemas.UsageIngest.Name, "", b.EncodePayload(nil))})
	}
	for _, g := range groups {
		for _, c := range g {
			if c.Kind == schemas.UsageVoid.Name || c.Kind == schemas.UsageIngest.Name {
				corrections = append(corrections, []schemas.CommandFrame{again(c.Kind, c.AppID, c.Payload)})
			}
		}
	}
	duplicates := 0
	for _, raw := range applyGroups(t, s, ingest) {
		var o schemas.IngestOutcome
		if err := o.Decode(raw); err != nil {
			t.Fatal(err)
		}
		if o.Accepted+o.Rejected > 0 {
			t.Errorf("events sent again: %+v", o)
		}
		duplicates += o.Duplicates
	}
	if duplicates != events || events == 0 {
		t.Errorf("%d of %d events were known", duplicates, events)
	}
	applyGroups(t, s, corrections) // batches sent again change nothing; a second void neither
	got := describe(t, s)
	voided := func(f *formatFacts) (n int) {
		for _, list := range f.Events {
			for _, e := range list {
				if strings.Contains(e, `"status":"voided"`) {
					n++
				}
			}
		}
		return n
	}
	if voided(got) < voided(want) || voided(want) == 0 {
		t.Errorf("%d events are voided, %d were", voided(got), voided(want))
	}
	for key, was := range want.Batches {
		if got.Batches[key] != was {
			t.Errorf("batch %s: %s, was %s", key, got.Batches[key], was)
		}
	}
}

func again(kind, app string, payload []byte) schemas.CommandFrame {
	at := formatNow + 3600e9
	return schemas.CommandFrame{Kind: kind, AppID: app, ID: fmt.Sprintf("again-%x", sha256.Sum256(payload)), Source: "//mozaiks.ai/grout/test", Time: at, Accepted: at, Payload: payload}
}

func closeFormat(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Every row has a name for people, whatever its bucket.
func TestDifferencesHaveNames(t *testing.T) {
	eachFormat(t, func(t *testing.T, path string, _ *formatFacts) {
		s := openFormat(t, path)
		defer closeFormat(t, s)
		empty := openFormat(t, filepath.Join(t.TempDir(), "empty.db"))
		defer closeFormat(t, empty)
		c, err := store.Compare(t.Context(), s, empty, 3)
		if err != nil || c.Differing == 0 || c.Diverges == nil || c.Diverges.Position == 0 {
			t.Fatalf("%+v %v", c.Diverges, err)
		}
		for _, d := range c.Differences {
			if strings.HasPrefix(d.Name, "row ") || d.Name == "" {
				t.Errorf("%+v", d)
			}
		}
		turned, err := store.Compare(t.Context(), empty, s, 3)
		if err != nil || turned.Differing != c.Differing || turned.Differences[len(turned.Differences)-1].What != "missing" {
			t.Errorf("turned round: %d and %d differ, %v", turned.Differing, c.Differing, err)
		}
	})
}

// A migration that is cut off anywhere leaves a file that opens and says what the
// older one said, and the older one is kept once.
func TestMigrationCutOff(t *testing.T) {
	type cut struct{}
	points := []string{"migrate.bucket", "migrate.copied", "migrate.kept", "migrate.renamed"}
	eachFormat(t, func(t *testing.T, path string, want *formatFacts) {
		format := formatOf(t, path)
		if format == store.Format {
			return
		}
		original, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, point := range points {
			for _, nth := range []int{1, 5} {
				path := filepath.Join(t.TempDir(), "s.db")
				if err := os.WriteFile(path, original, 0o600); err != nil {
					t.Fatal(err)
				}
				passes := 0
				died := func() (died bool) {
					defer func() {
						if p := recover(); p != nil {
							died = p == cut{}
						}
					}()
					s, err := store.Open(path, store.Options{Partitions: 1, Fault: func(p string) {
						if p == point {
							if passes++; passes == nth {
								panic(cut{})
							}
						}
					}})
					if err != nil {
						t.Fatal(err)
					}
					closeFormat(t, s)
					return false
				}()
				if once := nth == 1 || point == "migrate.bucket"; died != once {
					t.Fatalf("%s, pass %d: died %v", point, nth, died)
				}
				if got, err := os.ReadFile(path); err != nil || died && point != "migrate.renamed" && !bytes.Equal(got, original) {
					t.Errorf("%s: the older file has changed (%v)", point, err)
				}
				s := openFormat(t, path)
				if d := cmp.Diff(want, describeAs(t, s, want)); d != "" {
					t.Errorf("%s: it says something else (-want +got):\n%s", point, d)
				}
				closeFormat(t, s)
				wantNames := []string{"s.db", fmt.Sprint("s.db.format", format)}
				if got := names(t, filepath.Dir(path)); !slices.Equal(got, wantNames) {
					t.Errorf("%s: files %q, want %q", point, got, wantNames)
				}
			}
		}
	})
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// A file that a migration cannot bring over stays what it is, and says why; one that
// was kept before is not replaced.
func TestMigrationRefused(t *testing.T) {
	eachFormat(t, func(t *testing.T, path string, _ *formatFacts) {
		format := formatOf(t, path)
		if format == store.Format {
			return
		}
		before := digestOf(t, path)
		if _, err := store.Open(path, store.Options{Partition: 1, Partitions: 4}); err == nil || !strings.Contains(err.Error(), "partition 0 of 1, not 1 of 4") {
			t.Errorf("another partition: %v", err)
		}
		inTheWay := filepath.Join(path+".migrating", "x")
		if err := os.MkdirAll(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(path, store.Options{Partitions: 1}); err == nil || !strings.Contains(err.Error(), "the file is as it was") {
			t.Errorf("no room for the new file: %v", err)
		}
		if err := os.RemoveAll(filepath.Dir(inTheWay)); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cut := filepath.Join(t.TempDir(), "cut.db")
		if err := os.WriteFile(cut, raw[:20_000], 0o600); err != nil {
			t.Fatal(err)
		}
		var damage *store.DamageError
		if _, err := store.Open(cut, store.Options{Partitions: 1}); !errors.As(err, &damage) || !slices.Equal(names(t, filepath.Dir(cut)), []string{"cut.db"}) {
			t.Errorf("a damaged file: %v", err)
		}
		kept := fmt.Sprintf("%s.format%d", path, format)
		if err := os.WriteFile(kept, []byte("of another time"), 0o600); err != nil {
			t.Fatal(err)
		}
		if digestOf(t, path) != before {
			t.Error("a refused migration has changed the file")
		}
		s := openFormat(t, path)
		defer closeFormat(t, s)
		if got := s.Migrated().Kept; got != kept+"-2" || digestOf(t, got) != before {
			t.Errorf("the older file is in %s", got)
		}
	})
}
