package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"grout/schemas"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge

	accepted, duplicates, rejected prometheus.Counter

	decisions, refusedEarly *prometheus.CounterVec

	services        *prometheus.CounterVec
	serviceDuration *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, version string) *metrics {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "grout_build_info", Help: "Always 1; the label tells the version of the program.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grout_ingest_events_total",
		Help: "Events of ingest requests that were answered with their result, replayed answers left out.",
	}, []string{"outcome"})
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grout_http_requests_total", Help: "Requests answered.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grout_http_request_duration_seconds", Help: "Time from the headers of a request to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "grout_http_requests_in_flight", Help: "Requests being answered.",
		}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grout_entitlement_decisions_total", Help: "Answers to checks and reservations, by what was asked and what was said.",
		}, []string{"asked", "decision"}),
		refusedEarly: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grout_refused_early_total", Help: "Requests refused by what is committed, without a command in the log.",
		}, []string{"error_code"}),
		services: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grout_service_requests_total", Help: "Requests of NATS services answered, by the status that HTTP has for the answer.",
		}, []string{"service", "code"}),
		serviceDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grout_service_request_duration_seconds", Help: "Time that the answer to a request of a NATS service took.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"service"}),
		accepted:   events.WithLabelValues("accepted"),
		duplicates: events.WithLabelValues("duplicate"),
		rejected:   events.WithLabelValues("rejected"),
	}
	r.MustRegister(build, events, m.decisions, m.refusedEarly, m.requests, m.duration, m.inFlight, m.services, m.serviceDuration)
	return m
}

func (m *metrics) ingested(o *schemas.IngestOutcome) {
	if o.Replayed {
		return
	}
	m.accepted.Add(float64(o.Accepted))
	m.duplicates.Add(float64(o.Duplicates))
	m.rejected.Add(float64(o.Rejected))
}
