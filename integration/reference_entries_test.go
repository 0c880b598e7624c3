package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// reportEntry is an entry of a reporter's list: as sent, and what must become of it.
type reportEntry struct {
	text  json.RawMessage
	fault string // the code of its error; empty when it is good
	app   string
	key   string // what makes it the same as another: its id, else its content
	given bool   // the key is an id
	use   tokens
}

type tokens struct{ input, output, total int64 }

// entryMaker makes what one reporter has to tell: entries with and without ids, of
// every type, twice, with other content, and bad ones.
type entryMaker struct {
	name   string
	apps   []string
	rng    *rand.Rand
	start  time.Time
	serial int
	sent   []reportEntry // good ones with an id
}

// next gives the next entries, which belong together.
func (m *entryMaker) next() []reportEntry {
	m.serial++
	switch n := m.rng.IntN(20); {
	case n < 3:
		return []reportEntry{m.bad()}
	case n == 3 && len(m.sent) > 0:
		return []reportEntry{m.sent[m.rng.IntN(len(m.sent))]}
	case n == 4 && len(m.sent) > 0:
		return []reportEntry{m.conflict()}
	case n == 5:
		e := m.good("")
		return []reportEntry{e, e} // two calls that look alike
	case n < 12:
		e := m.good(fmt.Sprintf("%s-%d", m.name, m.serial))
		m.sent = append(m.sent, e)
		return []reportEntry{e}
	}
	return []reportEntry{m.good("")}
}

// base is an entry as a Python program writes it, every one at an instant of its own.
func (m *entryMaker) base() (entry, data map[string]any) {
	at := m.start.Add(time.Duration(m.serial) * time.Microsecond)
	data = map[string]any{"workflow_id": fmt.Sprint("w-", m.rng.IntN(3)), "model": "gpt-4", "input_tokens": m.rng.IntN(5000), "output_tokens": m.rng.IntN(900)}
	return map[string]any{
		"event_type": "usage", "app_id": m.apps[m.rng.IntN(len(m.apps))], "user_id": fmt.Sprint("u-", m.rng.IntN(9)),
		"timestamp": at.Format("2006-01-02T15:04:05.000000") + "+00:00", "data": data,
	}, data
}

func (m *entryMaker) good(id string) reportEntry {
	entry, data := m.base()
	input, output := int64(data["input_tokens"].(int)), int64(data["output_tokens"].(int))
	use := tokens{input, output, input + output}
	switch m.rng.IntN(6) {
	case 0:
		entry["event_type"], entry["data"], use = "feature_usage", map[string]any{"feature": "export", "count": m.serial}, tokens{}
	case 1:
		entry["event_type"], use = "api_call", tokens{}
		data["endpoint"], data["total_tokens"] = "/api/things", 5
	case 2:
		use.total += 7
		data["total_tokens"] = use.total
	case 3:
		data["chat_id"], data["agent_name"], data["unknown"] = fmt.Sprint(m.name, "-chat-", m.rng.IntN(5)), "A", []any{nil, 1.5}
	}
	switch {
	case id == "":
	case m.rng.IntN(3) == 0:
		entry["data"].(map[string]any)["event_id"] = id
	default:
		entry["event_id"] = id
	}
	e := reportEntry{text: encoded(entry), app: entry["app_id"].(string), key: id, given: id != "", use: use}
	if id == "" {
		e.key = string(e.text)
	}
	return e
}

// conflict has the id of an entry that was queued before, and other content.
func (m *entryMaker) conflict() reportEntry {
	known := m.sent[m.rng.IntN(len(m.sent))]
	entry, _ := m.base()
	entry["event_id"], entry["app_id"] = known.key, known.app
	return reportEntry{text: encoded(entry), fault: "conflict"}
}

// bad makes an entry that cannot be counted.
func (m *entryMaker) bad() reportEntry {
	entry, data := m.base()
	broken := []struct {
		fault string
		apply func()
	}{
		{"MISSING_FIELD", func() { delete(entry, "app_id") }},
		{"MISSING_FIELD", func() { entry["user_id"] = nil }},
		{"MISSING_FIELD", func() { entry["data"] = map[string]any{"model": "m"} }},
		{"MISSING_FIELD", func() { delete(entry, "data") }},
		{"INVALID_TYPE", func() { entry["data"] = []int{1} }},
		{"INVALID_TYPE", func() { entry["event_type"] = 7 }},
		{"INVALID_TYPE", func() { data["input_tokens"] = "12" }},
		{"INVALID_NUMBER", func() { data["output_tokens"] = 1.5 }},
		{"OUT_OF_RANGE", func() { data["input_tokens"] = -1 }},
		{"TOTAL_BELOW_SUM", func() { data["total_tokens"], data["input_tokens"] = 3, 4 }},
		{"INVALID_TIMESTAMP", func() { entry["timestamp"] = "yesterday" }},
		{"INVALID_TIMESTAMP", func() { entry["timestamp"] = m.start.Format("2006-01-02T15:04:05.000000") }},
		{"TIMESTAMP_TOO_OLD", func() { entry["timestamp"] = m.start.AddDate(0, 0, -40).Format(time.RFC3339) }},
		{"TIMESTAMP_IN_FUTURE", func() { entry["timestamp"] = m.start.AddDate(0, 0, 4).Format(time.RFC3339) }},
		{"INVALID_LENGTH", func() { entry["app_id"] = strings.Repeat("a", 129) }},
		{"INVALID_LENGTH", func() { entry["event_id"] = "" }},
		{"TOO_DEEP", func() { data["extra"] = json.RawMessage(strings.Repeat("[", 70) + strings.Repeat("]", 70)) }},
		{"METADATA_TOO_LARGE", func() { data["metadata"] = map[string]any{"a": strings.Repeat("x", 5000)} }},
	}
	texts := []struct{ fault, text string }{
		{"NOT_AN_OBJECT", `7`},
		{"NOT_AN_OBJECT", `null`},
		{"NOT_AN_OBJECT", `[{}]`},
		{"MISSING_FIELD", `{}`},
		{"REPEATED_KEY", `{"app_id":"a","app_id":"a"}`},
		{"INVALID_TEXT", `{"user_id":"\ud800"}`},
		{"INVALID_TEXT", "{\"user_id\":\"\xff\"}"},
	}
	n := m.rng.IntN(len(broken) + len(texts))
	if n >= len(broken) {
		c := texts[n-len(broken)]
		return reportEntry{text: json.RawMessage(c.text), fault: c.fault}
	}
	broken[n].apply()
	return reportEntry{text: encoded(entry), fault: broken[n].fault}
}

func encoded(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what the test makes can be encoded
	}
	return text
}
