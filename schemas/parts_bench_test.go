package schemas

import (
	"fmt"
	"testing"
)

// benchEvents are like those of the load: 50 apps, 100 users, 20 workflows, 5 models.
func benchEvents(n int) []UsageEvent {
	list := make([]UsageEvent, n)
	for i := range list {
		list[i] = UsageEvent{
			Index: uint32(i), EventID: fmt.Sprintf("%08x-0000-4000-8000-%012x", i*2654435761&0xffffffff, i), Timestamp: 1_774_000_000_000_000_000 + int64(i)*1e9,
			AppID: fmt.Sprint("app-", i%50), UserID: fmt.Sprint("user-", i*7%100), WorkflowID: fmt.Sprint("wf-", i*3%20), Model: fmt.Sprint("model-", i%5),
			InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000,
		}
	}
	return list
}

// BenchmarkEncodeBatch writes the payload of a command; BenchmarkDecodeBatch reads it.
func BenchmarkEncodeBatch(b *testing.B) {
	batch := UsageBatch{BatchID: "b", Events: benchEvents(1000)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = batch.EncodePayload(dst[:0])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/event")
	b.ReportMetric(float64(len(dst))/1000, "B/event")
}

func BenchmarkDecodeBatch(b *testing.B) {
	batch := UsageBatch{BatchID: "b", Events: benchEvents(1000)}
	src := batch.EncodePayload(nil)
	b.ReportAllocs()
	for b.Loop() {
		var got UsageBatch
		if err := got.DecodePayload(src); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/event")
}

// BenchmarkRenderFact writes a usage.recorded fact of 500 events.
func BenchmarkRenderFact(b *testing.B) {
	events := benchEvents(500)
	head := FactHead{Kind: UsageRecorded.Name, AppID: "app", ID: "id", Subject: "app/app", Cause: Cause{"c", "s"}}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendFact(dst[:0], &head, func(d []byte) []byte { return AppendUsageRecorded(d, "app", []string{"b"}, 1, 1, events) })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/event")
	b.ReportMetric(float64(len(dst))/500, "B/event")
}
