package handlers

import (
	"fmt"
	"path/filepath"
	"testing"

	"grout/schemas"
	"grout/store"
)

// BenchmarkExecuteFinish opens and ends executions that take of a limit of their plugin,
// in groups of 64 commands.
func BenchmarkExecuteFinish(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "s.db"), store.Options{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	applyGroups(b, s, [][]schemas.CommandFrame{{
		ownFrame(schemas.ConfigSet.Name, testNow, schemas.NewConfigChange(schemas.ConfigSwitches, []byte(`{"monetization":true,"enforce":true}`)).EncodePayload(nil)),
		ownFrame(schemas.ConfigSet.Name, testNow+1, schemas.NewConfigChange(schemas.ConfigPluginPrefix+"story", []byte(storyRules)).EncodePayload(nil)),
	}}, 1)
	frame := func(id, kind string, payload []byte) schemas.CommandFrame {
		return schemas.CommandFrame{Kind: kind, AppID: "a", ID: id, Source: "//mozaiks.ai/grout/t", Time: testNow, Accepted: testNow, Payload: payload}
	}
	b.ResetTimer()
	for n := 0; n < b.N; {
		var groups [][]schemas.CommandFrame
		for range 8 {
			var group []schemas.CommandFrame
			for range 32 {
				id := fmt.Sprint("r", n)
				n++
				end := schemas.ExecutionEnd{RunID: id, Attempt: 1, OK: true, DurationMs: 1, Usage: []schemas.UsageEvent{{Model: "m", InputTokens: 50, OutputTokens: 40, TotalTokens: 90}}}
				group = append(group, frame(id, schemas.ExecutePlugin.Name, execution(id).EncodePayload(nil)), frame("f"+id, schemas.FinishPlugin.Name, end.EncodePayload(nil)))
			}
			groups = append(groups, group)
		}
		applyGroups(b, s, groups, 64)
	}
}
