package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"grout/schemas"
)

var (
	drawText  = rapid.StringN(0, 12, 40)
	drawInt   = rapid.Int64()
	drawScope = rapid.Custom(func(t *rapid.T) schemas.Scope {
		return schemas.Scope{Kind: schemas.ScopeKind(rapid.IntRange(1, 3).Draw(t, "kind")), ID: drawText.Draw(t, "id")}
	})
	drawPlace = rapid.Custom(func(t *rapid.T) Place {
		return Place{rapid.Uint64Range(0, 1<<52-1).Draw(t, "seq"), rapid.Uint32Range(0, 1<<12-1).Draw(t, "index")}
	})
	drawTokens = rapid.Custom(func(t *rapid.T) schemas.Tokens {
		return schemas.Tokens{Total: drawInt.Draw(t, "total"), Input: drawInt.Draw(t, "input"), Output: drawInt.Draw(t, "output")}
	})
)

// cutOff wants every form that ends early, or goes on, to be refused as damaged.
func cutOff(t *rapid.T, form []byte, parse func([]byte) error) {
	t.Helper()
	if err := parse(form); err != nil {
		t.Fatalf("%x: %v", form, err)
	}
	for i := range form {
		if err := parse(form[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("%x cut at %d: %v", form, i, err)
		}
	}
	if err := parse(append(bytes.Clone(form), 0)); !errors.Is(err, errDamaged) {
		t.Fatalf("%x with more: %v", form, err)
	}
	other := bytes.Clone(form)
	other[0] = 9
	if err := parse(other); !errors.Is(err, errDamaged) {
		t.Fatalf("form 9: %v", err)
	}
}

func TestManifestForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &ManifestVersion{
			AppID: drawText.Draw(t, "app"), Scope: drawScope.Draw(t, "scope"), Place: drawPlace.Draw(t, "place"), At: drawInt.Draw(t, "at"),
			Revision: drawInt.Draw(t, "revision"), Legacy: rapid.Bool().Draw(t, "legacy"), Source: drawText.Draw(t, "source"),
			CorrelationID: drawText.Draw(t, "correlation"), Content: []byte(drawText.Draw(t, "content")),
		}
		key := keyManifest(v.AppID, v.Scope, v.Place)
		cutOff(t, v.append(nil), func(b []byte) error {
			got, err := parseManifest(key, b)
			if d := cmp.Diff(v, got, cmpopts.EquateEmpty()); err == nil && d != "" {
				t.Fatal(d)
			}
			return err
		})
		if at := positionOf(bucketManifests, key, nil); at != v.Place.Seq {
			t.Fatalf("position %d of %v", at, v.Place)
		}
	})
}

func TestBudgetForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &Budget{
			AppID: drawText.Draw(t, "app"), Scope: drawScope.Draw(t, "scope"), Period: schemas.Period(rapid.ByteRange(1, 6).Draw(t, "period")),
			Start: drawInt.Draw(t, "start"), End: drawInt.Draw(t, "end"), Latest: rapid.Uint32().Draw(t, "latest"),
		}
		for _, name := range rapid.SliceOfNDistinct(drawText, 1, 5, func(s string) string { return s }).Draw(t, "allocations") {
			b.Counters = append(b.Counters, schemas.Counter{
				Allocation: name, Used: drawInt.Draw(t, "used"), Imported: drawInt.Draw(t, "imported"), Reserved: drawInt.Draw(t, "reserved"),
				Carry: drawInt.Draw(t, "carry"), Told: rapid.Byte().Draw(t, "told"),
			})
		}
		b.Settle()
		key := keyScope(b.AppID, b.Scope)
		cutOff(t, b.append(nil), func(v []byte) error {
			got, err := parseBudget(key, v)
			if d := cmp.Diff(b, got, cmpopts.IgnoreUnexported(Budget{})); err == nil && d != "" {
				t.Fatal(d)
			}
			return err
		})
	})
}

func TestHoldForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := schemas.Hold{
			ID: drawText.Draw(t, "id"), AppID: drawText.Draw(t, "app"), UserID: drawText.Draw(t, "user"), TenantID: drawText.Draw(t, "tenant"),
			Model: drawText.Draw(t, "model"), Tokens: drawTokens.Draw(t, "tokens"), GrantedAt: drawInt.Draw(t, "granted"), ExpiresAt: drawInt.Draw(t, "expires"),
			State: schemas.HoldState(rapid.ByteRange(1, 4).Draw(t, "state")), ClosedAt: drawInt.Draw(t, "closed"), EventID: drawText.Draw(t, "event"),
			Settled: drawTokens.Draw(t, "settled"), Answer: []byte(drawText.Draw(t, "answer")),
		}
		cutOff(t, appendHold(nil, &h), func(v []byte) error {
			got, err := parseHold(v)
			if d := cmp.Diff(h, got, cmpopts.EquateEmpty()); err == nil && d != "" {
				t.Fatal(d)
			}
			return err
		})
	})
}

func TestRateAndConsumptionForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := schemas.RateWindow{Span: drawInt.Draw(t, "span"), Newest: drawInt.Draw(t, "newest")}
		for i := range w.Counts {
			w.Counts[i] = drawInt.Draw(t, "count")
		}
		cutOff(t, appendWindow(nil, &w), func(v []byte) error {
			got, err := parseWindow(v)
			if err == nil && got != w {
				t.Fatalf("%+v, want %+v", got, w)
			}
			return err
		})
		c := schemas.Consumption{Start: drawInt.Draw(t, "start"), Used: drawInt.Draw(t, "used"), Reserved: drawInt.Draw(t, "reserved")}
		cutOff(t, appendConsumed(nil, c), func(v []byte) error {
			got, err := parseConsumed(v)
			if err == nil && got != c {
				t.Fatalf("%+v, want %+v", got, c)
			}
			return err
		})
		cutOff(t, binary.AppendVarint([]byte{1}, w.Span), func(v []byte) error {
			got, err := parseOne(v)
			if err == nil && got != w.Span {
				t.Fatalf("%d, want %d", got, w.Span)
			}
			return err
		})
	})
}

// Keys of one scope, and of one app, lie together and apart from all others, whatever
// the names hold; those of what is due lie in order of time.
func TestEntitlementKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawText.Draw(t, "app"), drawText.Draw(t, "other app")
		s, o := drawScope.Draw(t, "scope"), drawScope.Draw(t, "other scope")
		prefix := keyScope(a, s)
		if key := keyNamed(b, o, drawText.Draw(t, "name")); bytes.HasPrefix(key, prefix) != (a == b && s == o) {
			t.Fatalf("key %x of %q %v begins with that of %q %v", key, b, o, a, s)
		}
		r := newReader(prefix)
		if app, scope := r.scope(); r.Err != nil || app != a || scope != s || len(r.B) > 0 {
			t.Fatalf("%q %v, read as %q %v: %v", a, s, app, scope, r.Err)
		}
		end := after(prefix)
		if bytes.Compare(prefix, end) >= 0 || bytes.HasPrefix(end, prefix) {
			t.Fatalf("%x is not behind %x", end, prefix)
		}
		x, y := rapid.Int64Range(0, math.MaxInt64).Draw(t, "instant"), rapid.Int64Range(0, math.MaxInt64).Draw(t, "later")
		if x < y != (bytes.Compare(keyDue(dueSoon, x, dueHold, []byte{255}), keyDue(dueSoon, y, duePeriod, nil)) < 0) && x != y {
			t.Fatalf("%d and %d", x, y)
		}
	})
	if end := after([]byte{255, 255}); end != nil {
		t.Errorf("behind the last: %x", end)
	}
}
