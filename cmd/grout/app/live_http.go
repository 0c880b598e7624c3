package app

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"grout/handlers/httpapi"
	"grout/handlers/live"
)

// livePort gives httpapi the live streams.
type livePort struct{ *live.Transports }

func newLivePort(c *Config, hub *live.Hub, logger *slog.Logger, registry prometheus.Registerer) (livePort, error) {
	p := livePort{live.NewTransports(hub, live.TransportOptions{
		AGUI: c.AGUI, MaxClients: c.LiveClients, MaxPerUser: c.LivePerUser, Logger: logger, Now: c.clock(),
	})}
	if err := registry.Register(liveCollector(p)); err != nil {
		return p, fmt.Errorf("metrics of live streams: %w", err)
	}
	return p, nil
}

// Socket implements httpapi.Live.
func (p livePort) Socket(w http.ResponseWriter, r *http.Request, s httpapi.Socket) error {
	return p.Transports.Socket(w, r, live.Socket(s))
}

// Stream implements httpapi.Live.
func (p livePort) Stream(w http.ResponseWriter, r *http.Request, s httpapi.Stream) error {
	return p.Transports.Stream(w, r, live.Stream(s))
}

// liveCollector tells Prometheus of those who watch.
type liveCollector livePort

var (
	liveClients = prometheus.NewDesc("grout_live_clients", "Live streams that are open.", []string{"transport"}, nil)
	liveFrames  = prometheus.NewDesc("grout_live_frames_total", "Frames sent on live streams since the start.", nil, nil)
	liveSlow    = prometheus.NewDesc("grout_live_slow_total", "Times that a client of a live stream took nothing for a while and was told.", nil, nil)
	liveCutOff  = prometheus.NewDesc("grout_live_cut_off_total", "Clients of live streams that were cut off because they took nothing for too long.", nil, nil)
	liveRefused = prometheus.NewDesc("grout_live_refused_total", "Live streams that were refused, by close code or because too many were open.", nil, nil)
	liveBad     = prometheus.NewDesc("grout_live_bad_frames_total", "Frames of clients that could not be taken.", nil, nil)
)

// Describe implements prometheus.Collector.
func (liveCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveClients, liveFrames, liveSlow, liveCutOff, liveRefused, liveBad} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c liveCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.Stats()
	ch <- prometheus.MustNewConstMetric(liveClients, prometheus.GaugeValue, float64(s.Sockets), "websocket")
	ch <- prometheus.MustNewConstMetric(liveClients, prometheus.GaugeValue, float64(s.Streams), "sse")
	for _, one := range []struct {
		desc *prometheus.Desc
		n    int64
	}{{liveFrames, s.Frames}, {liveSlow, s.Slow}, {liveCutOff, s.CutOff}, {liveRefused, s.Refused}, {liveBad, s.Bad}} {
		ch <- prometheus.MustNewConstMetric(one.desc, prometheus.CounterValue, float64(one.n))
	}
}
