package handlers

import (
	"fmt"
	"path/filepath"
	"testing"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

const benchManifest = `{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"token_budget":{"period":"monthly","total_tokens":{"limit":9000000000000,"enforcement":"hard"},` +
	`"per_model_limits":{"m":{"limit":9000000000000,"enforcement":"hard"}}},"rate_limits":{"requests_per_minute":1000000}}`

// BenchmarkReserveSettle reserves and settles in two scopes and a model limit, in groups
// of 64 commands.
func BenchmarkReserveSettle(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "s.db"), store.Options{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	frame := func(id, kind string, payload []byte) schemas.CommandFrame {
		return schemas.CommandFrame{Kind: kind, AppID: "a", ID: id, Source: "//mozaiks.ai/grout/t", Time: testNow, Accepted: testNow, Payload: payload}
	}
	for _, text := range []string{benchManifest, `{"user_id":"u",` + benchManifest[1:]} {
		m := schemas.ManifestSync{Manifest: manifestOf(b, text)}
		applyGroups(b, s, [][]schemas.CommandFrame{{frame("s", schemas.SyncEntitlement.Name, m.EncodePayload(nil))}}, 1)
	}
	b.ResetTimer()
	for n := 0; n < b.N; {
		var groups [][]schemas.CommandFrame
		for range 8 {
			var group []schemas.CommandFrame
			for range 32 {
				id := fmt.Sprint("r", n)
				n++
				r := schemas.BudgetReserve{ReservationID: id, UserID: "u", Model: "m", Tokens: schemas.Tokens{Total: 100}, TTL: 60}
				e := schemas.BudgetSettle{ReservationID: id, Event: schemas.UsageEvent{EventID: "e" + id, InputTokens: 50, OutputTokens: 40, TotalTokens: 90}}
				group = append(group, frame(id, schemas.ReserveBudget.Name, r.EncodePayload(nil)), frame("s"+id, schemas.SettleBudget.Name, e.EncodePayload(nil)))
			}
			groups = append(groups, group)
		}
		applyGroups(b, s, groups, 64)
	}
}

// BenchmarkCheck answers a check by what is committed.
func BenchmarkCheck(b *testing.B) {
	w := newEntitled(b)
	w.syncText(benchManifest)
	w.syncText(`{"user_id":"u",` + benchManifest[1:])
	standing := NewStanding(w.store)
	c := schemas.EntitlementCheck{UserID: "u", Model: "m", Tokens: schemas.Tokens{Total: 5}, Needed: 1}
	for b.Loop() {
		v, err := standing.View(&Question{AppID: "a", UserID: "u", Check: &c}, w.now)
		if err != nil {
			b.Fatal(err)
		}
		if d := entitlements.Check(v, &c); !d.Allowed {
			b.Fatalf("%+v", d)
		}
	}
}
