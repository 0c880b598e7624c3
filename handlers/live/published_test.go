package live

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"grout/schemas"
)

// applyPublished gives a fact that a plugin has published its number in the app.
func (w *world) applyPublished(app, kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at++
	w.apps[app]++
	h := schemas.FactHead{Kind: kind, AppID: app, ID: fmt.Sprint("f", w.at), Sequence: w.apps[app], Time: int64(w.at), Subject: "run/of-somebody-else"}
	m := schemas.StreamMessage{Subject: schemas.FactSubject(app, kind), Time: time.Unix(0, h.Time)}
	m.Data = schemas.AppendFact(nil, &h, func(b []byte) []byte { return append(b, `{"user_id":"other","data":"secret"}`...) })
	w.outbox, w.shown = append(w.outbox, m), append(w.shown, m)
}

// A plugin may publish under a name with dots: a part of it is no chat, however a chat is
// called.
func TestAPartOfAKindIsNoChat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.apply("a", "c", 0)
		w.applyPublished("a", "plugin.report.c")
		w.apply("a", "c", 0)
		w.publish()
		hub := serve(t, w, Options{})
		mine := open(t, hub, Filter{AppID: "a", UserID: "user-c"}, atPosition(Position{Sub: -1}))
		if got := tell(read(t, mine, 2)); got != "1 2" {
			t.Errorf("the user of chat c sees %s", got)
		}
		all := open(t, hub, Filter{AppID: "a"}, atPosition(Position{Sub: -1}))
		if list := read(t, all, 3); list[1].Type != "plugin.report.c" || list[1].ChatID != "" {
			t.Errorf("the fact of a plugin is shown as one of chat %q: %+v", list[1].ChatID, list[1])
		}
	})
}

// Such facts stand among those of a chat, without numbers: whoever looks for a number there
// finds it all the same.
func TestASearchPassesWhatHasNoNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for range 100 {
			w.apply("a", "c", 0)
		}
		for range 300 {
			w.applyPublished("a", "plugin.report.c")
		}
		w.publish()
		r := open(t, serve(t, w, Options{}), Filter{AppID: "a", ChatID: "c"}, behind(93))
		if got := tell(read(t, r, 7)); got != "94 95 96 97 98 99 100" {
			t.Errorf("behind 93 comes %s", got)
		}
	})
}
