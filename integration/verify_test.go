package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/integration/process"
)

// verification is what `grout verify -o json` prints of a partition, as far as it is
// looked at here.
type verification struct {
	Partition int      `json:"partition"`
	Verdict   string   `json:"verdict"`
	Reason    string   `json:"reason"`
	Notes     []string `json:"notes"`
	SHA256    string   `json:"compared_sha256"`
	Messages  int      `json:"messages"`
	Rows      int      `json:"rows"`
	Differing int      `json:"differing"`
	Damage    *struct {
		Damage []struct{ Bucket, Key, What string }
	} `json:"damage"`
	Replica string `json:"replica_sha256"`
}

// verify runs grout verify and gives its exit code.
func verify(t *testing.T, data string, partitions int, env []string, args ...string) (list []verification, code int, stderr string) {
	t.Helper()
	args = append([]string{"verify", "-o", "json", "--data-dir", data, "--partitions", fmt.Sprint(partitions)}, args...)
	cmd := exec.CommandContext(t.Context(), grout, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MOZAIKS_") || strings.HasPrefix(v, "GROUT_") }), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Error(err)
		return nil, -1, ""
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &list); err != nil {
			t.Errorf("%v: %.300s", err, out.Bytes())
		}
	}
	return list, cmd.ProcessState.ExitCode(), errs.String()
}

// everything posts what there is to post: batches of several apps, again, and with
// other content, refused events, chats, voids, amendments.
func everything(t *testing.T, p *process.Process, seed uint64, requests int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 4))
	now := time.Now().UTC()
	var sent []map[string]any
	var bodies []any
	for n := range requests {
		if len(bodies) > 0 && r.IntN(6) == 0 {
			request(t, p, "POST", "/api/usage/ingest", bodies[r.IntN(len(bodies))])
			continue
		}
		var events []any
		for i := range 1 + r.IntN(25) {
			e := adjustEvent(fmt.Sprint("app-", r.IntN(6)), fmt.Sprintf("e-%d-%d-%d", seed, n, i), now.Add(-time.Duration(r.Int64N(int64(30*time.Hour)))))
			switch r.IntN(8) {
			case 0:
				e["chat_id"], e["workflow_id"], e["metadata"] = fmt.Sprint("chat-", r.IntN(3)), "größe", map[string]any{"k": []int{1}}
			case 1:
				delete(e, "model")
			case 2:
				if len(sent) > 0 {
					e = sent[r.IntN(len(sent))]
				}
			case 3:
				if len(sent) > 0 {
					other := map[string]any{}
					for k, v := range sent[r.IntN(len(sent))] {
						other[k] = v
					}
					other["output_tokens"] = 501
					e = other
				}
			}
			if e["model"] != nil {
				sent = append(sent, e)
			}
			events = append(events, e)
		}
		body := map[string]any{"events": events}
		if r.IntN(4) > 0 {
			body["batch_id"] = fmt.Sprintf("batch-%d-%d", seed, r.IntN(n+1))
		}
		bodies = append(bodies, body)
		if a := request(t, p, "POST", "/api/usage/ingest", body); a.status != 200 && a.status != 409 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		if e := sent[r.IntN(len(sent))]; n%3 == 1 {
			path := fmt.Sprintf("/api/usage/events/%s/", e["event_id"])
			body := map[string]any{"app_id": e["app_id"], "reason": "r"}
			if r.IntN(2) == 0 {
				request(t, p, "POST", path+"void", body)
			} else {
				body["input_tokens"] = r.IntN(900)
				request(t, p, "POST", path+"amend", body)
			}
		}
		if n%3 == 2 {
			reportRun(t, p, fmt.Sprintf("run-%d-%d", seed, n), n)
		}
	}
}

// reportRun tells of a run from its start to its end, with a repeat and a refusal.
func reportRun(t *testing.T, p *process.Process, run string, n int) {
	t.Helper()
	event := func(i int, kind string, more map[string]any) map[string]any {
		e := map[string]any{"kind": "orchestration." + kind, "run_id": run, "event_id": fmt.Sprint(run, "-", i), "app_id": fmt.Sprint("app-", n%6), "user_id": "user-1"}
		maps.Copy(e, more)
		return e
	}
	first := event(0, "run_started", map[string]any{"workflow_name": "größe", "message": "go"})
	if n%2 == 0 {
		first = event(0, "agent_started", map[string]any{"agent": "Writer"})
	}
	end := event(2, "run_completed", map[string]any{"summary": "done", "cost": "0.5", "total_tokens": 7})
	if n%4 == 1 {
		end = event(2, "run_failed", map[string]any{"error": "none", "code": "E"})
	}
	list := []any{first, event(1, "tool_completed", map[string]any{"tool": "search"}), first, end, event(3, "agent_started", nil)}
	if a := request(t, p, "POST", "/api/orchestration/events", list); a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
}

