package handlers

import (
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

// A step starts the count of ticks anew; only those that are an hour apart count.
// What is too old only by a clock in doubt waits; all else is judged at once.
func TestJudgeOldest(t *testing.T) {
	const hour, day = int64(time.Hour), 24 * int64(time.Hour)
	at := testNow
	steady := decideTick(decideTick(store.Clock{}, at-hour), at)
	jumped := decideTick(steady, at+40*day)
	settled := jumped
	for n := range int64(schemas.TicksAfterStep) {
		settled = decideTick(settled, at+40*day+(n+1)*hour)
	}
	for _, c := range []struct {
		name        string
		clock       store.Clock
		oldest, now int64
		waits       bool
	}{
		{"young", steady, at - schemas.MaxEventAge, at, false},
		{"too old", steady, at - schemas.MaxEventAge - 1, at, false},
		{"young, after a jump", jumped, at + 40*day - schemas.MaxEventAge, at + 40*day, false},
		{"true, after a jump", jumped, at, at + 40*day, true},
		{"the oldest acceptable before the jump", jumped, at - schemas.MaxEventAge, at + 40*day, true},
		{"too old without it", jumped, at - schemas.MaxEventAge - 1, at + 40*day, false},
		{"before the tick that will show the jump", steady, at, at + 40*day, true},
		{"a jump and another", jumped, at, at + 80*day, true},
		{"when the clock is believed", settled, at, settled.LastTick, false},
		{"no tick yet", store.Clock{}, at, at + 40*day, false},
		{"nothing in it", jumped, math.MaxInt64, at + 40*day, false},
	} {
		if got := JudgeOldest(c.clock, c.oldest, c.now); (got != nil) != c.waits || got != nil && got.Code != schemas.CodeClockJump {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestDecideTick(t *testing.T) {
	const hour, minute = int64(time.Hour), int64(time.Minute)
	type step struct {
		by    int64 // since the tick before it
		times int
		steps uint64
		wait  uint64
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"hourly", []step{{hour, 100, 0, 0}}},
		{"a little early and late", []step{{hour - 5*minute, 3, 0, 0}, {hour + 5*minute, 3, 0, 0}, {minute, 3, 0, 0}, {-minute, 1, 0, 0}}},
		{"forward", []step{{hour, 3, 0, 0}, {hour + 5*minute + 1, 1, 1, 24}, {hour, 23, 1, 1}, {hour, 1, 1, 0}, {hour, 5, 1, 0}}},
		{"by 40 days and back", []step{{40 * 24 * hour, 1, 1, 24}, {hour, 10, 1, 14}, {-40 * 24 * hour, 1, 2, 24}, {hour, 24, 2, 0}}},
		{"by 2 hours and back", []step{{2 * hour, 1, 1, 24}, {-2 * hour, 1, 2, 24}}},
		{"a flood of ticks counts once an hour", []step{{2 * hour, 1, 1, 24}, {minute, 54, 1, 24}, {minute, 1, 1, 23}, {minute, 54, 1, 23}, {minute, 1, 1, 22}, {1, 1000, 1, 22}}},
		{"a little back does not count twice", []step{{2 * hour, 1, 1, 24}, {hour, 1, 1, 23}, {-30 * minute, 1, 1, 23}, {30 * minute, 1, 1, 23}, {55 * minute, 1, 1, 22}}},
	} {
		at := testNow
		clock := decideTick(store.Clock{}, at)
		if clock.Wait != 0 || clock.Steps != 0 || clock.LastTick != at {
			t.Errorf("the first tick: %+v", clock)
		}
		for i, s := range c.steps {
			for range s.times {
				at += s.by
				clock = decideTick(clock, at)
			}
			if clock.Steps != s.steps || clock.Wait != s.wait || clock.LastTick != at {
				t.Errorf("%s, step %d: %+v", c.name, i, clock)
			}
		}
	}
}

func TestDecideExpiry(t *testing.T) {
	view := func(now, tick int64, wait uint64) store.ClockView {
		return store.ClockView{Clock: store.Clock{LastTick: tick, Wait: wait}, Now: now}
	}
	kept := schemas.SegmentKept
	if kept != 35*24*int64(time.Hour) {
		t.Errorf("segments are kept for %d", kept)
	}
	for _, c := range []struct {
		name   string
		clock  store.ClockView
		before int64
		reason string
	}{
		{"old enough", view(testNow, testNow, 0), testNow - kept - 1, ""},
		{"to the nanosecond", view(testNow, testNow, 0), testNow - kept, "is kept until"},
		{"handler time ahead of the ticks", view(testNow+kept, testNow, 0), testNow - kept, "is kept until"},
		{"handler time behind the ticks", view(testNow, testNow+kept, 0), testNow - kept, "is kept until"},
		{"after a step", view(testNow, testNow, 3), 1, "3 hourly ticks must follow"},
		{"without a tick", view(testNow, 0, 0), 1, "no tick yet"},
	} {
		why := decideExpiry(c.clock, c.before)
		if (why == nil) != (c.reason == "") || why != nil && (why.Code != schemas.CodeSegmentKept || !strings.Contains(why.Detail, c.reason)) {
			t.Errorf("%s: %v", c.name, why)
		}
	}
}

func TestJudgeClockSet(t *testing.T) {
	expired := testNow - schemas.SegmentKept - 1
	for _, c := range []struct {
		expired, to int64
		fine        bool
	}{
		{0, 1, true},
		{expired, testNow, true},
		{expired, testNow - 1, false},
		{expired, testNow - 40*24*int64(time.Hour), false},
	} {
		why := JudgeClockSet(store.ClockView{ExpiredUntil: c.expired}, c.to)
		if (why == nil) != c.fine || why != nil && why.Code != schemas.CodeClockKept {
			t.Errorf("%+v: %v", c, why)
		}
	}
}

// Configuration changes when its digest does; its versions are kept, and a restart
// knows the newest.
func TestConfigVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openStore(t, path, 0, 1, 100)
	w := newWorld(t, s)
	for i, text := range []string{`{"a":1}`, `{"a":1}`, `{"a":2}`, `{"a":1}`} {
		if o := w.own(schemas.ConfigSet.Name, testNow+int64(i), schemas.NewConfigChange("switches", []byte(text)).EncodePayload(nil)); o.Code != "" {
			t.Errorf("%s: %+v", text, o)
		}
		if got := s.Config("switches"); got == nil || string(got.Content) != text {
			t.Errorf("%s: %+v", text, got)
		}
	}
	w.own(schemas.ConfigSet.Name, testNow, schemas.Rules{Version: RulesVersion}.Change().EncodePayload(nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path, 0, 1, 100)
	defer s.Close()
	list, err := s.ConfigHistory()
	if err != nil || len(list) != 4 {
		t.Fatalf("%d versions, %v", len(list), err)
	}
	for i, want := range []string{`{"version":1}`, `{"a":1}`, `{"a":2}`, `{"a":1}`} {
		if string(list[i].Content) != want || i > 1 && list[i].At <= list[i-1].At {
			t.Errorf("version %d: %+v", i, list[i])
		}
	}
	if got := s.Config("switches"); got.Place != list[3].Place || s.Config("other") != nil {
		t.Errorf("after a restart: %+v", got)
	}
	if v, err := RulesOf(s.Config(schemas.ConfigRules)); err != nil || v != RulesVersion {
		t.Errorf("rules %d %v", v, err)
	}
}

// A log that follows newer rules stops the partition by name; it is no dead letter.
func TestNewerRules(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 100)
	defer s.Close()
	w := newWorld(t, s)
	frame := ownFrame(schemas.ConfigSet.Name, testNow, schemas.Rules{Version: RulesVersion + 1}.Change().EncodePayload(nil))
	if _, err := w.try(frame); err == nil || !strings.Contains(err.Error(), "RULES_NEWER") || s.Checkpoint().Seq != 0 {
		t.Errorf("%v, applied up to %d", err, s.Checkpoint().Seq)
	}
}
