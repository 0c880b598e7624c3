package main

import "strconv"

// items are what happens in chats, as facts tell it: numbered in every chat from 1 without
// gaps, with every event of a chat that counts in it once.
type items struct {
	last map[chatOfApp]uint64
	told map[string]bool
	want int
}

type chatOfApp struct{ app, chat string }

// delta is an event of a chat as chat.usage_delta shows it.
type delta struct {
	EventID      string `json:"event_id"`
	AppID        string `json:"app_id"`
	ChatID       string `json:"chat_id"`
	UserID       string `json:"user_id"`
	Model        string `json:"model_name"`
	InputTokens  int64  `json:"prompt_tokens"`
	OutputTokens int64  `json:"completion_tokens"`
}

func newItems(b *books) *items {
	i := &items{last: map[chatOfApp]uint64{}, told: map[string]bool{}}
	for _, e := range b.counted {
		if e.isDelta() {
			i.want++
		}
	}
	return i
}

func (e *event) isDelta() bool { return e.ChatID != "" && !e.Summary }

// take reads a fact chat.usage_delta.
func (i *items) take(b *books, f *fact, fault func(string, ...any)) {
	at := chatOfApp{f.Key, f.Data.ChatID}
	n, err := strconv.ParseUint(f.ChatSequence, 10, 64)
	if err != nil || n != i.last[at]+1 {
		fault("chat %q of %q: item %q follows %d", at.chat, at.app, f.ChatSequence, i.last[at])
	}
	i.last[at] = n + uint64(len(f.Data.Deltas)) - 1
	for _, d := range f.Data.Deltas {
		k := (&event{AppID: d.AppID, EventID: d.EventID}).key()
		w := b.counted[k]
		switch {
		case w == nil || !w.isDelta():
			fault("fact %s holds %q, which is no event of a chat that was answered as counted", f.ID, k)
		case i.told[k]:
			fault("event %q is told in its chat twice", k)
		case w.AppID != at.app, w.ChatID != at.chat, d.ChatID != at.chat, w.UserID != d.UserID, w.Model != d.Model, w.InputTokens != d.InputTokens, w.OutputTokens != d.OutputTokens:
			fault("event %q is told in chat %q as %+v, sent as %+v", k, at.chat, d, *w)
		}
		i.told[k] = true
	}
}

func (i *items) complete() bool { return len(i.told) >= i.want }

func (i *items) check(b *books, fault func(string, ...any)) {
	for k, e := range b.counted {
		if e.isDelta() && !i.told[k] {
			fault("event %q is not told in its chat", k)
		}
	}
}
