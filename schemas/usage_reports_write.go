package schemas

import "strconv"

// AppendUsageReport adds an event as an entry of POST /api/billing/usage-events, as
// ParseUsageReports reads it. What a chat's summary states beside its deltas is told
// once: a summary, and a delta that a summary covers, say what was booked of them.
func AppendUsageReport(dst []byte, e *UsageEvent) []byte {
	n := reportedSums(e)
	dst = append(dst, `{"event_type":"usage","event_id":`...)
	dst = AppendJSONString(dst, e.EventID)
	dst = append(dst, `,"app_id":`...)
	dst = AppendJSONString(dst, e.AppID)
	dst = append(dst, `,"user_id":`...)
	dst = AppendJSONString(dst, e.UserID)
	dst = appendTextField(dst, `,"tenant_id":`, e.TenantID)
	dst = append(dst, `,"timestamp":"`...)
	dst = AppendInstant(dst, e.Timestamp)
	dst = append(dst, `","data":{"model":`...)
	dst = AppendJSONString(dst, e.Model)
	dst = appendTextField(dst, `,"workflow_id":`, e.WorkflowID)
	dst = appendTextField(dst, `,"chat_id":`, e.ChatID)
	dst = appendTextField(dst, `,"run_id":`, e.RunID)
	dst = appendTextField(dst, `,"agent_name":`, e.AgentName)
	dst = appendTextField(dst, `,"invocation_id":`, e.InvocationID)
	for _, f := range [...]struct {
		name   string
		n      int64
		always bool
	}{
		{`,"input_tokens":`, n.InputTokens, true},
		{`,"output_tokens":`, n.OutputTokens, true},
		{`,"total_tokens":`, n.TotalTokens, true},
		{`,"cached_tokens":`, n.CachedTokens, false},
		{`,"reasoning_tokens":`, n.ReasoningTokens, false},
	} {
		if f.always || f.n != 0 {
			dst = strconv.AppendInt(append(dst, f.name...), f.n, 10)
		}
	}
	if n.Cost != (Amount{}) {
		dst = AppendAmount(append(dst, `,"cost":`...), n.Cost)
	}
	if e.DurationSec != 0 {
		dst = strconv.AppendFloat(append(dst, `,"duration_sec":`...), e.DurationSec, 'g', -1, 64)
	}
	if e.Cached {
		dst = append(dst, `,"cached":true`...)
	}
	if len(e.Metadata) > 0 {
		dst = append(append(dst, `,"metadata":`...), e.Metadata...)
	}
	return append(dst, '}', '}')
}

// Reported tells whether there is anything to report of an event: a summary of which
// nothing was booked says nothing new.
func (e *UsageEvent) Reported() bool {
	return !e.Summary || e.Counted == nil || *e.Counted != UsageSums{Events: e.Counted.Events}
}

// reportedSums is what an event is reported with. A total that was booked may be less
// than its parts, which no report may say.
func reportedSums(e *UsageEvent) UsageSums {
	n := UsageSums{
		InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens,
		CachedTokens: e.CachedTokens, ReasoningTokens: e.ReasoningTokens, Cost: AmountOf(e.Cost),
	}
	if e.Counted != nil {
		n = *e.Counted
		n.TotalTokens = max(n.TotalTokens, n.InputTokens+n.OutputTokens)
	}
	return n
}
