package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// budgetModel says what the rules of contract §5.2 come to by the plainest means: it
// keeps every event and every hold, and adds them up whenever it is asked.
type budgetModel struct {
	now    int64
	apps   map[string]*modelApp
	below  *modelBudget // of app-0
	config string       // that said so
	strict bool
}

type modelApp struct {
	synced map[schemas.Scope]*modelBudget // by its newest manifest
	stands map[schemas.Scope]map[string]*modelCounter
	events []*modelUsage
	holds  []*schemas.Hold
	checks map[schemas.Scope][]int64 // instants of counted checks
}

// modelBudget is what a manifest says.
type modelBudget struct {
	Revision int64
	Canceled bool
	Period   string // empty: no token budget
	Rollover bool
	Burst    int64
	Promo    int64
	Limits   map[string]modelLimit
	PerHour  int64 // requests_per_hour; 0: not limited
}

type modelLimit struct {
	Limit, Used int64
	Enforcement string
}

// modelCounter is what follows from history and not from events: which period it is,
// and what came into it from outside.
type modelCounter struct {
	period          string
	start, end      int64
	carry, imported int64
}

type modelUsage struct {
	id, user, tenant, model string
	at                      int64
	tokens                  schemas.Tokens
	voided                  bool
}

func (b *modelBudget) manifest(app string, scope schemas.Scope) string {
	status := "active"
	if b.Canceled {
		status = "canceled"
	}
	m := map[string]any{"version": "1.1", "app_id": app, "plan": map[string]any{"tier": "pro", "status": status}}
	if b.Revision > 0 {
		m["revision"] = b.Revision
	}
	switch scope.Kind {
	case schemas.ScopeUser:
		m["user_id"] = scope.ID
	case schemas.ScopeTenant:
		m["tenant_id"] = scope.ID
	}
	if b.Period != "" {
		t := map[string]any{"period": b.Period, "rollover": b.Rollover, "burst_allowance": b.Burst}
		models := map[string]any{}
		for name, l := range b.Limits {
			a := map[string]any{"limit": l.Limit, "used": l.Used, "enforcement": l.Enforcement}
			if model, ok := schemas.ModelOf(name); ok {
				models[model] = a
			} else {
				t[name] = a
			}
		}
		if len(models) > 0 {
			t["per_model_limits"] = models
		}
		m["token_budget"] = t
	}
	if b.Promo > 0 {
		m["overrides"] = map[string]any{"promotional_tokens": b.Promo}
	}
	if b.PerHour > 0 {
		m["rate_limits"] = map[string]any{"requests_per_hour": b.PerHour}
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// modelPeriod gives a calendar period by the calendar alone.
func modelPeriod(period string, at int64) (start, end int64) {
	t := time.Unix(0, at).UTC()
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch period {
	case "hourly":
		return t.Truncate(time.Hour).UnixNano(), t.Truncate(time.Hour).Add(time.Hour).UnixNano()
	case "daily":
		return day.UnixNano(), day.AddDate(0, 0, 1).UnixNano()
	case "weekly":
		for day.Weekday() != time.Monday {
			day = day.AddDate(0, 0, -1)
		}
		return day.UnixNano(), day.AddDate(0, 0, 7).UnixNano()
	case "monthly":
		first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
		return first.UnixNano(), first.AddDate(0, 1, 0).UnixNano()
	}
	return 0, 0
}

func (m *budgetModel) app(name string) *modelApp {
	a := m.apps[name]
	if a == nil {
		a = &modelApp{
			synced: map[schemas.Scope]*modelBudget{}, stands: map[schemas.Scope]map[string]*modelCounter{}, checks: map[schemas.Scope][]int64{},
		}
		m.apps[name] = a
	}
	return a
}

// budget gives the token budget of a scope, with what is promised beside it.
func (m *budgetModel) budget(app string, scope schemas.Scope) *modelBudget {
	b := m.app(app).synced[scope]
	if scope.Kind == schemas.ScopeApp && app == "app-0" && m.below != nil && (b == nil || b.Period == "") {
		merged := *m.below
		if b != nil && b.Promo > 0 {
			merged.Promo = b.Promo
		}
		return &merged
	}
	if b == nil || b.Period == "" {
		return nil
	}
	merged := *b
	if scope.Kind == schemas.ScopeApp && app == "app-0" && m.below != nil && b.Promo == 0 {
		merged.Promo = m.below.Promo
	}
	return &merged
}

func (u *modelUsage) amount(allocation string) int64 {
	if u.voided {
		return 0
	}
	return u.tokens.Amount(allocation, u.model)
}

func inModelScope(s schemas.Scope, user, tenant string) bool {
	return s.Kind == schemas.ScopeApp || s.Kind == schemas.ScopeUser && s.ID == user || s.Kind == schemas.ScopeTenant && s.ID == tenant
}

// sum adds up usage of a scope inside a period.
func (a *modelApp) sum(s schemas.Scope, allocation string, start, end int64) (n int64) {
	for _, u := range a.events {
		if inModelScope(s, u.user, u.tenant) && u.at >= start && (end == 0 || u.at < end) {
			n += u.amount(allocation)
		}
	}
	return n
}

// roll brings every counter to the period of now.
func (m *budgetModel) roll() {
	for name, a := range m.apps {
		for scope, counters := range a.stands {
			b := m.budget(name, scope)
			for allocation, c := range counters {
				if c.end == 0 || m.now < c.end {
					continue
				}
				if b == nil || b.Limits[allocation].Enforcement == "" { // not named any more
					delete(counters, allocation)
					continue
				}
				start, end := modelPeriod(c.period, m.now)
				before, _ := modelPeriod(c.period, start-1)
				used := a.sum(scope, allocation, before, start)
				if c.end == start {
					used += c.imported
				}
				next := &modelCounter{period: c.period, start: start, end: end}
				if b.Rollover && b.Limits[allocation].Limit >= 0 {
					next.carry = max(0, b.Limits[allocation].Limit+b.promo(allocation)-used)
				}
				counters[allocation] = next
			}
		}
	}
}

func (b *modelBudget) promo(allocation string) int64 {
	if allocation == schemas.AllocationTotal {
		return b.Promo
	}
	return 0
}

// settleDue ends the holds whose time is over.
func (m *budgetModel) settleDue() {
	for _, a := range m.apps {
		for _, h := range a.holds {
			if h.State == schemas.HoldOpen && m.now >= h.ExpiresAt {
				h.State = schemas.HoldExpired
			}
		}
	}
}

// rename gives a scope the counters that are named now. Pushed figures count when they
// come, with the manifest below or the app's own.
func (m *budgetModel) rename(app string, scope schemas.Scope, below bool) {
	a, b := m.app(app), m.budget(app, scope)
	if b == nil {
		return // what was counted stays to the end of its period
	}
	old := a.stands[scope]
	counters := map[string]*modelCounter{}
	for allocation, c := range old {
		if c.period == b.Period {
			counters[allocation] = c
		}
	}
	for allocation, l := range b.Limits {
		c := old[allocation]
		if c == nil || c.period != b.Period {
			c = &modelCounter{period: b.Period}
			c.start, c.end = modelPeriod(b.Period, m.now)
		}
		own := a.synced[scope] != nil && a.synced[scope].Period != ""
		if by := l.Used - a.sum(scope, allocation, c.start, c.end) - c.imported; by > 0 && own != below {
			c.imported += by
		}
		counters[allocation] = c
	}
	a.stands[scope] = counters
}

func (a *modelApp) reserved(s schemas.Scope, allocation string) (n int64) {
	for _, h := range a.holds {
		if h.State == schemas.HoldOpen && inModelScope(s, h.UserID, h.TenantID) {
			n += h.Tokens.Amount(allocation, h.Model)
		}
	}
	return n
}

// stand is what a counter shows.
type stand struct{ Used, Imported, Reserved, Carry, Start int64 }

func (m *budgetModel) stand(app string, s schemas.Scope, allocation string) stand {
	a := m.app(app)
	c := a.stands[s][allocation]
	return stand{a.sum(s, allocation, c.start, c.end) + c.imported, c.imported, a.reserved(s, allocation), c.carry, c.start}
}

// reserve says what becomes of a reservation.
func (m *budgetModel) reserve(app string, r *schemas.BudgetReserve) schemas.Code {
	a := m.app(app)
	for _, h := range a.holds {
		if h.ID == r.ReservationID {
			if h.State == schemas.HoldOpen {
				return ""
			}
			return schemas.CodeReservationOver
		}
	}
	scopes := schemas.ScopesOf(r.TenantID, r.UserID)
	over := m.canceled(app, scopes)
	code := schemas.Code("")
	for _, s := range scopes {
		b := m.budget(app, s)
		if b == nil {
			continue
		}
		for _, name := range []string{schemas.AllocationTotal, schemas.AllocationInput, schemas.AllocationOutput, schemas.ModelAllocation(r.Model)} {
			l, named := b.Limits[name]
			if !named || code != "" || l.Enforcement != "hard" {
				continue
			}
			x := m.stand(app, s, name)
			taken, needed := x.Used+x.Reserved, r.Tokens.Amount(name, r.Model)
			limit := (l.Limit+b.promo(name))*(100+b.Burst)/100 + x.Carry
			if !b.Rollover {
				limit -= x.Carry
			}
			switch {
			case over:
				code = schemas.CodePlanExpired
			case l.Limit >= 0 && (taken+needed > limit || needed == 0 && taken >= limit):
				code = schemas.CodeBudgetExceeded
			}
		}
	}
	if code == "" || !m.strict {
		h := entitlements.Grant(app, r, m.now)
		a.holds = append(a.holds, &h)
		return ""
	}
	return code
}

// canceled reports whether the plan of somebody is over: that of the app, or the most
// specific one.
func (m *budgetModel) canceled(app string, scopes []schemas.Scope) bool {
	a := m.app(app)
	whole := a.synced[wholeApp]
	if whole == nil && app == "app-0" {
		whole = m.below
	}
	if whole != nil && whole.Canceled {
		return true
	}
	for _, s := range scopes {
		if b := a.synced[s]; b != nil {
			return b.Canceled
		}
	}
	return false
}

// rate says whether a check that counts is allowed.
func (m *budgetModel) rate(app, user string) bool {
	a := m.app(app)
	for _, s := range schemas.ScopesOf("", user) {
		b := a.synced[s]
		if b == nil && s == wholeApp && app == "app-0" {
			b = m.below
		}
		if s == wholeApp && b != nil && b.PerHour == 0 && app == "app-0" && m.below != nil {
			b = m.below
		}
		if b == nil || b.PerHour == 0 {
			continue
		}
		const part = int64(time.Minute)
		used, oldest := int64(0), int64(0)
		for _, at := range a.checks[s] {
			switch age := m.now/part - at/part; {
			case age < 60:
				used++
			case age == 60:
				oldest++
			}
		}
		used += (oldest*(part-m.now%part) + part - 1) / part
		if used+1 > b.PerHour {
			return !m.strict
		}
		a.checks[s] = append(a.checks[s], m.now)
		return true
	}
	return true
}

// drawing makes random commands and what the model says of them.
type drawing struct {
	r     *rand.Rand
	model *budgetModel
	n     int
}

type drawn struct {
	frame schemas.CommandFrame
	code  schemas.Code
	check *bool // whether a check is allowed
}

func (d *drawing) pick(n int) int { return d.r.IntN(n) }

func (d *drawing) who() (user, tenant, model string) {
	user, tenant, model = fmt.Sprint("u", d.pick(3)), "", fmt.Sprint("m", d.pick(2))
	if d.pick(2) == 0 {
		tenant = fmt.Sprint("t", d.pick(2))
	}
	return user, tenant, model
}

func (d *drawing) budget() *modelBudget {
	b := &modelBudget{Canceled: d.pick(12) == 0}
	if d.pick(3) == 0 {
		b.PerHour = int64(1 + d.pick(3))
	}
	if d.pick(4) == 0 {
		b.Promo = int64(d.pick(300))
	}
	if d.pick(6) == 0 {
		return b
	}
	b.Period = []string{"hourly", "daily", "weekly", "monthly", "lifetime"}[d.pick(5)]
	b.Rollover, b.Burst = d.pick(2) == 0, int64(d.pick(2)*d.pick(60))
	b.Limits = map[string]modelLimit{}
	for _, name := range []string{schemas.AllocationTotal, schemas.AllocationInput, schemas.AllocationOutput, "model:m0", "model:m1"} {
		if name != schemas.AllocationTotal && d.pick(2) == 0 {
			continue
		}
		l := modelLimit{Limit: int64(d.pick(4000)), Enforcement: []string{"hard", "hard", "soft", "warn", "none"}[d.pick(5)]}
		if d.pick(8) == 0 {
			l.Limit = schemas.Unlimited
		}
		if d.pick(3) == 0 {
			l.Used = int64(d.pick(900))
		}
		b.Limits[name] = l
	}
	return b
}

func (d *drawing) scope() schemas.Scope {
	switch d.pick(4) {
	case 0:
		return schemas.Scope{Kind: schemas.ScopeUser, ID: fmt.Sprint("u", d.pick(3))}
	case 1:
		return schemas.Scope{Kind: schemas.ScopeTenant, ID: fmt.Sprint("t", d.pick(2))}
	}
	return wholeApp
}

// next draws a command and lets the model apply it.
func (d *drawing) next(t rapid.TB) drawn {
	m := d.model
	d.n++
	switch d.pick(40) {
	case 0:
		m.now += d.r.Int64N(int64(60 * 24 * time.Hour / 10))
	case 1, 2, 3, 4, 5, 6, 7:
		m.now += d.r.Int64N(int64(40 * time.Minute))
	default:
		m.now += d.r.Int64N(int64(2 * time.Minute))
	}
	m.roll()
	app := fmt.Sprint("app-", d.pick(3))
	a := m.app(app)
	user, tenant, model := d.who()
	frame := func(kind, app string, payload []byte) schemas.CommandFrame {
		return schemas.CommandFrame{Kind: kind, AppID: app, ID: fmt.Sprint("c", d.n), Source: "//mozaiks.ai/grout/t", Time: m.now, Accepted: m.now, Payload: payload}
	}
	switch n := d.pick(100); {
	case n < 12:
		return d.sync(t, app, frame)
	case n < 45:
		u := &modelUsage{id: fmt.Sprint("e", d.n), user: user, tenant: tenant, model: model, at: m.now - d.r.Int64N(int64(3*24*time.Hour))}
		if d.pick(2) == 0 {
			u.at = m.now + d.r.Int64N(int64(20*time.Hour)) - int64(10*time.Minute)
		}
		u.tokens = schemas.Tokens{Input: d.r.Int64N(150), Output: d.r.Int64N(80)}
		u.tokens.Total = u.tokens.Input + u.tokens.Output
		a.events = append(a.events, u)
		e := schemas.UsageEvent{
			EventID: u.id, Timestamp: u.at, AppID: app, UserID: user, TenantID: tenant, Model: model,
			InputTokens: u.tokens.Input, OutputTokens: u.tokens.Output, TotalTokens: u.tokens.Total,
		}
		f := batchFrames(fmt.Sprint("b", d.n), m.now, 1, e)[0]
		f.ID = fmt.Sprint("c", d.n)
		return drawn{frame: f}
	case n < 50 && len(a.events) > 0:
		u := a.events[d.pick(len(a.events))]
		v := schemas.EventVoid{EventID: u.id}
		code := schemas.Code("")
		if !u.voided && u.at < m.now-schemas.MaxEventAge {
			code = schemas.CodeEventExpired
		} else {
			u.voided = true
		}
		return drawn{frame: frame(schemas.UsageVoid.Name, app, v.EncodePayload(nil)), code: code}
	case n < 66:
		m.settleDue()
		r := schemas.BudgetReserve{
			ReservationID: fmt.Sprint("r", d.pick(d.n+1)), UserID: user, TenantID: tenant, Model: model, TTL: 1 + d.r.Int64N(3600),
			Tokens: schemas.Tokens{Total: d.r.Int64N(1200), Input: d.r.Int64N(500)},
		}
		return drawn{frame: frame(schemas.ReserveBudget.Name, app, r.EncodePayload(nil)), code: m.reserve(app, &r)}
	case n < 88:
		return d.onHold(app, frame)
	case n < 93:
		c := schemas.EntitlementCheck{UserID: user, Count: true, Needed: 1, Limit: "requests_per_hour"}
		allowed := m.rate(app, user)
		return drawn{frame: frame(schemas.CheckEntitlement.Name, app, c.EncodePayload(nil)), check: &allowed}
	case n < 97:
		m.settleDue()
		return drawn{frame: frame(schemas.ClockTick.Name, "", (&schemas.Tick{}).EncodePayload(nil))}
	case n < 98:
		m.strict = d.pick(3) > 0
		content := fmt.Sprintf(`{"monetization":false,"enforce":%t}`, m.strict)
		return drawn{frame: frame(schemas.ConfigSet.Name, "", schemas.NewConfigChange(schemas.ConfigSwitches, []byte(content)).EncodePayload(nil))}
	default:
		content := `{"source":"file","manifest":null}`
		m.below = nil
		if d.pick(3) > 0 {
			m.below = d.budget()
			content = `{"source":"file","manifest":` + m.below.manifest("app-0", wholeApp) + `}`
		}
		if content != m.config {
			m.rename("app-0", wholeApp, true)
		}
		m.config = content
		return drawn{frame: frame(schemas.ConfigSet.Name, "", schemas.NewConfigChange(schemas.ConfigManifest, []byte(content)).EncodePayload(nil))}
	}
}

func (d *drawing) sync(t rapid.TB, app string, frame func(string, string, []byte) schemas.CommandFrame) drawn {
	m, scope := d.model, d.scope()
	b, a := d.budget(), d.model.app(app)
	have, code := a.synced[scope], schemas.Code("")
	b.Revision = int64(d.pick(2) * d.n)
	if have != nil && d.pick(6) == 0 {
		b.Revision = have.Revision
	}
	text := b.manifest(app, scope)
	switch {
	case have != nil && b.Revision > 0 && b.Revision <= have.Revision:
		code = schemas.CodeStaleRevision
		if have.manifest(app, scope) == text {
			code = ""
		}
	default:
		if b.Revision == 0 {
			b.Revision = 1
			if have != nil {
				b.Revision = have.Revision + 1
			}
			if have != nil && sameButRevision(have, b) {
				b.Revision = have.Revision
				return drawn{frame: frame(schemas.SyncEntitlement.Name, app, (&schemas.ManifestSync{Manifest: manifestFrom(t, text)}).EncodePayload(nil))}
			}
		}
		a.synced[scope] = b
		m.rename(app, scope, false)
	}
	return drawn{frame: frame(schemas.SyncEntitlement.Name, app, (&schemas.ManifestSync{Manifest: manifestFrom(t, text)}).EncodePayload(nil)), code: code}
}

func sameButRevision(a, b *modelBudget) bool {
	x, y := *a, *b
	x.Revision, y.Revision = 0, 0
	return x.manifest("a", wholeApp) == y.manifest("a", wholeApp)
}

func manifestFrom(t rapid.TB, text string) *schemas.Manifest {
	t.Helper()
	m, err := schemas.ParseManifest([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

func (d *drawing) onHold(app string, frame func(string, string, []byte) schemas.CommandFrame) drawn {
	m, a := d.model, d.model.app(app)
	id, h := "none", (*schemas.Hold)(nil)
	if len(a.holds) > 0 && d.pick(10) > 0 {
		h = a.holds[len(a.holds)-1-d.pick(min(len(a.holds), 6))]
		id = h.ID
		if h.State == schemas.HoldOpen && m.now >= h.ExpiresAt {
			h.State = schemas.HoldExpired
		}
	}
	code := schemas.Code("")
	if h == nil {
		code = schemas.CodeNotFound
	}
	switch d.pick(4) {
	case 0:
		seconds := 1 + d.r.Int64N(3600)
		if h != nil && h.State != schemas.HoldOpen {
			code = schemas.CodeReservationOver
		} else if h != nil {
			h.ExpiresAt = max(h.ExpiresAt, m.now+seconds*int64(time.Second))
		}
		return drawn{frame: frame(schemas.ExtendBudget.Name, app, (&schemas.BudgetExtend{ReservationID: id, TTL: seconds}).EncodePayload(nil)), code: code}
	case 1:
		switch {
		case h != nil && h.State != schemas.HoldOpen && h.State != schemas.HoldReleased:
			code = schemas.CodeReservationOver
		case h != nil:
			h.State = schemas.HoldReleased
		}
		return drawn{frame: frame(schemas.ReleaseBudget.Name, app, (&schemas.BudgetRelease{ReservationID: id}).EncodePayload(nil)), code: code}
	}
	u := &modelUsage{id: fmt.Sprint("s", d.n), at: m.now, tokens: schemas.Tokens{Total: d.r.Int64N(1500)}}
	u.tokens.Input = u.tokens.Total / 2
	u.tokens.Output = u.tokens.Total - u.tokens.Input
	switch {
	case h != nil && h.State == schemas.HoldSettled:
		code = schemas.CodeAlreadySettled
		if d.pick(2) == 0 {
			u.id, code = h.EventID, ""
		}
	case h != nil:
		h.State, h.EventID = schemas.HoldSettled, u.id
		u.user, u.tenant, u.model = h.UserID, h.TenantID, h.Model
		a.events = append(a.events, u)
	}
	s := schemas.BudgetSettle{ReservationID: id, Event: schemas.UsageEvent{
		EventID: u.id, InputTokens: u.tokens.Input, OutputTokens: u.tokens.Output, TotalTokens: u.tokens.Total,
	}}
	return drawn{frame: frame(schemas.SettleBudget.Name, app, s.EncodePayload(nil)), code: code}
}

// standsOf reads every counter of a store, as they are for a command at an instant.
func standsOf(t rapid.TB, s *store.Store, now int64) map[string]stand {
	t.Helper()
	got := map[string]stand{}
	standing := NewStanding(s)
	for i := range 3 {
		for _, tenant := range []string{"", "t0", "t1"} {
			for _, user := range []string{"", "u0", "u1", "u2"} {
				app := fmt.Sprint("app-", i)
				v, err := standing.View(&Question{AppID: app, UserID: user, TenantID: tenant}, now)
				if err != nil {
					t.Fatal(err)
				}
				for key, c := range v.Counters {
					got[fmt.Sprint(app, " ", key.Scope.Kind, " ", key.Scope.ID, " ", key.Allocation)] = stand{c.Used, c.Imported, c.Reserved, c.Carry, c.Start}
				}
			}
		}
	}
	return got
}

func (m *budgetModel) all() map[string]stand {
	m.settleDue()
	want := map[string]stand{}
	for app, a := range m.apps {
		for scope := range a.stands {
			b := m.budget(app, scope)
			if b == nil {
				continue
			}
			for allocation := range b.Limits {
				want[fmt.Sprint(app, " ", scope.Kind, " ", scope.ID, " ", allocation)] = m.stand(app, scope, allocation)
			}
		}
	}
	return want
}

// Random syncs, usage, holds, checks, ticks and configuration, with restarts: every
// decision and every counter is the model's, a recount gives the same, and a replay the
// same bytes, however many messages share a transaction.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &drawing{
			r:     rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
			model: &budgetModel{now: testNow, apps: map[string]*modelApp{}, strict: true},
		}
		dir, err := os.MkdirTemp("", "budgets")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "s.db")
		open := func(path string) *store.Store {
			s, err := store.Open(path, store.Options{Partitions: 1, FoldEvery: 40})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open(path)
		defer func() { _ = s.Close() }()
		var groups [][]schemas.CommandFrame
		for range rapid.IntRange(1, 60).Draw(t, "groups") {
			var expected []drawn
			var group []schemas.CommandFrame
			for range 1 + d.pick(4) {
				x := d.next(t)
				expected, group = append(expected, x), append(group, x.frame)
			}
			outcomes := applyGroups(t, s, [][]schemas.CommandFrame{group}, 1)
			groups = append(groups, group)
			for i, x := range expected {
				judgeDrawn(t, x, outcomes[i])
			}
			if d.pick(4) == 0 {
				got, want := standsOf(t, s, d.model.now), d.model.all()
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("counters behind %d groups, last %s (-model +store):\n%s", len(groups), group[len(group)-1].Kind, diff)
				}
			}
			if d.pick(12) == 0 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(path)
			}
		}
		list, err := s.RecountBudgets(context.Background())
		if err != nil || len(list) > 0 {
			t.Fatalf("recount: %+v, %v", list, err)
		}
		want := dumpOf(t, s)
		for _, per := range []int{7, 64} {
			again := open(filepath.Join(dir, fmt.Sprint(per, ".db")))
			applyGroups(t, again, groups, per)
			if got := dumpOf(t, again); !bytes.Equal(want, got) {
				t.Fatalf("%d messages a transaction: %s", per, firstDifference(want, got))
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func dumpOf(t rapid.TB, s *store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func judgeDrawn(t rapid.TB, x drawn, outcome []byte) {
	t.Helper()
	if x.frame.Kind == schemas.UsageIngest.Name {
		return
	}
	var o schemas.CommandOutcome
	if err := o.Decode(outcome); err != nil {
		t.Fatalf("%s: %x: %v", x.frame.Kind, outcome, err)
	}
	if o.Code != x.code {
		t.Fatalf("%s %s: %q %s, the model says %q", x.frame.Kind, x.frame.ID, o.Code, o.Detail, x.code)
	}
	if x.check == nil {
		return
	}
	var c schemas.CheckData
	if err := json.Unmarshal(o.Body, &c); err != nil {
		t.Fatal(err)
	}
	if c.Allowed != *x.check {
		t.Fatalf("check %s: %s, the model says %t", x.frame.ID, o.Body, *x.check)
	}
}

// With one partition and with four every app has the same digest.
func TestBudgetsOfAnyPartitioning(t *testing.T) {
	d := &drawing{r: rand.New(rand.NewPCG(5, 6)), model: &budgetModel{now: testNow, apps: map[string]*modelApp{}, strict: true}}
	var frames []schemas.CommandFrame
	for range 600 {
		frames = append(frames, d.next(t).frame)
	}
	digests := func(partitions int) map[string]string {
		all := map[string]string{}
		for p := range partitions {
			s, err := store.Open(filepath.Join(t.TempDir(), "s.db"), store.Options{Partition: p, Partitions: partitions, FoldEvery: 100})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var groups [][]schemas.CommandFrame
			for _, f := range frames {
				app := f.AppID
				if f.Kind == schemas.UsageIngest.Name {
					var b schemas.UsageBatch
					if err := b.DecodePayload(f.Payload); err != nil {
						t.Fatal(err)
					}
					app = b.Parts[0].AppID
				}
				if app == "" || schemas.PartitionOf(app, partitions) == p {
					groups = append(groups, []schemas.CommandFrame{f})
				}
			}
			applyGroups(t, s, groups, 16)
			own, err := s.AppDigests(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for app, digest := range own {
				if all[app] != "" {
					t.Errorf("app %s is in two partitions", app)
				}
				all[app] = digest
			}
		}
		return all
	}
	one, four := digests(1), digests(4)
	if len(one) != 3 {
		t.Fatalf("%d apps: %v", len(one), one)
	}
	if diff := cmp.Diff(one, four); diff != "" {
		t.Errorf("digests of one partition and of four:\n%s", diff)
	}
}
