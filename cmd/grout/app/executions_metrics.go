package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"grout/handlers/plugins"
	"grout/schemas"
)

// executionMetrics count what the effect does.
type executionMetrics struct {
	executions *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	running    prometheus.Gauge
}

func newExecutionMetrics(r prometheus.Registerer) *executionMetrics {
	m := &executionMetrics{
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grout_plugin_executions_total", Help: "Executions that this process brought to their end, by plugin and by what came of them.",
		}, []string{"plugin", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grout_plugin_execution_seconds", Help: "Time from when the log shows an execution to its end in the log, waiting for a worker included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"plugin"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "grout_plugin_executions_open", Help: "Executions in the log whose end this process is to bring about.",
		}),
	}
	r.MustRegister(m.executions, m.duration, m.running)
	return m
}

// ended counts an execution. Its outcome is completed, cancelled, or the code of its
// failure; codes of the plugins' own are one.
func (m *executionMetrics) ended(plugin string, end *schemas.ExecutionEnd, status schemas.RunStatus, took time.Duration) {
	outcome := status.String()
	if status == schemas.RunFailed {
		switch end.Code {
		case schemas.CodePluginTimeout, schemas.CodePluginError, schemas.CodePluginBusy, schemas.CodeWorkerLost, schemas.CodePluginLoadFailed:
			outcome = string(end.Code)
		default:
			outcome = "own_code"
		}
	}
	m.executions.WithLabelValues(plugin, outcome).Inc()
	m.duration.WithLabelValues(plugin).Observe(took.Seconds())
}

// pluginCollector tells Prometheus what the workers of plugins do.
type pluginCollector struct{ host *plugins.Host }

var (
	byPlugin       = []string{"plugin"}
	pluginLoaded   = prometheus.NewDesc("grout_plugin_loaded", "1 when the plugin can be called.", byPlugin, nil)
	pluginWorkers  = prometheus.NewDesc("grout_plugin_workers", "Workers of the plugin.", byPlugin, nil)
	pluginBusy     = prometheus.NewDesc("grout_plugin_workers_busy", "Workers of the plugin that have a call or are promised to one.", byPlugin, nil)
	pluginWaiting  = prometheus.NewDesc("grout_plugin_queue", "Calls that wait for a worker of the plugin.", byPlugin, nil)
	pluginStarts   = prometheus.NewDesc("grout_plugin_worker_starts_total", "Workers of the plugin that were started.", byPlugin, nil)
	pluginCrashes  = prometheus.NewDesc("grout_plugin_worker_crashes_total", "Workers of the plugin that ended by themselves.", byPlugin, nil)
	pluginReloads  = prometheus.NewDesc("grout_plugin_reloads_total", "Times that a change on disk was taken in.", byPlugin, nil)
	pluginObserved = []*prometheus.Desc{pluginLoaded, pluginWorkers, pluginBusy, pluginWaiting, pluginStarts, pluginCrashes, pluginReloads}
)

// Describe implements prometheus.Collector.
func (pluginCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range pluginObserved {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c pluginCollector) Collect(ch chan<- prometheus.Metric) {
	for _, info := range c.host.List() {
		loaded := 0.
		if info.Loaded() {
			loaded = 1
		}
		ch <- prometheus.MustNewConstMetric(pluginLoaded, prometheus.GaugeValue, loaded, info.Name)
	}
	for _, st := range c.host.Stats() {
		gauge := func(d *prometheus.Desc, n int) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), st.Name)
		}
		counter := func(d *prometheus.Desc, n uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), st.Name)
		}
		gauge(pluginWorkers, st.Workers)
		gauge(pluginBusy, st.Busy)
		gauge(pluginWaiting, st.Waiting)
		counter(pluginStarts, st.Starts)
		counter(pluginCrashes, st.Crashes)
		counter(pluginReloads, st.Reloads)
	}
}
