package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/handlers"
	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// makeFormat names the release whose directory TestMakeFormat writes:
//
//	go test ./store -run TestMakeFormat -make-format 0.2.0
var makeFormat = flag.String("make-format", "", "release whose testdata/formats directory is to be written")

const (
	formatsDir       = "testdata/formats"
	formatFile       = "partition-000.db.gz"
	formatExpected   = "expected.json"
	formatPartition  = 0
	formatPartitions = 1
	formatFoldEvery  = 60
	formatCreated    = 1_767_225_600_000_000_000 // of the stream: 2026-01-01
)

var formatNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano()

// TestMakeFormat writes the directory of a release with this code. Released
// directories are never written again. What a release adds is added to the groups that
// are applied here; formatHistory stays what 0.1.0 was made of.
func TestMakeFormat(t *testing.T) {
	if *makeFormat == "" {
		t.Skip("only with -make-format")
	}
	path := filepath.Join(t.TempDir(), "partition-000.db")
	s := openFormat(t, path)
	applyGroups(t, s, formatPrelude())
	applyGroups(t, s, formatHistory())
	applyGroups(t, s, formatSummaries())
	applyGroups(t, s, formatEpoch(s))
	applyGroups(t, s, formatAfter())
	applyGroups(t, s, formatEntitlements(t))
	applyGroups(t, s, formatRuns(t))
	applyGroups(t, s, formatPublished())
	applyGroups(t, s, formatDeliveries())
	applyGroups(t, s, formatLetters(t, s))
	half, err := s.Facts(schemas.DestFacts, schemas.Position{}, 20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// A relay has published a part; the rest waits.
	if err := s.MarkRelayed(schemas.DestFacts, schemas.RelayState{After: half[len(half)-1].At, MarkerSeq: 21}); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
	facts := describe(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(formatsDir, *makeFormat)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	packFile(t, path, filepath.Join(dir, formatFile))
	text, err := json.MarshalIndent(facts, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, formatExpected), append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func packFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write(raw); err == nil {
		err = w.Close()
	}
	if err == nil {
		err = os.WriteFile(to, b.Bytes(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func unpackFile(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err == nil {
		err = os.WriteFile(to, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openFormat(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path, store.Options{Partition: formatPartition, Partitions: formatPartitions, FoldEvery: formatFoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// formatHistory is a stream with all there is to keep: events of several apps, an
// event and a batch sent again, both also with other content, refused events, voids,
// amendments, and commands that nobody can apply. It ends between two slices of a
// fold.
func formatHistory() (groups [][]schemas.CommandFrame) {
	r := rand.New(rand.NewPCG(1, 2026))
	var sent []schemas.UsageEvent
	var batches []schemas.ParsedBatch
	n := 0
	frame := func(kind, app string, payload []byte) schemas.CommandFrame {
		n++
		at := formatNow + int64(n)*int64(time.Second)
		return schemas.CommandFrame{
			Kind: kind, AppID: app, ID: fmt.Sprint("command-", n), Source: "//mozaiks.ai/grout/http", Time: at, Accepted: at,
			CorrelationID: fmt.Sprint("correlation-", n), Payload: payload,
		}
	}
	for g := range 48 {
		var group []schemas.CommandFrame
		for range 1 + r.IntN(2) {
			in := schemas.ParsedBatch{BatchID: fmt.Sprint("batch-", n)}
			switch {
			case g > 4 && r.IntN(7) == 0: // a batch again, or its id for other events
				old := batches[r.IntN(len(batches))]
				in.BatchID = old.BatchID
				if r.IntN(2) == 0 {
					in.Events, in.Rejected = slices.Clone(old.Events), slices.Clone(old.Rejected)
				}
			case r.IntN(5) == 0:
				in.Rejected = []schemas.RejectedEvent{{Digest: r.Uint64(), EventError: schemas.EventError{
					Index: 90, EventID: "broken", AppID: "app-1", Code: schemas.CodeMissingField, Detail: "model is missing",
				}}}
			}
			if len(in.Events) == 0 {
				for i := range 2 + r.IntN(6) {
					e := formatEvent(r, i)
					if len(sent) > 0 && r.IntN(9) == 0 {
						e = sent[r.IntN(len(sent))]
						e.Index = uint32(i)
						e.OutputTokens += int64(r.IntN(2))
						e.TotalTokens = e.InputTokens + e.OutputTokens
					} else {
						sent = append(sent, e)
					}
					in.Events = append(in.Events, e)
				}
				batches = append(batches, schemas.ParsedBatch{BatchID: in.BatchID, Events: slices.Clone(in.Events), Rejected: slices.Clone(in.Rejected)})
			}
			for _, b := range schemas.SplitBatch(&in, in.BatchID, r.IntN(6) == 0, formatPartitions) {
				group = append(group, frame(schemas.UsageIngest.Name, "", b.EncodePayload(nil)))
			}
		}
		if g > 2 && g%3 == 0 {
			e := sent[r.IntN(len(sent))]
			group = append(group, frame(schemas.UsageVoid.Name, e.AppID, (&schemas.EventVoid{EventID: e.EventID, Reason: "void"}).EncodePayload(nil)))
		}
		if g > 2 && g%4 == 0 {
			e := sent[r.IntN(len(sent))]
			a := schemas.EventAmendment{EventID: e.EventID, Reason: "amended: ä", Values: schemas.UsageValues{
				Given: schemas.GivenInput | schemas.GivenCost, InputTokens: int64(r.IntN(900)), Cost: int64(r.IntN(900)),
			}}
			group = append(group, frame(schemas.UsageAmend.Name, e.AppID, a.EncodePayload(nil)))
		}
		if g%20 == 7 {
			group = append(group, frame("no.such.kind", "app-1", []byte{1, 2, 3}))
		}
		groups = append(groups, group)
	}
	return groups
}

// frameAt is a command of an instant that is told in seconds after formatNow.
func frameAt(second int64, kind, app string, payload []byte) schemas.CommandFrame {
	at := formatNow + second*int64(time.Second)
	return schemas.CommandFrame{
		Kind: kind, AppID: app, ID: fmt.Sprint(kind, " at ", second), Source: "//mozaiks.ai/grout/http", Time: at, Accepted: at, Payload: payload,
	}
}

// formatPrelude is of 40 days before: events that expire, with ticks every hour, which
// begin segments, and configuration.
func formatPrelude() (groups [][]schemas.CommandFrame) {
	const days = 40
	add := func(frames ...schemas.CommandFrame) { groups = append(groups, frames) }
	add(frameAt(-days*86400-1, schemas.ConfigSet.Name, "", schemas.Rules{Version: 1}.Change().EncodePayload(nil)))
	r := rand.New(rand.NewPCG(2, 2026))
	for n := range 20 {
		in := schemas.ParsedBatch{BatchID: fmt.Sprint("expired-", n)}
		for i := range 5 {
			e := formatEvent(r, i)
			e.Timestamp -= days * 86400e9
			in.Events = append(in.Events, e)
		}
		b := schemas.SplitBatch(&in, in.BatchID, false, formatPartitions)[formatPartition]
		add(frameAt(-days*86400+int64(n)*1200, schemas.UsageIngest.Name, "", b.EncodePayload(nil)))
	}
	for at := int64(-days*86400 + 86400); at < 0; at += 3600 {
		add(frameAt(at, schemas.ClockTick.Name, "", (&schemas.Tick{}).EncodePayload(nil)))
	}
	before := formatNow - (days-2)*86400e9
	add(frameAt(0, schemas.SegmentExpire.Name, "", (&schemas.SegmentExpiry{Before: before}).EncodePayload(nil)))
	return groups
}

// formatSummaries are totals of chats, above and below what their deltas come to.
func formatSummaries() (groups [][]schemas.CommandFrame) {
	for n, tokens := range []int64{1_000_000, 10, 2_000_000} {
		e := schemas.UsageEvent{
			EventID: fmt.Sprint("summary-", n), AppID: "app-1", UserID: "user 1", Model: "unknown", ChatID: fmt.Sprint("chat-", n%2), Timestamp: formatNow,
			InputTokens: tokens, OutputTokens: tokens, TotalTokens: 2 * tokens, Summary: true,
		}
		in := schemas.ParsedBatch{BatchID: fmt.Sprint("summaries-", n), Events: []schemas.UsageEvent{e}}
		b := schemas.SplitBatch(&in, in.BatchID, false, formatPartitions)[formatPartition]
		groups = append(groups, []schemas.CommandFrame{frameAt(1000+int64(n), schemas.UsageIngest.Name, "", b.EncodePayload(nil))})
	}
	return groups
}

func formatEpoch(s *store.Store) [][]schemas.CommandFrame {
	after := s.Applied()
	begin := schemas.EpochBegin{N: after.Epoch + 1, From: after.Seq + 1, After: after}
	return [][]schemas.CommandFrame{{frameAt(2000, schemas.EpochStart.Name, "", begin.EncodePayload(nil))}}
}

// formatAfter is recorded in the second epoch.
func formatAfter() (groups [][]schemas.CommandFrame) {
	r := rand.New(rand.NewPCG(3, 2026))
	for n := range 6 {
		in := schemas.ParsedBatch{BatchID: fmt.Sprint("after-", n)}
		for i := range 4 {
			in.Events = append(in.Events, formatEvent(r, i))
		}
		e := in.Events[0]
		b := schemas.SplitBatch(&in, in.BatchID, false, formatPartitions)[formatPartition]
		groups = append(groups, []schemas.CommandFrame{
			frameAt(3000+int64(n), schemas.UsageIngest.Name, "", b.EncodePayload(nil)),
			frameAt(3000+int64(n), schemas.UsageVoid.Name, e.AppID, (&schemas.EventVoid{EventID: e.EventID}).EncodePayload(nil)),
		})
	}
	return groups
}

// formatEntitlements are manifests of every scope, budgets, holds in every state, and
// what checks have counted.
func formatEntitlements(t testing.TB) (groups [][]schemas.CommandFrame) {
	second := int64(4000)
	add := func(kind, app string, payload []byte) {
		second++
		groups = append(groups, []schemas.CommandFrame{frameAt(second, kind, app, payload)})
	}
	sync := func(text string) {
		m, err := schemas.ParseManifest([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		add(schemas.SyncEntitlement.Name, m.AppID, (&schemas.ManifestSync{Manifest: m}).EncodePayload(nil))
	}
	below := `{"source":"file","manifest":{"version":"1.1","app_id":"app-2","plan":{"tier":"free"},"token_budget":{"period":"monthly","total_tokens":{"limit":9000,"enforcement":"soft"}}}}`
	for _, c := range [][2]string{{schemas.ConfigManifest, below}, {schemas.ConfigSwitches, `{"monetization":false,"enforce":true}`}} {
		add(schemas.ConfigSet.Name, "", schemas.NewConfigChange(c[0], []byte(c[1])).EncodePayload(nil))
	}
	for n, limit := range []int{100_000, 4_000_000} {
		sync(fmt.Sprintf(`{"version":"1.1","app_id":"app-1","revision":%d,"plan":{"tier":"pro"},"features":{"größe":false},"token_budget":{"period":"monthly","rollover":true,`+
			`"burst_allowance":10,"total_tokens":{"limit":%d,"used":5,"enforcement":"hard"},"per_model_limits":{"model-1":{"limit":-1}}},"x":1}`, 3+n, limit))
	}
	sync(`{"version":"1.0","app_id":"app-1","user_id":"user 1","plan":{"tier":"starter"},"token_budget":{"period":"lifetime","input_tokens":{"limit":5000000,"used":4999000,"enforcement":"hard"}},` +
		`"rate_limits":{"requests_per_minute":2,"concurrent_workflows":3},"plugins":{"per_plugin_limits":{"story":{"calls_per_period":5,"period":"daily"}}}}`)
	sync(`{"version":"1.1","app_id":"app-1","tenant_id":"tenant","plan":{"tier":"pro"},"token_budget":{"period":"hourly","output_tokens":{"limit":70000000,"enforcement":"warn"}}}`)
	sub, _, err := schemas.ParseSubscription([]byte(`{"userId":"user 2","plan":"gold","status":"trialing","appId":"app-1"}`))
	if err != nil {
		t.Fatal(err)
	}
	add(schemas.SyncSubscription.Name, "app-1", (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil))
	for n, id := range []string{"settled", "released", "expired", "open", "refused"} {
		r := schemas.BudgetReserve{ReservationID: id, UserID: "user 1", TenantID: "tenant", Model: "model-1", TTL: 3600, Tokens: schemas.Tokens{Total: 100, Input: 40}}
		if id == "expired" {
			r.TTL = 2
		}
		if id == "refused" {
			r.Tokens.Input = int64(n) * 1_000_000
		}
		add(schemas.ReserveBudget.Name, "app-1", r.EncodePayload(nil))
	}
	add(schemas.SettleBudget.Name, "app-1", (&schemas.BudgetSettle{ReservationID: "settled", Event: schemas.UsageEvent{EventID: "of a hold", InputTokens: 30, OutputTokens: 90, TotalTokens: 120}}).EncodePayload(nil))
	add(schemas.ReleaseBudget.Name, "app-1", (&schemas.BudgetRelease{ReservationID: "released"}).EncodePayload(nil))
	add(schemas.ExtendBudget.Name, "app-1", (&schemas.BudgetExtend{ReservationID: "open", TTL: 3600}).EncodePayload(nil))
	for range 3 {
		add(schemas.CheckEntitlement.Name, "app-1", (&schemas.EntitlementCheck{UserID: "user 1", Plugin: "story", Count: true, Needed: 1}).EncodePayload(nil))
	}
	add(schemas.CheckEntitlement.Name, "app-1", (&schemas.EntitlementCheck{Feature: "größe", Count: true, Needed: 1}).EncodePayload(nil))
	return groups
}

// formatRuns are executions of plugins and runs of another runtime, in every state.
func formatRuns(t testing.TB) (groups [][]schemas.CommandFrame) {
	second := int64(5000)
	add := func(kind string, payload []byte) {
		second++
		groups = append(groups, []schemas.CommandFrame{frameAt(second, kind, "app-1", payload)})
	}
	for n, id := range []string{"succeeded", "broken", "stopped", "again", "open"} {
		p := schemas.PluginExecution{
			RunID: id, Plugin: "story", Action: "tell", UserID: "user 2", Username: "Zoë", Roles: []string{"author"}, BodyDigest: [16]byte{byte(n)},
			Data: []byte(fmt.Sprintf(`{"n":%d}`, n)), Timeout: 30e9, QueueTimeout: 3600e9, Rerun: id == "again", Keep: n%2 == 0, Superadmin: n == 1,
		}
		if id == "succeeded" {
			p.Key, p.ChatID = "key ü", "chat-1"
		}
		add(schemas.ExecutePlugin.Name, p.EncodePayload(nil))
	}
	add(schemas.PublishPlugin.Name, (&schemas.PluginPublication{RunID: "succeeded", Attempt: 1, Number: 1, Name: "story.told", Data: []byte(`[1]`)}).EncodePayload(nil))
	add(schemas.FinishPlugin.Name, (&schemas.ExecutionEnd{
		RunID: "succeeded", Attempt: 1, OK: true, Result: []byte(`{"text":"größe"}`), DurationMs: 12,
		Usage: []schemas.UsageEvent{{Model: "model-1", InputTokens: 3, OutputTokens: 4, TotalTokens: 7, Cost: 5}},
	}).EncodePayload(nil))
	add(schemas.FinishPlugin.Name, (&schemas.ExecutionEnd{RunID: "broken", Attempt: 1, Code: schemas.CodePluginError, Detail: "Error executing plugin: x"}).EncodePayload(nil))
	add(schemas.CancelRun.Name, (&schemas.RunCancel{RunID: "stopped", By: "user 2"}).EncodePayload(nil))
	add(schemas.RerunPlugin.Name, (&schemas.ExecutionRerun{RunID: "again", Attempt: 1}).EncodePayload(nil))
	for _, text := range []string{
		`[{"kind":"orchestration.run_started","run_id":"reported","event_id":"r-1","user_id":"user 1","chat_id":"chat.2","workflow_name":"größe","parent_run_id":"succeeded","message":"go"},
		  {"kind":"orchestration.agent_started","run_id":"reported","event_id":"r-2","agent":"Writer","metadata":{"a":[1]}},
		  {"kind":"orchestration.tool_completed","run_id":"reported","event_id":"r-3","tool":"search","status":"failed","error":"none"}]`,
		`[{"kind":"orchestration.run_completed","run_id":"reported","event_id":"r-4","summary":"done","cost":0.25,"total_tokens":9},
		  {"kind":"orchestration.run_failed","run_id":"implied","event_id":"r-5","message":"m","error":"e","code":"C"},
		  {"kind":"orchestration.run_started","run_id":"reported","event_id":"r-6","user_id":"user 1"},
		  {"kind":"orchestration.agent_started","run_id":"implied","event_id":"r-7"}]`,
	} {
		report, err := schemas.ParseRunReport([]byte(text))
		if err != nil || len(report.Rejected) > 0 {
			t.Fatalf("%s: %v %+v", text, err, report.Rejected)
		}
		for _, r := range report.ByApp("app-1") {
			add(schemas.ReportRuns.Name, r.Report.EncodePayload(nil))
		}
	}
	return groups
}

// formatPublished is what others have published: refused, repeated, in conflict, too old,
// refused by its node, and a message that is no command.
func formatPublished() (groups [][]schemas.CommandFrame) {
	second := int64(6000)
	add := func(id, source, kind string, payload []byte) *schemas.CommandFrame {
		second++
		f := frameAt(second, kind, "app-1", payload)
		f.ID, f.Source = id, source
		groups = append(groups, []schemas.CommandFrame{f})
		return &groups[len(groups)-1][0]
	}
	const source = "//crm.example/größe"
	for _, id := range []string{"unknown", "unknown", "another"} {
		add("release-1", source, schemas.ReleaseBudget.Name, (&schemas.BudgetRelease{ReservationID: id}).EncodePayload(nil))
	}
	add("release-2", source, schemas.ReleaseBudget.Name, (&schemas.BudgetRelease{ReservationID: "unknown"}).EncodePayload(nil)).Time = 0
	refusal := schemas.CommandRefusal{Kind: schemas.ExecutePlugin.Name, Digest: [16]byte{7}, Code: schemas.CodeNotFound, Detail: "Plugin 'x' not found or disabled", Subject: "run/x"}
	add("execute-1", source, schemas.RefuseCommand.Name, refusal.EncodePayload(nil))
	letter := schemas.LetterFiling{
		Kind: schemas.UsageVoid.Name, Code: schemas.CodeInvalidJSON, Reason: "not valid JSON at byte 0", Cause: schemas.Cause{ID: "void-1", Source: source},
		Original: schemas.OriginalMessage{
			Subject: "mozaiks.v1.in.platform.0.app-1.usage.void", Headers: map[string][]string{"ce-id": {"void-1"}}, Data: []byte("{\xff"), Sequence: 9, Time: formatNow,
		},
	}
	for range 2 {
		add("1767225600000000000-9", schemas.SourceIn, schemas.FileLetter.Name, letter.EncodePayload(nil))
	}
	return groups
}

// formatDeliveries are places of deliveries: begun, moved, stopped, with a gap, forgotten.
func formatDeliveries() (groups [][]schemas.CommandFrame) {
	second := int64(7000)
	add := func(op schemas.DeliveryOp, stand schemas.DeliveryStand) {
		second++
		m := schemas.DeliveryMark{Op: op, Stand: stand}
		groups = append(groups, []schemas.CommandFrame{frameAt(second, schemas.MarkDelivery.Name, "", m.EncodePayload(nil))})
	}
	add(schemas.DeliveryBegin, schemas.DeliveryStand{Name: "upstream", Source: schemas.DeliverEvents})
	for _, name := range []string{"webhook.crm", "webhook.gone"} {
		add(schemas.DeliveryBegin, schemas.DeliveryStand{Name: name, Source: schemas.DeliverFacts, Seq: 1, Stream: formatCreated})
	}
	add(schemas.DeliverySet, schemas.DeliveryStand{
		Name: "webhook.crm", Source: schemas.DeliverFacts, Seq: 30, Stream: formatCreated, Delivered: 20, Refused: 1, Stopped: "410 Gone", StoppedAt: formatNow,
		Gaps: 1, Gap: schemas.DeliveryGap{From: 5, To: 9, At: formatNow, Until: formatNow - 7},
	})
	add(schemas.DeliveryRemove, schemas.DeliveryStand{Name: "webhook.gone", Source: schemas.DeliverFacts})
	return groups
}

// formatLetters is what becomes of dead letters: sent again, with an answer and refused,
// dead again, dropped. What lies in the store waits.
func formatLetters(t testing.TB, s *store.Store) (groups [][]schemas.CommandFrame) {
	t.Helper()
	second := int64(8000)
	for n := range 4 {
		second++
		f := frameAt(second, "no.such.kind", "app-1", []byte{byte(n)})
		f.ID = fmt.Sprint("dead-", n)
		applyGroups(t, s, [][]schemas.CommandFrame{{f}})
	}
	page, err := s.Letters(&schemas.LetterQuery{Status: schemas.LetterWaiting, Limit: 4})
	if err != nil || len(page.Letters) != 4 {
		t.Fatalf("%d letters wait, %v", len(page.Letters), err)
	}
	release := frameAt(second, schemas.ReleaseBudget.Name, "app-1", (&schemas.BudgetRelease{ReservationID: "unknown"}).EncodePayload(nil))
	reserve := frameAt(second, schemas.ReserveBudget.Name, "app-1", (&schemas.BudgetReserve{ReservationID: "of-a-letter", Tokens: schemas.Tokens{Total: 1}, TTL: 60}).EncodePayload(nil))
	broken := frameAt(second, schemas.UsageVoid.Name, "app-1", []byte{9})
	for i, frame := range []schemas.CommandFrame{release, reserve, broken} {
		frame.ID = fmt.Sprint("of-a-letter-", i)
		second++
		retry := schemas.LetterRetry{ID: page.Letters[i].ID, Frame: frame}
		groups = append(groups, []schemas.CommandFrame{frameAt(second, schemas.RetryLetter.Name, "app-1", retry.EncodePayload(nil))})
	}
	second++
	drop := schemas.LetterDrop{ID: page.Letters[3].ID}
	return append(groups, []schemas.CommandFrame{frameAt(second, schemas.DropLetter.Name, "app-1", drop.EncodePayload(nil))})
}

// describeRuns tells of the runs of an app, newest first, with everything there is of
// each.
func (f *formatFacts) describeRuns(t testing.TB, s *store.Store, app string) {
	t.Helper()
	page, err := s.Runs(schemas.RunQuery{AppID: app, Limit: 1000})
	if err != nil || page.More {
		t.Fatalf("%v, more %v", err, page.More)
	}
	for _, listed := range page.Runs {
		r, err := s.Run(app, listed.ID)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%q %q %q %q %q %q %s %d %d %v %q %q %q %q %v %s %v %d %d %d %d %d", r.ID, r.UserID, r.ChatID, r.Plugin, r.WorkflowName, r.ParentRunID, r.Status,
			r.Attempt, r.Sequence, r.Implicit, r.Message, r.Summary, r.Error, r.Code, r.HasCost, nanoUnits(r.Cost), r.HasTokens, r.TotalTokens,
			r.StartedAt, r.UpdatedAt, r.EndedAt, r.DueAt)
		if x := r.Execution; x != nil {
			text += fmt.Sprintf(" %q %v %q %q %v %q %x %v %v %d %d %d %d %d %d %s", x.Action, x.Consumes, x.Username, x.Roles, x.Superadmin, x.Key, x.BodyDigest, x.Rerun, x.Keep,
				x.Timeout, x.QueueTimeout, x.AcceptedAt, x.Reruns, x.Published, x.DurationMs, r.Result)
		}
		events, _, err := s.RunEvents(app, r.ID, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			text += fmt.Sprintf(" %d:%s", e.Sequence, e.JSON)
		}
		f.Runs = append(f.Runs, app+" "+text)
	}
	open, _, err := s.OpenExecutions(store.Place{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range open {
		if r.AppID == app {
			f.Runs = append(f.Runs, fmt.Sprintf("%s %q is open with %s", app, r.ID, r.Data))
		}
	}
	if r, err := s.RunOfKey(app, "user 2", "story", "key ü"); err != nil {
		t.Fatal(err)
	} else if r != nil {
		f.Runs = append(f.Runs, fmt.Sprintf("%s has a key for %q", app, r.ID))
	}
	if list, err := s.RecountReserved(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("what is set aside is not what a recount gives: %+v, %v", list, err)
	}
}

func formatEvent(r *rand.Rand, index int) schemas.UsageEvent {
	e := schemas.UsageEvent{
		Index: uint32(index), EventID: fmt.Sprintf("event-%d", r.Uint64()), AppID: fmt.Sprint("app-", r.IntN(4)),
		UserID: fmt.Sprint("user ", r.IntN(6)), Model: fmt.Sprint("model-", r.IntN(3)), Timestamp: formatNow - r.Int64N(50*int64(time.Hour)),
		InputTokens: r.Int64N(4000), OutputTokens: r.Int64N(900),
	}
	if index%2 == 0 {
		e.EventID = fmt.Sprintf("%08x-0000-4000-8000-%012x", r.Uint32(), r.Uint64()&0xffffffffffff)
		e.TenantID, e.WorkflowID, e.ChatID, e.RunID = "tenant", "größe", fmt.Sprint("chat-", r.IntN(3)), "run"
		e.AgentName, e.InvocationID, e.Metadata = "agent", "call", []byte(`{"a":[1,"ü"]}`)
		e.CachedTokens, e.ReasoningTokens, e.Cost, e.DurationSec, e.Cached = 3, 4, r.Int64N(1e9), 1.25, true
	}
	e.TotalTokens = e.InputTokens + e.OutputTokens
	return e
}

// groupSource is a stream that goes on behind what a store has applied.
type groupSource struct {
	groups      [][]schemas.CommandFrame
	first, next uint64
}

func (s *groupSource) Open(_ context.Context, at schemas.Checkpoint) (int64, error) {
	s.first, s.next = at.Seq+1, at.Seq+1
	return formatCreated, nil
}

func (s *groupSource) Next(ctx context.Context) (schemas.StreamMessage, error) {
	at := s.next - s.first
	if at >= uint64(len(s.groups)) {
		<-ctx.Done()
		return schemas.StreamMessage{}, ctx.Err()
	}
	n := s.next
	s.next++
	return schemas.StreamMessage{
		Subject: schemas.GroupSubject(formatPartition), Seq: n, Time: time.Unix(0, formatNow+int64(n)*int64(time.Minute)).UTC(),
		Data: schemas.AppendGroup(nil, s.groups[at]),
	}, nil
}

func decodeGroup(m schemas.StreamMessage) (schemas.Group, error) {
	commands, err := schemas.DecodeGroup(m.Data)
	return schemas.Group{ID: fmt.Sprint("group-", m.Seq), Source: "//mozaiks.ai/grout/test", ReplyTo: "reply", Commands: commands}, err
}

// applyGroups applies groups behind what the store has applied, and gives their
// outcomes.
func applyGroups(t testing.TB, s *store.Store, groups [][]schemas.CommandFrame) (outcomes [][]byte) {
	t.Helper()
	want := s.Checkpoint().Seq + uint64(len(groups))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	left := len(groups)
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: &groupSource{groups: groups}, Table: handlers.NewTable(), DecodeGroup: decodeGroup, Logger: slog.New(slog.DiscardHandler),
		Reply: func(_, _ string, list [][]byte) error {
			outcomes = append(outcomes, list...)
			if left--; left == 0 {
				cancel()
			}
			return nil
		},
	})
	if err := loop.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.Checkpoint().Seq; got != want {
		t.Fatalf("applied up to %d, want %d", got, want)
	}
	return outcomes
}

// formatFacts is what a store answers, whatever its file looks like. Lists are texts,
// so that a type that grows a field stays comparable.
type formatFacts struct {
	Position string              `json:"position"` // stream created, sequence, stored at, digest
	Epoch    uint32              `json:"epoch"`
	Origin   int64               `json:"origin,omitempty"` // 0.1.0 had none
	Now      int64               `json:"now"`
	Digests  map[string]string   `json:"app_digests"`
	Totals   map[string]string   `json:"totals"`
	Usage    map[string][]string `json:"usage"`
	Events   map[string][]string `json:"events"` // newest first
	Batches  map[string]string   `json:"batches"`
	Chats    map[string]string   `json:"chats,omitempty"` // 0.1.0 had none
	Entitled map[string]string   `json:"entitled,omitempty"`
	Runs     []string            `json:"runs,omitempty"`
	Sent     []string            `json:"sent,omitempty"` // where deliveries stand
	Letters  []string            `json:"letters,omitempty"`
	Outbox   map[string][]string `json:"outbox"`
	Relayed  map[string]string   `json:"relayed"`
}

var formatApps = []string{"app-0", "app-1", "app-2", "app-3"}

func describe(t testing.TB, s *store.Store) *formatFacts {
	t.Helper()
	at := s.Checkpoint()
	f := &formatFacts{
		Position: fmt.Sprintf("%d %d %d %x", at.StreamCreated, at.Seq, at.StoredAt, at.Digest), Epoch: s.Epoch(), Origin: s.Origin(), Now: s.Now(),
		Totals: map[string]string{}, Usage: map[string][]string{}, Events: map[string][]string{}, Batches: map[string]string{},
		Chats: map[string]string{}, Outbox: map[string][]string{}, Relayed: map[string]string{},
	}
	var err error
	if f.Digests, err = s.AppDigests(t.Context()); err != nil {
		t.Fatal(err)
	}
	for app, sum := range f.Digests { // release 0.1.0 knew no chats
		sum, _, _ = strings.Cut(sum, "@")
		sum, _, _ = strings.Cut(sum, "#")
		f.Digests[app], _, _ = strings.Cut(sum, "/")
	}
	for _, app := range formatApps {
		f.describeApp(t, s, app)
		f.describeEntitled(t, s, app)
		f.describeRuns(t, s, app)
	}
	sent, err := s.Deliveries()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range sent {
		f.Sent = append(f.Sent, fmt.Sprintf("%+v", d))
	}
	letters, err := s.Letters(&schemas.LetterQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range letters.Letters {
		f.Letters = append(f.Letters, string(letters.Letters[i].AppendJSON(nil)))
	}
	for _, dest := range []string{schemas.DestFacts, schemas.DestDeadLetters} {
		st, err := s.Relayed(dest)
		if err != nil {
			t.Fatal(err)
		}
		f.Relayed[dest] = fmt.Sprintf("%s marker %d", place(st.After), st.MarkerSeq)
		list, err := s.Facts(dest, st.After, 10_000, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			sum := sha256.Sum256(m.Data)
			f.Outbox[dest] = append(f.Outbox[dest], fmt.Sprintf("%s %s %s", place(m.At), m.Subject, hex.EncodeToString(sum[:8])))
		}
	}
	return f
}

// describeEntitled tells what somebody of an app is entitled to, and what became of holds.
func (f *formatFacts) describeEntitled(t testing.TB, s *store.Store, app string) {
	t.Helper()
	tell := func(name, what string) {
		if f.Entitled == nil {
			f.Entitled = map[string]string{}
		}
		f.Entitled[app+" "+name] = what
	}
	standing := handlers.NewStanding(s)
	for _, who := range [][2]string{{"", ""}, {"tenant", ""}, {"tenant", "user 1"}, {"", "user 2"}} {
		check := &schemas.EntitlementCheck{TenantID: who[0], UserID: who[1], Plugin: "story", Feature: "größe", Needed: 1}
		q := handlers.Question{AppID: app, TenantID: who[0], UserID: who[1], Check: check}
		v, err := standing.View(&q, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Layers) == 0 {
			continue
		}
		e, d := entitlements.Effective(v), entitlements.Check(v, check)
		tell(fmt.Sprintf("%q", who), string(e.AppendJSON(nil))+" "+string(d.AppendCheck(nil, app, true)))
	}
	for _, id := range []string{"settled", "released", "expired", "open", "refused"} {
		h, err := s.Hold(app, id)
		if err != nil {
			t.Fatal(err)
		}
		if h != nil {
			tell("hold "+id, fmt.Sprintf("%d %v %v %d %d %q %s", h.State, h.Tokens, h.Settled, h.ExpiresAt, h.ClosedAt, h.EventID, h.Answer))
		}
	}
	if list, err := s.RecountBudgets(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("counters are not what a recount gives: %+v, %v", list, err)
	}
}

func place(p schemas.Position) string {
	return fmt.Sprintf("%d/%d/%d/%d", p.Epoch, p.Seq, p.Index, p.N)
}

func sums(s *schemas.UsageSums) string {
	return fmt.Sprint(s.Events, s.InputTokens, s.OutputTokens, s.TotalTokens, s.CachedTokens, s.ReasoningTokens) + " " + nanoUnits(s.Cost)
}

func (f *formatFacts) describeApp(t testing.TB, s *store.Store, app string) {
	t.Helper()
	report, err := s.Usage(t.Context(), schemas.UsageQuery{
		AppID: app, From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowHour, MaxRows: 10_000,
		GroupBy: []schemas.Dimension{schemas.ByTenant, schemas.ByUser, schemas.ByWorkflow, schemas.ByModel},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Totals[app] = sums(&report.Totals)
	for i := range report.Rows {
		row := &report.Rows[i]
		f.Usage[app] = append(f.Usage[app], fmt.Sprintf("%s %q %s", row.WindowStart.UTC().Format(time.RFC3339), row.Group, sums(&row.UsageSums)))
	}
	for _, e := range eventsOf(t, s, app) {
		f.Events[app] = append(f.Events[app], string(e.AppendJSON(nil)))
	}
	for n := range 3 {
		id := fmt.Sprint("chat-", n)
		c, err := s.Chat(t.Context(), app, id)
		if err != nil {
			t.Fatal(err)
		}
		if c != nil {
			f.Chats[app+" "+id] = fmt.Sprintf("%q %s", c.UserID, sums(&c.Totals))
		}
	}
	for n := range 150 {
		id := fmt.Sprint("batch-", n)
		st, found, err := s.BatchOfApp(t.Context(), app, id)
		if err != nil {
			t.Fatal(err)
		}
		if o := st.Outcome; found {
			f.Batches[app+" "+id] = fmt.Sprint(st.Applied, o.Accepted, o.Duplicates, o.Rejected, o.Replayed, o.Conflict, o.Errors)
		}
	}
}

func eventsOf(t testing.TB, s *store.Store, app string) (list []schemas.LoggedEvent) {
	t.Helper()
	q := schemas.EventQuery{AppID: app, From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 100}
	for range 100 {
		page, err := s.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, page.Events...)
		if !page.More {
			return list
		}
		q.Before = page.Next
	}
	t.Fatal("the events do not end")
	return nil
}

// nanoUnits gives a cost as the whole number that releases before wrote down.
func nanoUnits(a schemas.Amount) string {
	units, _ := new(big.Rat).SetString(a.String())
	return units.Mul(units, big.NewRat(schemas.NanosPerUnit, 1)).FloatString(0)
}