// One recorded stream, replayed by processes that have nothing in common but the
// program, gives the same bytes.
func TestReplaysOfOtherProcessesGiveTheSameBytes(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		dir := t.TempDir()
		data, clock := filepath.Join(dir, "data"), filepath.Join(dir, "clock")
		setClock := func(by string) {
			if err := os.WriteFile(clock, []byte(by), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		setClock("-60h")
		// Every start is a tick, which shows a step of the clock and begins a segment.
		for round := range uint64(3) {
			p := start(t, data, partitions, "MOZAIKS_FOLD_EVERY=70", "GROUT_CLOCK_FILE="+clock)
			everything(t, p, round, 12)
			stop(t, p)
			setClock([]string{"-30h", "0s", "0s"}[round])
		}
		var first []string
		for _, env := range [][]string{
			{"TZ=UTC", "LC_ALL=C"},
			{"TZ=America/St_Johns", "LANG=de_DE.UTF-8", "LC_ALL=tr_TR.UTF-8", "GOMAXPROCS=1"},
			{"TZ=Asia/Kathmandu", "GOMAXPROCS=7", "GOGC=10", "GODEBUG=randautoseed=0"},
			{"GROUT_REPLAY_MESSAGES=1"},
			{"GROUT_REPLAY_MESSAGES=7", "GROUT_CLOCK_FILE=" + filepath.Join(dir, "future")},
			{"GROUT_REPLAY_MESSAGES=64", "GOMAXPROCS=2", "GROUT_CLOCK_FILE=" + filepath.Join(dir, "past")},
		} {
			for name, by := range map[string]string{"future": "30000h", "past": "-90000h"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(by), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			list, code, stderr := verify(t, data, partitions, env, "--from-start", "--replica-digest")
			if code != 0 || len(list) != partitions {
				t.Fatalf("%v: code %d, %s, %+v", env, code, stderr, list)
			}
			var digests []string
			messages := 0
			for _, v := range list {
				digests = append(digests, v.Replica)
				messages += v.Messages
				if v.Verdict != "equal" || len(v.Replica) != 64 {
					t.Errorf("%v: %+v", env, v)
				}
			}
			if first == nil {
				first = digests
				if messages < 30 {
					t.Errorf("%d messages were replayed", messages)
				}
			}
			if !slices.Equal(digests, first) {
				t.Errorf("%v gives other bytes than %q", env, "TZ=UTC")
			}
		}
	})
}

// A server is verified while it takes usage; one that stands still, damaged or not,
// from its files. The exit code tells.
func TestVerifyCommand(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions, "MOZAIKS_FOLD_EVERY=70")
		everything(t, p, 9, 20)
		operator := []string{"MOZAIKS_NATS_ADMIN_PASSWORD=" + process.AdminPassword}
		var list []verification
		var code int
		var stderr string
		done := make(chan struct{})
		go func() {
			defer close(done)
			list, code, stderr = verify(t, data, partitions, operator)
		}()
		everything(t, p, 10, 20)
		<-done
		if code != 0 || len(list) != partitions {
			t.Fatalf("beside a server: code %d, %s, %+v", code, stderr, list)
		}
		for _, v := range list {
			if v.Verdict != "equal" || len(v.SHA256) != 64 {
				t.Errorf("beside a server: %+v", v)
			}
		}
		for name, password := range map[string]string{"wrong": "guess", "consumer's": process.ConsumerPassword} {
			if _, code, stderr := verify(t, data, partitions, []string{"MOZAIKS_NATS_ADMIN_PASSWORD=" + password}); code != 2 || !strings.Contains(stderr, "password") {
				t.Errorf("a %s password: code %d, %s", name, code, stderr)
			}
		}
		stop(t, p)
		if list, code, stderr := verify(t, data, partitions, nil); code != 0 {
			t.Errorf("afterwards: code %d, %s, %+v", code, stderr, list)
		}
		flipByte(t, filepath.Join(data, "store", "partition-000.db"), []byte("größe"))
		list, code, stderr = verify(t, data, partitions, nil)
		if code != 1 || !strings.Contains(stderr, "the store is not") || list[0].Verdict != "damaged" || list[0].Damage == nil || len(list[0].Damage.Damage) == 0 {
			t.Errorf("a damaged store: code %d, %s, %+v", code, stderr, list)
		}
		for _, v := range list[1:] {
			if v.Verdict != "equal" {
				t.Errorf("beside a damaged one: %+v", v)
			}
		}
		if _, code, stderr := verify(t, filepath.Join(t.TempDir(), "none"), partitions, nil); code != 2 || !strings.Contains(stderr, "there is no store") {
			t.Errorf("nothing there: code %d, %s", code, stderr)
		}
	})
}

// flipByte changes a bit wherever a text stands in a file.
func flipByte(t *testing.T, path string, text []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at, flipped := 0, 0
	for {
		i := bytes.Index(raw[at:], text)
		if i < 0 {
			break
		}
		raw[at+i] ^= 1
		at += i + 1
		flipped++
	}
	if flipped == 0 {
		t.Fatalf("%q is not in %s", text, path)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
