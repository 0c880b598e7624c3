package store_test

import (
	"testing"

	"grout/schemas"
	"grout/store"
)

// A file of a release that knew no chats has them after it was brought over, as if
// they had always been counted: folded or not, corrected or not, and they go on.
func TestChatsOfFormat1(t *testing.T) {
	eachFormat(t, func(t *testing.T, path string, _ *formatFacts) {
		if formatOf(t, path) != 1 {
			return // of later ones the chats are in what is expected
		}
		s := openFormat(t, path)
		chats := checkFormatChats(t, s)
		if chats == 0 {
			t.Error("the file has no chats")
		}
		for _, app := range formatApps { // one of each app is voided, more come
			list := eventsOf(t, s, app)
			in := schemas.ParsedBatch{}
			voided := false
			for _, e := range list {
				if e.ChatID == "" {
					continue
				}
				if !voided && e.Status == schemas.EventCounted {
					v := schemas.EventVoid{EventID: e.EventID}
					applyGroups(t, s, [][]schemas.CommandFrame{{again(schemas.UsageVoid.Name, app, v.EncodePayload(nil))}})
					voided = true
				}
				more := e.UsageEvent
				more.EventID, more.Index, more.Counted = "more-"+e.EventID, uint32(len(in.Events)), nil
				in.Events = append(in.Events, more)
			}
			b := schemas.SplitBatch(&in, "more-"+app, false, 1)[0]
			applyGroups(t, s, [][]schemas.CommandFrame{{again(schemas.UsageIngest.Name, "", b.EncodePayload(nil))}})
		}
		if n := checkFormatChats(t, s); n != chats {
			t.Errorf("%d chats, %d before", n, chats)
		}
		closeFormat(t, s)
		s = openFormat(t, path)
		checkFormatChats(t, s)
		closeFormat(t, s)
	})
}

// checkFormatChats holds every chat against its single events, of which no summary
// covers any, and gives their number.
func checkFormatChats(t *testing.T, s *store.Store) int {
	t.Helper()
	chats := 0
	for _, app := range formatApps {
		want, users := map[string]schemas.UsageSums{}, map[string]string{}
		for _, e := range eventsOf(t, s, app) { // the newest first
			if e.ChatID == "" {
				continue
			}
			counts := schemas.SumsOf(&e.UsageEvent)
			if e.Status != schemas.EventCounted {
				counts = e.Effective
			}
			sums := want[e.ChatID]
			sums.Add(&counts)
			want[e.ChatID], users[e.ChatID] = sums, e.UserID
		}
		for id, sums := range want {
			got, err := s.Chat(t.Context(), app, id)
			if err != nil || got == nil || got.Totals != sums || got.UserID != users[id] {
				t.Errorf("chat %s of %s is %+v, want %+v of %s: %v", id, app, got, sums, users[id], err)
			}
		}
		chats += len(want)
	}
	return chats
}
