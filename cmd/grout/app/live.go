package app

import (
	"context"
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"grout/bus"
	"grout/handlers/live"
	"grout/schemas"
)

// liveSource gives the hub of the live streams the facts, and liveNumbers what the store
// knows of them, from whichever node works. The hub outlives nodes.
type (
	liveSource  supervisor
	liveNumbers supervisor
)

func (s *supervisor) newHub() *live.Hub {
	h := live.New(live.Options{Source: (*liveSource)(s), Numbers: (*liveNumbers)(s), Logger: s.logger})
	s.registry.MustRegister(hubCollector{h})
	return h
}

// bus is that of the working node, once the streams are known to be those of the stores.
func (s *liveSource) bus() (*bus.Bus, error) {
	n := s.current.Load()
	if n == nil || !n.guarded.Load() {
		return nil, live.ErrUnavailable
	}
	return n.bus, nil
}

func (s *liveSource) State(ctx context.Context) (st live.StreamState, err error) {
	b, err := s.bus()
	if err != nil {
		return st, err
	}
	st.Created, st.First, st.Last, err = b.FactsState(ctx)
	return st, err
}

func (s *liveSource) Tail(ctx context.Context, subject string, after uint64) (live.Tail, error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	return b.TailFacts(ctx, subject, after)
}

func (s *liveSource) Replay(ctx context.Context, subject string, from uint64, messages, bytes int) ([]schemas.StreamMessage, uint64, error) {
	b, err := s.bus()
	if err != nil {
		return nil, 0, err
	}
	return b.ReplayFacts(ctx, subject, from, messages, bytes)
}

// Series implements live.Numbers.
func (s *liveNumbers) Series(ctx context.Context, app, chat string) (out live.Series, err error) {
	p, err := (*reads)(s).partitionOf(app)
	if err != nil {
		return out, err
	}
	if chat == "" {
		out.Last, err = p.store.FactSequence(app)
	} else {
		var c *schemas.ChatUsage
		if c, err = p.store.Chat(ctx, app, chat); c != nil {
			out.Last, out.Owner = c.Sequence, c.UserID
		}
	}
	// Asked for last: what was seen above is not behind it.
	at := p.store.Applied()
	out.Mark = schemas.Position{Epoch: at.Epoch, Seq: at.Seq, Index: math.MaxUint32, N: math.MaxUint32}
	return out, err
}

// Relayed implements live.Numbers.
func (s *liveNumbers) Relayed(_ context.Context, app string, mark schemas.Position) (bool, error) {
	p, err := (*reads)(s).partitionOf(app)
	if err != nil {
		return false, err
	}
	st, err := p.store.Relayed(schemas.DestFacts)
	if err != nil {
		return false, err
	}
	next, err := p.store.Facts(schemas.DestFacts, st.After, 1, 1)
	if err != nil {
		return false, err
	}
	return len(next) == 0 || next[0].At.Compare(mark) > 0, nil
}

// hubCollector tells Prometheus what the hub does.
type hubCollector struct{ hub *live.Hub }

var hubDescs = struct {
	readers, items, bytes, delivered, restarts, lag, replays, replayed, reading, searches, resets, retries, faults *prometheus.Desc
}{
	readers:   prometheus.NewDesc("grout_live_readers", "Readers of live streams, by the feed that they read.", []string{"feed"}, nil),
	items:     prometheus.NewDesc("grout_live_ring_facts", "Facts that a feed keeps in memory.", []string{"feed"}, nil),
	bytes:     prometheus.NewDesc("grout_live_ring_bytes", "Bytes of the facts that a feed keeps in memory.", []string{"feed"}, nil),
	delivered: prometheus.NewDesc("grout_live_facts_total", "Facts that a feed has taken from the stream since the start.", []string{"feed"}, nil),
	restarts:  prometheus.NewDesc("grout_live_restarts_total", "Times since the start that a feed had to follow the stream anew.", []string{"feed"}, nil),
	lag:       prometheus.NewDesc("grout_live_lag_seconds", "Time from the stream to the feed, of the facts that came last.", []string{"feed"}, nil),
	replays:   prometheus.NewDesc("grout_live_replays_total", "Reads of the stream since the start for readers that were behind.", nil, nil),
	replayed:  prometheus.NewDesc("grout_live_replayed_facts_total", "Facts that these reads brought.", nil, nil),
	reading:   prometheus.NewDesc("grout_live_replays_running", "Reads of the stream that are running.", nil, nil),
	searches:  prometheus.NewDesc("grout_live_searches_total", "Searches of the stream since the start for the place of a number.", nil, nil),
	resets:    prometheus.NewDesc("grout_live_resets_total", "Readers that were told since the start that something is gone.", nil, nil),
	retries:   prometheus.NewDesc("grout_live_retries_total", "Times since the start that stream or store did not answer a reader.", nil, nil),
	faults:    prometheus.NewDesc("grout_live_unreadable_facts_total", "Messages of the stream that could not be read, since the start.", nil, nil),
}

// Describe implements prometheus.Collector.
func (hubCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		hubDescs.readers, hubDescs.items, hubDescs.bytes, hubDescs.delivered, hubDescs.restarts, hubDescs.lag, hubDescs.replays,
		hubDescs.replayed, hubDescs.reading, hubDescs.searches, hubDescs.resets, hubDescs.retries, hubDescs.faults,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c hubCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.hub.Stats()
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, f := range s.Feeds {
		gauge(hubDescs.readers, float64(f.Readers), f.Name)
		gauge(hubDescs.items, float64(f.Items), f.Name)
		gauge(hubDescs.bytes, float64(f.Bytes), f.Name)
		counter(hubDescs.delivered, f.Delivered, f.Name)
		counter(hubDescs.restarts, f.Restarts, f.Name)
		gauge(hubDescs.lag, f.Lag.Seconds(), f.Name)
	}
	counter(hubDescs.replays, s.Replays)
	counter(hubDescs.replayed, s.Replayed)
	gauge(hubDescs.reading, float64(s.Reading))
	counter(hubDescs.searches, s.Searches)
	counter(hubDescs.resets, s.Resets)
	counter(hubDescs.retries, s.Retries)
	counter(hubDescs.faults, s.Faults)
}
