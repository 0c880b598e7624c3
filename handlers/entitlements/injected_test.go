package entitlements

import (
	"testing"

	"grout/schemas"
)

// What a plugin is told of its user (contract §4).
func TestInjected(t *testing.T) {
	rules, err := schemas.ParsePluginEntitlements("notes", []byte(`{"schema_version":"1.0","features":{"gen":{"default":false},"save":null,"beta":{"default":false}},
		"limits":{"items":{"default":5},"size":{"type":"cap","default":3},"lines":{"default":-1}},
		"tiers":{"pro":{"features":{"gen":true},"limits":{"items":8}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		scopes map[string]string
		rules  *schemas.PluginEntitlements
		change func(*View)
		want   string
	}{
		"without monetization": {nil, rules, func(v *View) { v.Switches.Monetization = false }, `{}`},
		"nobody":               {nil, nil, nil, `{"enforce":true,"tier":"unlimited","features":{},"limits":{}}`},
		"nothing used": {
			map[string]string{"app": `"plan":{"tier":"free"}`},
			rules, nil,
			`{"enforce":true,"tier":"free","features":{"beta":false,"gen":false,"save":true},"limits":{"items":{"allowed":5,"used":0,"remaining":5},"lines":{"allowed":-1,"used":0,"remaining":-1},"size":{"allowed":3,"used":0,"remaining":3}}}`,
		},
		"some used, some set aside": {
			map[string]string{"app": `"plan":{"tier":"pro"},"features":{"save":false,"other":true},"overrides":{"feature_previews":["beta"]}`},
			rules,
			func(v *View) {
				v.Switches.Enforce = false
				v.Consumed["items"] = schemas.Consumption{Start: startOfMonth(v.Now), Used: 4, Reserved: 3}
				v.Free(map[string]int64{"items": 2, "gone": 1})
			},
			`{"enforce":false,"tier":"pro","features":{"beta":true,"gen":true,"other":true,"save":false},"limits":{"items":{"allowed":8,"used":4,"remaining":3},"lines":{"allowed":-1,"used":0,"remaining":-1},"size":{"allowed":3,"used":0,"remaining":3}}}`,
		},
		"rules that are broken": {
			map[string]string{"app": `"plan":{"tier":"pro"}`},
			&schemas.PluginEntitlements{Plugin: "notes", Broken: "line 1"}, nil,
			`{"enforce":true,"tier":"free","features":{},"limits":{}}`,
		},
	} {
		v := viewOf(t, c.scopes)
		v.Plugin, v.Switches = c.rules, schemas.Switches{Monetization: true, Enforce: true}
		if v.Consumed == nil {
			v.Consumed = map[string]schemas.Consumption{}
		}
		if c.change != nil {
			c.change(v)
		}
		if got := string(Injected(v, "notes")); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func startOfMonth(at int64) int64 {
	start, _ := PeriodAt(schemas.PeriodMonthly, at)
	return start
}

// A plugin without rules, or without tiers in them, is told the tier of the plan (contract
// §5.4).
func TestTierOfAPluginWithoutTiers(t *testing.T) {
	for _, rules := range []*schemas.PluginEntitlements{nil, {Plugin: "p"}} {
		for _, c := range []struct {
			plan schemas.Plan
			want string
		}{
			{schemas.Plan{Tier: "pro"}, "pro"},
			{schemas.Plan{Tier: "free", Name: "gold"}, "free"},
			{schemas.Plan{Tier: "unlimited"}, "unlimited"},
		} {
			v := &View{Layers: []Layer{{Manifest: &schemas.Manifest{Plan: c.plan}}}, Switches: schemas.Switches{Monetization: true}, Plugin: rules}
			if got := v.PluginTier("p"); got != c.want {
				t.Errorf("%+v: tier %q, want %q", c.plan, got, c.want)
			}
		}
	}
}

// An execution that takes the last of a limit of its plugin tells of it; a check does not.
func TestExecuteTellsTheLast(t *testing.T) {
	rules, err := schemas.ParsePluginEntitlements("notes", []byte(`{"schema_version":"1.0","limits":{"items":{"default":1}},"actions":{"make":{"consumes":{"items":1}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	v := viewOf(t, nil)
	v.Plugin, v.Switches.Monetization = rules, true
	v.Layers = viewOf(t, map[string]string{"app": `"plan":{"tier":"free"}`}).Layers
	r := &schemas.EntitlementCheck{Plugin: "notes", Action: "make", Needed: 1, Count: true}
	asked, executed := Check(v, r), Execute(v, r)
	if n := len(Tellings(&asked)); !asked.Allowed || n != 0 {
		t.Errorf("a check: %+v tells %d", asked, n)
	}
	if list := Tellings(&executed); !executed.Allowed || len(list) != 1 || list[0].Name() != "limit:notes:items" {
		t.Errorf("an execution: %+v tells %+v", executed, list)
	}
}
