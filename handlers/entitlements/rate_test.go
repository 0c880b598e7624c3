package entitlements

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"grout/schemas"
)

const minute = int64(time.Minute)

// reference counts a window the slow way: every sub-window of what was counted, the
// oldest by the part of it that is inside, rounded up as a whole.
func reference(counted map[int64]int64, span, now int64) int64 {
	part := span / schemas.RateSubWindows
	newest := floorDiv(now, part)
	used, weighted := int64(0), int64(0)
	for instant, n := range counted {
		switch age := newest - floorDiv(instant, part); {
		case age >= 0 && age < schemas.RateSubWindows:
			used += n
		case age == schemas.RateSubWindows:
			weighted += n
		}
	}
	inside := (newest+1)*part - now
	return used + (weighted*inside+part-1)/part
}

func TestWindowCountsLikeTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.SampledFrom([]int64{second, minute, 60 * minute, 24 * 60 * minute}).Draw(t, "span")
		at := now
		counted := map[int64]int64{}
		var w schemas.RateWindow
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at += rapid.OneOf(rapid.Int64Range(0, span/30), rapid.Int64Range(0, 2*span)).Draw(t, "later")
			n := rapid.Int64Range(0, 1000).Draw(t, "n")
			w = CountInWindow(w, span, at, n)
			counted[at] += n
			if got, want := UsedInWindow(w, at), reference(counted, span, at); got != want {
				t.Fatalf("%d counted, the reference says %d", got, want)
			}
			ahead := at + rapid.Int64Range(0, 2*span).Draw(t, "ahead")
			if got, want := UsedInWindow(w, ahead), reference(counted, span, ahead); got != want {
				t.Fatalf("%d counted later, the reference says %d", got, want)
			}
		}
	})
}

// The instant at which a window has room is the first one, exactly.
func TestFreeAtIsTheFirstInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w schemas.RateWindow
		at := now
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			at += rapid.Int64Range(0, minute/3).Draw(t, "later")
			w = CountInWindow(w, minute, at, rapid.Int64Range(0, 5).Draw(t, "n"))
		}
		w = AdvanceWindow(w, minute, at)
		limit, needed := rapid.Int64Range(0, 20).Draw(t, "limit"), rapid.Int64Range(0, 21).Draw(t, "needed")
		free := FreeAt(w, at, limit, needed)
		switch {
		case needed > limit:
			if free != 0 {
				t.Fatalf("there is never room for %d of %d, but at %d", needed, limit, free)
			}
		case UsedInWindow(w, free)+needed > limit:
			t.Fatalf("no room at the instant that was told")
		case free > at && UsedInWindow(w, free-1)+needed <= limit:
			t.Fatalf("there was room before")
		}
	})
}

func TestWindowEdges(t *testing.T) {
	start := at("2026-01-29T12:00:00Z")
	w := CountInWindow(schemas.RateWindow{}, minute, start, 10)
	for _, c := range []struct{ later, used int64 }{
		{0, 10}, {59 * second, 10}, {60*second - 1, 10}, {60 * second, 10}, {60*second + 1, 10}, {60*second + second/10, 9}, {60*second + second/2, 5}, {60*second + 9*second/10, 1}, {61*second - 1, 1}, {61 * second, 0}, {days(1), 0},
	} {
		if got := UsedInWindow(w, start+c.later); got != c.used {
			t.Errorf("%v later %d are used, want %d", time.Duration(c.later), got, c.used)
		}
	}
	if got := UsedInWindow(schemas.RateWindow{}, now); got != 0 {
		t.Errorf("%d used of nothing", got)
	}
	back := CountInWindow(w, minute, start-minute/2, 3)
	if got := UsedInWindow(back, start-minute/2); got != 3 {
		t.Errorf("what lies ahead of a clock that was set back counts: %d", got)
	}
	other := CountInWindow(w, 60*minute, start, 1)
	if got := UsedInWindow(other, start); got != 1 {
		t.Errorf("a window of another length keeps its counts: %d", got)
	}
	full := CountInWindow(CountInWindow(w, minute, start, math.MaxInt64), minute, start+second, math.MaxInt64)
	if got := UsedInWindow(full, start+second); got != math.MaxInt64 {
		t.Errorf("saturated at %d", got)
	}
	if got := UsedInWindow(CountInWindow(schemas.RateWindow{}, minute, -5*second, 4), -second); got != 4 {
		t.Errorf("before 1970: %d", got)
	}
}

