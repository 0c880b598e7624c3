package integration

import (
	"strings"
	"testing"
)

// What a request causes carries its correlation id and its trace, also what only the end
// of the plugin, or a later process, brings about (contract §1).
func TestExecutionsAreTraced(t *testing.T) {
	w := startPlugins(t, 1, map[string]string{
		"talk/logic.py":    "from core.event_bus import publish\ndef execute(data):\n    publish('said', {})\n    return {'_usage': [{'model': 'm', 'input_tokens': 3, 'output_tokens': 4}]}\n",
		"fall/logic.py":    "def execute(data):\n    raise ValueError('no')\n",
		"once/logic.py":    "import time\ndef execute(data):\n    time.sleep(2)\n    return {}\n",
		"once/plugin.yaml": "retry_on_crash: true\nlimits: {timeout: 30s}\n",
		"talk/plugin.yaml": "name: talk\n",
		"fall/plugin.yaml": "name: fall\n",
	})
	w.warm(t, "talk", "fall", "once")
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for plugin, status := range map[string]int{"talk": 200, "fall": 500, "once": 202} {
		headers := []string{"X-Mozaiks-Correlation-Id", "of-" + plugin, "traceparent", trace}
		if plugin == "once" {
			headers = append(headers, "Prefer", "respond-async")
		}
		w.execute(t, "ann", plugin, map[string]any{}, headers...).want(t, status)
	}
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 1 })
	w.Kill()
	w.restart(t)
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 0 })
	told := map[string]bool{}
	for _, f := range facts(t, w.Process, func(list []fact) bool { return len(list) >= 11 }) {
		if f.Correlation == "" || f.Trace != trace {
			t.Errorf("%s has correlation id %q and trace %q: %s", f.Subject, f.Correlation, f.Trace, f.Data)
		}
		told[strings.TrimPrefix(f.Correlation, "of-")+" "+strings.TrimPrefix(f.Type, "ai.mozaiks.")] = true
	}
	for _, kind := range []string{
		"talk orchestration.run_started.v1", "talk plugin.said.v1", "talk usage.recorded.v1", "talk orchestration.run_completed.v1", "talk plugin.executed.v1",
		"fall orchestration.run_failed.v1", "fall plugin.execution_error.v1", "once orchestration.run_completed.v1", "once plugin.executed.v1",
	} {
		if !told[kind] {
			t.Errorf("%s is not told: %v", kind, told)
		}
	}
}
