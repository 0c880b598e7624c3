package app

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"grout/handlers/deliver"
)

var (
	byDelivery  = []string{"delivery", "partition"}
	deliverDesc = struct {
		sent, refused, failures, gaps, stopped, failing, waiting, oldest, lastSent *prometheus.Desc
	}{
		sent:     prometheus.NewDesc("grout_delivery_sent_total", "Events (upstream) or facts (webhooks) that were taken since the start.", byDelivery, nil),
		refused:  prometheus.NewDesc("grout_delivery_refused_total", "Events that the Platform refused for good, or facts that somebody had passed over, since the start.", byDelivery, nil),
		failures: prometheus.NewDesc("grout_delivery_failures_total", "Failed tries since the start; what failed is tried again.", byDelivery, nil),
		gaps:     prometheus.NewDesc("grout_delivery_gaps_total", "Times that something had expired before it was taken, since the delivery began.", byDelivery, nil),
		stopped:  prometheus.NewDesc("grout_delivery_stopped", "1 while the delivery is stopped until somebody resumes it.", byDelivery, nil),
		failing:  prometheus.NewDesc("grout_delivery_failures_in_a_row", "Failed tries since the last success.", byDelivery, nil),
		waiting:  prometheus.NewDesc("grout_delivery_lag", "Places of its source behind which the delivery is, as last seen: log positions (upstream) or sequences of MOZAIKS_EVT (webhooks).", byDelivery, nil),
		oldest:   prometheus.NewDesc("grout_delivery_oldest_age_seconds", "Age of the oldest event or fact that is known to wait; 0 when none does.", byDelivery, nil),
		lastSent: prometheus.NewDesc("grout_delivery_last_sent_timestamp_seconds", "When something was taken last; 0 before the first.", byDelivery, nil),
	}
)

// deliveryCollector tells Prometheus how deliveries are.
type deliveryCollector supervisor

// Describe implements prometheus.Collector.
func (c *deliveryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- deliverDesc.sent }

// Collect implements prometheus.Collector.
func (c *deliveryCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.clock.now()
	for number, u := range c.deliveries.upstream {
		s := u.Status()
		if n := c.current.Load(); n != nil {
			if p, err := n.partition(number); err == nil && s.State != deliver.StateIdle {
				s.Waiting = max(p.store.LogPosition(p.store.Checkpoint().Seq)+1, s.Stand.Seq) - s.Stand.Seq
			}
		}
		collectDelivery(ch, deliver.UpstreamName, strconv.Itoa(number), &s, now)
	}
	for _, w := range c.deliveries.webhooks {
		s := w.Status()
		collectDelivery(ch, w.DeliveryName(), strconv.Itoa(webhookPartition), &s, now)
	}
}

func collectDelivery(ch chan<- prometheus.Metric, name, partition string, s *deliver.Status, now time.Time) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, name, partition)
	}
	stopped, age, last := 0., 0., 0.
	if s.Stand.Stopped != "" {
		stopped = 1
	}
	if !s.Oldest.IsZero() {
		age = max(now.Sub(s.Oldest).Seconds(), 0)
	}
	if !s.SentAt.IsZero() {
		last = float64(s.SentAt.UnixNano()) / 1e9
	}
	put(deliverDesc.sent, prometheus.CounterValue, float64(s.Sent))
	put(deliverDesc.refused, prometheus.CounterValue, float64(s.Refused))
	put(deliverDesc.failures, prometheus.CounterValue, float64(s.Failures))
	put(deliverDesc.gaps, prometheus.CounterValue, float64(s.Stand.Gaps))
	put(deliverDesc.stopped, prometheus.GaugeValue, stopped)
	put(deliverDesc.failing, prometheus.GaugeValue, float64(s.InARow))
	put(deliverDesc.waiting, prometheus.GaugeValue, float64(s.Waiting))
	put(deliverDesc.oldest, prometheus.GaugeValue, age)
	put(deliverDesc.lastSent, prometheus.GaugeValue, last)
}