// §5.2.11: which checks come near which limits, and what is counted.
func TestRule11Needs(t *testing.T) {
	const limits = `"rate_limits":{"requests_per_minute":5,"requests_per_hour":-1,"concurrent_workflows":2,"projects":3},"plugins":{"per_plugin_limits":{"p":{"calls_per_period":7,"period":"daily"}}}`
	layers := []Layer{manifest(t, "app", limits)}
	for name, c := range map[string]struct {
		r    schemas.EntitlementCheck
		want string // name needed counted
	}{
		"bare":                  {schemas.EntitlementCheck{Needed: 1}, "requests_per_hour 1, requests_per_minute 1"},
		"bare, counted":         {schemas.EntitlementCheck{Needed: 1, Count: true}, "requests_per_hour 1 counted, requests_per_minute 1 counted"},
		"a feature":             {schemas.EntitlementCheck{Needed: 1, Feature: "f"}, ""},
		"a feature, counted":    {schemas.EntitlementCheck{Needed: 1, Feature: "f", Count: true}, "requests_per_hour 1 counted, requests_per_minute 1 counted"},
		"tokens":                {schemas.EntitlementCheck{Needed: 1, Asked: true}, ""},
		"a plugin":              {schemas.EntitlementCheck{Needed: 1, Plugin: "p"}, "concurrent_workflows 1, requests_per_hour 1, requests_per_minute 1, calls 7 daily"},
		"a plugin, counted":     {schemas.EntitlementCheck{Needed: 1, Plugin: "p", Count: true}, "concurrent_workflows 1 counted, requests_per_hour 1 counted, requests_per_minute 1 counted, calls 7 daily"},
		"a plugin and a model":  {schemas.EntitlementCheck{Needed: 1, Plugin: "q", Model: "m"}, "concurrent_workflows 1, requests_per_hour 1, requests_per_minute 1"},
		"another plugin":        {schemas.EntitlementCheck{Needed: 1, Plugin: "q"}, "concurrent_workflows 1, requests_per_hour 1, requests_per_minute 1"},
		"a rate":                {schemas.EntitlementCheck{Needed: 4, Limit: "requests_per_minute"}, "requests_per_minute 4"},
		"a rate, counted":       {schemas.EntitlementCheck{Needed: 4, Limit: "requests_per_minute", Count: true}, "requests_per_hour 1 counted, requests_per_minute 4 counted"},
		"runs":                  {schemas.EntitlementCheck{Needed: 2, Limit: "concurrent_workflows"}, "concurrent_workflows 2"},
		"runs, counted":         {schemas.EntitlementCheck{Needed: 2, Limit: "concurrent_workflows", Count: true}, "concurrent_workflows 2 counted, requests_per_hour 1 counted, requests_per_minute 1 counted"},
		"too many runs at once": {schemas.EntitlementCheck{Needed: 101, Limit: "concurrent_workflows", Count: true}, "concurrent_workflows 101, requests_per_hour 1 counted, requests_per_minute 1 counted"},
		"a cap":                 {schemas.EntitlementCheck{Needed: 2, Limit: "projects"}, "projects 2"},
		"something unknown":     {schemas.EntitlementCheck{Needed: 2, Limit: "other"}, ""},
	} {
		got := ""
		n := NeedsOf(layers, &c.r)
		for _, r := range n.Rates {
			if got != "" {
				got += ", "
			}
			got += fmt.Sprintf("%s %d", r.Key.Name, r.Needed)
			if r.Counts {
				got += " counted"
			}
		}
		if n.Calls != nil {
			got += fmt.Sprintf(", calls %d %s", n.Calls.Limit, n.Calls.Period)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	free := NeedsOf([]Layer{manifest(t, "app", `"rate_limits":{"concurrent_workflows":-1}`)}, &schemas.EntitlementCheck{Needed: 1, Plugin: "p", Count: true})
	if len(free.Rates) != 1 || free.Rates[0].Counts {
		t.Errorf("leases of no limit are held: %+v", free.Rates)
	}
}

// §5.2.11: decisions at the limit.
func TestRule11Rates(t *testing.T) {
	const limits = `"rate_limits":{"requests_per_minute":5,"concurrent_workflows":2,"projects":3}`
	key := LimitKey{appScope, "requests_per_minute"}
	for _, c := range []struct {
		used, needed int64
		want         string
	}{
		{0, 5, "allow allowed"},
		{0, 6, "hard_reject rate_limited"},
		{4, 1, "allow allowed"},
		{4, 0, "allow allowed"},
		{5, 0, "allow allowed"},
		{5, 1, "hard_reject rate_limited"},
		{6, 0, "allow allowed"},
		{6, 1, "hard_reject rate_limited"},
	} {
		v := viewOf(t, map[string]string{"app": limits})
		v.Windows[key] = CountInWindow(schemas.RateWindow{}, minute, now-10*second, c.used)
		d := Check(v, &schemas.EntitlementCheck{Limit: "requests_per_minute", Needed: c.needed})
		if verdict(d) != c.want || d.Used != c.used || d.Remaining != max(0, 5-c.used) || len(d.Rates) != 1 {
			t.Errorf("%+v: %s %+v", c, verdict(d), d.Judgement)
		}
		if d.Verdict == schemas.VerdictHard && d.Code != schemas.CodeRateLimited {
			t.Errorf("%+v: %s", c, d.Code)
		}
		switch {
		case c.needed > 5:
			if d.ResetsAt != 0 {
				t.Errorf("%+v: there is never room, but at %s", c, schemas.InstantText(d.ResetsAt))
			}
		case d.Verdict == schemas.VerdictHard:
			if d.ResetsAt <= now || d.ResetsAt > now+minute || d.Rates[0].ResetsAt != d.ResetsAt {
				t.Errorf("%+v: room at %s", c, schemas.InstantText(d.ResetsAt))
			}
		}
	}

	for _, c := range []struct {
		open, needed int
		want         string
	}{{0, 2, "allow allowed"}, {0, 3, "hard_reject too_many_concurrent"}, {1, 1, "allow allowed"}, {2, 1, "hard_reject too_many_concurrent"}, {2, 0, "allow allowed"}} {
		v := viewOf(t, map[string]string{"app": limits})
		for i := range c.open {
			v.Leases[appScope] = append(v.Leases[appScope], schemas.Lease{ID: fmt.Sprint(i), ExpiresAt: now + second*int64(10-i)})
		}
		d := Check(v, &schemas.EntitlementCheck{Limit: ConcurrentRuns, Needed: int64(c.needed)})
		if verdict(d) != c.want || d.Used != int64(c.open) {
			t.Errorf("%+v: %s %+v", c, verdict(d), d.Judgement)
		}
		if c.open == 2 && d.ResetsAt != now+9*second {
			t.Errorf("the first of two ends at %s", schemas.InstantText(d.ResetsAt))
		}
	}
	v := viewOf(t, map[string]string{"app": `"rate_limits":{"concurrent_workflows":-1}`})
	for needed, want := range map[int64]string{100: "allow allowed", 101: "hard_reject too_many_concurrent"} {
		if d := Check(v, &schemas.EntitlementCheck{Limit: ConcurrentRuns, Needed: needed, Count: true}); verdict(d) != want {
			t.Errorf("%d runs at once: %s", needed, verdict(d))
		}
	}

	for needed, want := range map[int64]string{0: "allow allowed", 3: "allow allowed", 4: "hard_reject limit_exceeded"} {
		d := Check(viewOf(t, map[string]string{"app": limits}), &schemas.EntitlementCheck{Limit: "projects", Needed: needed})
		if verdict(d) != want || d.Verdict == schemas.VerdictHard && (d.Code != schemas.CodeLimitExceeded || d.Detail != "Insufficient projects: need 4, have 3") {
			t.Errorf("%d projects: %s %s %q", needed, verdict(d), d.Code, d.Detail)
		}
	}
	if d := Check(viewOf(t, map[string]string{"app": limits}), &schemas.EntitlementCheck{Limit: "other", Needed: 9}); verdict(d) != "allow not_listed" {
		t.Errorf("a limit nobody has set: %s", verdict(d))
	}

	calls := LimitKey{appScope, "p"}
	for used, want := range map[int64]string{0: "allow allowed", 1: "allow allowed", 2: "hard_reject limit_exceeded"} {
		v := viewOf(t, map[string]string{"app": `"plugins":{"per_plugin_limits":{"p":{"calls_per_period":2,"period":"daily"}}}`})
		start, end := PeriodAt(schemas.PeriodDaily, now)
		v.Calls[calls] = schemas.Consumption{Start: start, Used: used}
		d := Check(v, &schemas.EntitlementCheck{Plugin: "p", Needed: 1})
		if verdict(d) != want || d.Used != used || d.ResetsAt != end {
			t.Errorf("%d calls: %s %+v", used, verdict(d), d.Judgement)
		}
		v.Calls[calls] = schemas.Consumption{Start: start - days(1), Used: 2}
		if d := Check(v, &schemas.EntitlementCheck{Plugin: "p", Needed: 1}); verdict(d) != "allow allowed" {
			t.Errorf("calls of yesterday count: %s", verdict(d))
		}
	}
}

// §5.4: what an action requires and takes.
func TestPluginLimits(t *testing.T) {
	rules, err := schemas.ParsePluginEntitlements("notes", []byte(`{"schema_version":"1.0","features":{"share":{"default":false},"print":{}},
		"limits":{"items":{"default":5},"pages":{"type":"cap","default":3},"seats":{"reset":"never","default":-1}},"tiers":{"pro":{"features":{"print":false}},"gold":{"features":{"share":true},"limits":{"items":0}}},
		"actions":{"create":{"consumes":{"items":1,"pages":3,"seats":2}},"dump":{"consumes":{"pages":4}},"send":{"requires_features":["share"],"consumes":{"items":1}},"two":{"requires_features":["share","print"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	month, _ := PeriodAt(schemas.PeriodMonthly, now)
	for name, c := range map[string]struct {
		sections string
		r        schemas.EntitlementCheck
		items    schemas.Consumption
		want     string
		detail   string
	}{
		"all is there":              {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{}, "allow allowed", ""},
		"the last one":              {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{Start: month, Used: 4}, "allow allowed", ""},
		"the last is set aside":     {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{Start: month, Used: 4, Reserved: 1}, "hard_reject limit_exceeded", "Insufficient items: need 1, have 0"},
		"used up":                   {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{Start: month, Used: 5}, "hard_reject limit_exceeded", "Insufficient items: need 1, have 0"},
		"used up a month ago":       {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{Start: month - days(31), Used: 5}, "allow allowed", ""},
		"set aside a month ago":     {``, schemas.EntitlementCheck{Action: "create"}, schemas.Consumption{Start: month - days(31), Reserved: 5}, "hard_reject limit_exceeded", "Insufficient items: need 1, have 0"},
		"more than a cap":           {``, schemas.EntitlementCheck{Action: "dump"}, schemas.Consumption{}, "hard_reject limit_exceeded", "Insufficient pages: need 4, have 3"},
		"a feature that is off":     {``, schemas.EntitlementCheck{Action: "send"}, schemas.Consumption{}, "hard_reject feature_disabled", "Feature 'share' not available on pro tier"},
		"the first one that is off": {``, schemas.EntitlementCheck{Action: "two"}, schemas.Consumption{}, "hard_reject feature_disabled", "Feature 'share' not available on pro tier"},
		"a preview of it":           {`"overrides":{"feature_previews":["share"]}`, schemas.EntitlementCheck{Action: "send"}, schemas.Consumption{}, "allow allowed", ""},
		"the manifest says no":      {`"features":{"share":false},"plugins":{"tiers":{"notes":"gold"}}`, schemas.EntitlementCheck{Action: "send"}, schemas.Consumption{}, "hard_reject feature_disabled", "Feature 'share' not available on gold tier"},
		"of a tier with nothing":    {`"plugins":{"tiers":{"notes":"gold"}}`, schemas.EntitlementCheck{Action: "send"}, schemas.Consumption{}, "hard_reject limit_exceeded", "Insufficient items: need 1, have 0"},
		"an action not listed":      {``, schemas.EntitlementCheck{Action: "other"}, schemas.Consumption{Start: month, Used: 5}, "allow allowed", ""},
		"no action":                 {``, schemas.EntitlementCheck{}, schemas.Consumption{Start: month, Used: 5}, "allow allowed", ""},
		"a limit by name":           {``, schemas.EntitlementCheck{Limit: "items", Needed: 5}, schemas.Consumption{}, "allow allowed", ""},
		"more than the limit":       {``, schemas.EntitlementCheck{Limit: "items", Needed: 6}, schemas.Consumption{}, "hard_reject limit_exceeded", "Insufficient items: need 6, have 5"},
		"a cap by name":             {``, schemas.EntitlementCheck{Limit: "pages", Needed: 3}, schemas.Consumption{}, "allow allowed", ""},
		"unlimited":                 {``, schemas.EntitlementCheck{Limit: "seats", Needed: schemas.MaxLimit}, schemas.Consumption{}, "allow allowed", ""},
		"of the unlimited tier":     {`"plan":{"tier":"unlimited"}`, schemas.EntitlementCheck{Action: "dump"}, schemas.Consumption{}, "allow allowed", ""},
	} {
		v := viewOf(t, map[string]string{"user": c.sections})
		v.Plugin, v.Switches.Monetization = rules, true
		v.Consumed["items"] = c.items
		c.r.Plugin, c.r.Needed = "notes", max(c.r.Needed, 1)
		d := Check(v, &c.r)
		if verdict(d) != c.want || d.Detail != c.detail {
			t.Errorf("%s: %s %q", name, verdict(d), d.Detail)
		}
		v.Switches.Monetization = false
		if d := Check(v, &c.r); d.Code == schemas.CodeLimitExceeded {
			t.Errorf("%s: enforced without MONETIZATION: %q", name, d.Detail)
		}
	}
	v := viewOf(t, map[string]string{"user": ""})
	v.Plugin, v.Switches.Monetization = rules, true
	d := Check(v, &schemas.EntitlementCheck{Plugin: "notes", Action: "create", Needed: 1})
	if len(d.WouldConsume) != 2 || d.WouldConsume["items"] != 1 || d.WouldConsume["seats"] != 2 {
		t.Errorf("would consume %v", d.WouldConsume)
	}
	v.Plugin = &schemas.PluginEntitlements{Plugin: "notes", Broken: "line 3"}
	if d := Check(v, &schemas.EntitlementCheck{Plugin: "notes", Needed: 1}); d.Allowed || d.Code != schemas.CodeForbidden || d.Reason != schemas.ReasonPluginBroken {
		t.Errorf("a broken file lets pass: %s", verdict(d))
	}
	v.Switches.Monetization = false
	if d := Check(v, &schemas.EntitlementCheck{Plugin: "notes", Needed: 1}); !d.Allowed {
		t.Errorf("a broken file closes the plugin without MONETIZATION: %s", verdict(d))
	}
}

// The order of contract §4: what stands first stops.
func TestOrderOfRefusals(t *testing.T) {
	rules, err := schemas.ParsePluginEntitlements("p", []byte(`{"schema_version":"1.0","features":{"f":{"default":false}},"limits":{"items":{"default":0}},"actions":{"a":{"requires_features":["f"],"consumes":{"items":1}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	sections := []struct{ bad, good string }{
		{`"plugins":{"blocked":["p"]}`, `"plugins":{}`},
		{`"features":{}`, `"overrides":{"feature_previews":["f"]}`},
		{`"plan":{"tier":"pro","status":"canceled"}`, `"plan":{"tier":"pro"}`},
		{total(0, "hard"), total(1, "hard")},
		{`"metadata":{}`, `"metadata":{"x":1}`},
	}
	codes := []schemas.Code{schemas.CodeForbidden, schemas.CodeFeatureGated, schemas.CodePlanExpired, schemas.CodeBudgetExceeded, schemas.CodeLimitExceeded}
	for i, want := range codes {
		text := ""
		for j, s := range sections {
			if j > 0 {
				text += ","
			}
			if j < i {
				text += s.good
			} else {
				text += s.bad
			}
		}
		v := viewOf(t, map[string]string{"user": text})
		v.Plugin, v.Switches.Monetization = rules, true
		if d := Check(v, &schemas.EntitlementCheck{Plugin: "p", Action: "a", Needed: 1}); d.Code != want {
			t.Errorf("with the first %d right: %s, want %s", i, d.Code, want)
		}
	}
}
