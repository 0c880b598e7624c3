package handlers

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// entitled is a world whose apps have budgets; time is that of its next command.
type entitled struct {
	*world
	t    testing.TB
	now  int64
	path string
	n    int
}

func newEntitled(t testing.TB) *entitled {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.db")
	w := &entitled{world: newWorld(t, openStore(t, path, 0, 1, 300)), t: t, now: testNow, path: path}
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

// frame makes a command of an app.
func (w *entitled) frame(kind, app string, payload []byte) schemas.CommandFrame {
	w.n++
	return schemas.CommandFrame{Kind: kind, AppID: app, ID: fmt.Sprint("c", w.n), Source: "//mozaiks.ai/grout/t", Time: w.now, Accepted: w.now, Payload: payload}
}

func (w *entitled) do(kind, app string, payload []byte) (o schemas.CommandOutcome) {
	w.t.Helper()
	out := w.apply(w.frame(kind, app, payload))[0]
	if err := o.Decode(out); err != nil {
		w.t.Fatalf("%s: outcome %x: %v", kind, out, err)
	}
	return o
}

func manifestOf(t testing.TB, text string) *schemas.Manifest {
	t.Helper()
	m, err := schemas.ParseManifest([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// sync syncs a manifest of app a; more are members of it.
func (w *entitled) sync(more string) schemas.CommandOutcome {
	w.t.Helper()
	return w.syncText(`{"version":"1.1","app_id":"a","plan":{"tier":"pro"}` + more + `}`)
}

func (w *entitled) syncText(text string) schemas.CommandOutcome {
	w.t.Helper()
	m := manifestOf(w.t, text)
	return w.do(schemas.SyncEntitlement.Name, m.AppID, (&schemas.ManifestSync{Manifest: m}).EncodePayload(nil))
}

func (w *entitled) reserve(id, user, tenant, model string, tokens, seconds int64) schemas.CommandOutcome {
	w.t.Helper()
	r := schemas.BudgetReserve{ReservationID: id, UserID: user, TenantID: tenant, Model: model, Tokens: schemas.Tokens{Total: tokens}, TTL: seconds}
	return w.do(schemas.ReserveBudget.Name, "a", r.EncodePayload(nil))
}

func (w *entitled) settle(id, eventID string, input, output int64) schemas.CommandOutcome {
	w.t.Helper()
	s := schemas.BudgetSettle{ReservationID: id, Event: schemas.UsageEvent{EventID: eventID, InputTokens: input, OutputTokens: output, TotalTokens: input + output}}
	return w.do(schemas.SettleBudget.Name, "a", s.EncodePayload(nil))
}

func (w *entitled) release(id string) schemas.CommandOutcome {
	w.t.Helper()
	return w.do(schemas.ReleaseBudget.Name, "a", (&schemas.BudgetRelease{ReservationID: id}).EncodePayload(nil))
}

func (w *entitled) extend(id string, seconds int64) schemas.CommandOutcome {
	w.t.Helper()
	return w.do(schemas.ExtendBudget.Name, "a", (&schemas.BudgetExtend{ReservationID: id, TTL: seconds}).EncodePayload(nil))
}

func (w *entitled) check(c schemas.EntitlementCheck) (o schemas.CommandOutcome, d schemas.CheckData) {
	w.t.Helper()
	o = w.do(schemas.CheckEntitlement.Name, "a", c.EncodePayload(nil))
	if err := json.Unmarshal(o.Body, &d); err != nil {
		w.t.Fatalf("%s: %v", o.Body, err)
	}
	return o, d
}

func (w *entitled) config(name, content string) {
	w.t.Helper()
	if o := w.do(schemas.ConfigSet.Name, "", schemas.NewConfigChange(name, []byte(content)).EncodePayload(nil)); o.Code != "" {
		w.t.Fatal(o)
	}
}

// used ingests tokens of app a at an instant.
func (w *entitled) used(user, tenant, model string, tokens, at int64) {
	w.t.Helper()
	w.n++
	e := schemas.UsageEvent{
		EventID: fmt.Sprint("e", w.n), Timestamp: at, AppID: "a", UserID: user, TenantID: tenant, Model: model, InputTokens: tokens, TotalTokens: tokens,
	}
	frame := batchFrames(fmt.Sprint("b", w.n), w.now, 1, e)[0]
	frame.ID = fmt.Sprint("c", w.n)
	w.apply(frame)
}

func (w *entitled) tickNow() {
	w.t.Helper()
	w.do(schemas.ClockTick.Name, "", (&schemas.Tick{}).EncodePayload(nil))
}

// counters gives the counters of a scope as one line each: allocation, used, imported,
// reserved, carry.
func (w *entitled) counters(scope schemas.Scope) string {
	w.t.Helper()
	var lines []string
	err := w.store.Look(func(l *store.Look) error {
		b, err := l.Budget("a", scope)
		if err != nil || b == nil {
			return err
		}
		for _, c := range b.Counters {
			lines = append(lines, fmt.Sprintf("%s %s used %d imported %d reserved %d carry %d", c.Allocation, shortTime(c.Start), c.Used, c.Imported, c.Reserved, c.Carry))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func shortTime(at int64) string {
	if at == 0 {
		return "always"
	}
	return time.Unix(0, at).UTC().Format("01-02T15")
}

// recounted holds the counters against the usage and the holds that there are.
func (w *entitled) recounted() {
	w.t.Helper()
	list, err := w.store.RecountBudgets(w.t.Context())
	if err != nil || len(list) > 0 {
		w.t.Errorf("counters are not what a recount gives: %+v, %v", list, err)
	}
}

// told lists the facts of entitlements and budgets since the last call: kind, subject
// and threshold.
func (w *entitled) told() (list []string) {
	w.t.Helper()
	messages, err := w.store.Facts(schemas.DestFacts, schemas.Position{}, 1<<20, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range messages {
		var f struct {
			Type, Subject string
			Data          struct {
				Threshold  int    `json:"threshold"`
				Allocation string `json:"allocation"`
				Name       string `json:"name"`
				Feature    string `json:"feature"`
				Code       string `json:"code"`
			}
		}
		if err := json.Unmarshal(m.Data, &f); err != nil {
			w.t.Fatalf("%s: %v", m.Data, err)
		}
		kind := strings.TrimSuffix(strings.TrimPrefix(f.Type, "ai.mozaiks."), ".v1")
		if strings.HasPrefix(kind, "usage.") || strings.HasPrefix(kind, "chat.") {
			continue
		}
		line := kind + " " + f.Subject
		for _, s := range []string{f.Data.Allocation, f.Data.Name, f.Data.Feature, f.Data.Code} {
			if s != "" {
				line += " " + s
			}
		}
		if f.Data.Threshold > 0 {
			line += fmt.Sprint(" ", f.Data.Threshold)
		}
		list = append(list, line)
	}
	w.published()
	return list
}

func (w *entitled) view(q Question) *entitlements.View {
	w.t.Helper()
	v, err := NewStanding(w.store).View(&q, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

var wholeApp = schemas.Scope{Kind: schemas.ScopeApp}

func want(t testing.TB, what, got, wanted string) {
	t.Helper()
	if got != wanted {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, wanted)
	}
}

func wantTold(t testing.TB, got []string, wanted ...string) {
	t.Helper()
	want(t, "facts", strings.Join(got, "\n"), strings.Join(wanted, "\n"))
}
