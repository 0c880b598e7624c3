package app

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// collector tells Prometheus what the partitions have done.
type collector supervisor

var (
	byPartition = []string{"partition"}
	descs       = struct {
		applied, transactions, events, commit, backlog, queue, queueBytes, adjustments *prometheus.Desc
		outbox, waiting, facts, batches, relayErrors, ids, idBytes, file, sequence     *prometheus.Desc
		snapshots, snapshotFailures, snapshotSequence, trimmed, heals, alarms          *prometheus.Desc
		quarantined, chats                                                             *prometheus.Desc
		clockSteps, lastTick, expiryWaits, expiredUntil                                *prometheus.Desc
		checks, damage                                                                 *prometheus.Desc
		letters, lettersFiled                                                          *prometheus.Desc
		published, publishedWaiting                                                    *prometheus.Desc
		sourceUp, sourceFailures, configured                                           *prometheus.Desc
	}{
		applied:          prometheus.NewDesc("grout_apply_messages_total", "Command groups applied since the start.", byPartition, nil),
		transactions:     prometheus.NewDesc("grout_store_transactions_total", "Transactions committed since the start.", byPartition, nil),
		events:           prometheus.NewDesc("grout_usage_events_total", "Usage events counted since the start.", byPartition, nil),
		adjustments:      prometheus.NewDesc("grout_usage_adjustments_total", "Events voided or amended since the start.", []string{"partition", "kind"}, nil),
		commit:           prometheus.NewDesc("grout_store_commit_seconds_total", "Time spent in commits since the start.", byPartition, nil),
		backlog:          prometheus.NewDesc("grout_apply_backlog_messages", "Command groups in the stream that are not applied yet.", byPartition, nil),
		queue:            prometheus.NewDesc("grout_accept_queue_commands", "Commands that wait for the stream.", byPartition, nil),
		queueBytes:       prometheus.NewDesc("grout_accept_queue_bytes", "Bytes of commands that wait for the stream.", byPartition, nil),
		outbox:           prometheus.NewDesc("grout_outbox_rows", "Rows of facts that wait to be published.", []string{"partition", "destination"}, nil),
		waiting:          prometheus.NewDesc("grout_outbox_facts", "Facts that wait to be published: a row may stand for many.", byPartition, nil),
		facts:            prometheus.NewDesc("grout_relay_facts_total", "Facts published since the start.", []string{"partition", "destination"}, nil),
		batches:          prometheus.NewDesc("grout_relay_batches_total", "Atomic batches published since the start.", []string{"partition", "destination"}, nil),
		relayErrors:      prometheus.NewDesc("grout_relay_errors_total", "Failed tries to publish since the start.", []string{"partition", "destination"}, nil),
		ids:              prometheus.NewDesc("grout_ids", "Identities that are remembered.", byPartition, nil),
		idBytes:          prometheus.NewDesc("grout_id_table_bytes", "Memory of the table of identities.", byPartition, nil),
		chats:            prometheus.NewDesc("grout_chats", "Chats that are known.", byPartition, nil),
		file:             prometheus.NewDesc("grout_store_file_bytes", "Size of the store's file.", byPartition, nil),
		checks:           prometheus.NewDesc("grout_stream_checks_total", "Times that every message of a stream was read from the disk and judged.", []string{"stream"}, nil),
		damage:           prometheus.NewDesc("grout_stream_damage", "Places of a stream that the last look found damaged.", []string{"stream"}, nil),
		sourceUp:         prometheus.NewDesc("grout_config_source_up", "1 when a source of configuration could be read at the last look, 0 when what it said before still holds.", []string{"source"}, nil),
		sourceFailures:   prometheus.NewDesc("grout_config_source_failures_total", "Looks since the start at which a source of configuration could not be used.", []string{"source"}, nil),
		configured:       prometheus.NewDesc("grout_config_changes_total", "Configurations from outside that were written into the log of a partition since the start.", nil, nil),
		quarantined:      prometheus.NewDesc("grout_partition_quarantined", "1 when the store of the partition is damaged and in quarantine.", byPartition, nil),
		heals:            prometheus.NewDesc("grout_heals_total", "Times that store and bus were opened anew after a fault.", nil, nil),
		alarms:           prometheus.NewDesc("grout_guard_alarms_total", "Losses that grout went on without since the start, by name.", []string{"name", "partition"}, nil),
		letters:          prometheus.NewDesc("grout_dead_letters", "Dead letters that wait to be sent again or dropped.", byPartition, nil),
		lettersFiled:     prometheus.NewDesc("grout_dead_letters_filed_total", "Dead letters filed since the start.", byPartition, nil),
		published:        prometheus.NewDesc("grout_published_commands_total", "Commands of others on the bus since the start: stored in the log, and of those whose outcome came in time, done, refused or dead. Dead letters of what is no command are done.", []string{"partition", "outcome"}, nil),
		publishedWaiting: prometheus.NewDesc("grout_published_commands_waiting", "Commands of others in MOZAIKS_IN that are not in the log yet.", byPartition, nil),
		snapshots:        prometheus.NewDesc("grout_snapshots_total", "Snapshots taken since the start.", byPartition, nil),
		snapshotFailures: prometheus.NewDesc("grout_snapshot_failures_total", "Snapshots or trimmings that failed since the start.", byPartition, nil),
		snapshotSequence: prometheus.NewDesc("grout_snapshot_stream_sequence", "Stream sequence of the newest snapshot.", byPartition, nil),
		trimmed:          prometheus.NewDesc("grout_trimmed_stream_sequence", "Stream sequence below which this process has trimmed the command stream.", byPartition, nil),
		clockSteps:       prometheus.NewDesc("grout_clock_steps_total", "Steps of the clock between two ticks since the store was made; nothing expires until 24 hourly ticks have followed.", byPartition, nil),
		lastTick:         prometheus.NewDesc("grout_clock_last_tick_timestamp_seconds", "Time of the newest tick in the log, hourly or for what was due; 0 before the first.", byPartition, nil),
		expiryWaits:      prometheus.NewDesc("grout_expiry_wait_ticks", "Hourly ticks until segments expire again after a step of the clock.", byPartition, nil),
		expiredUntil:     prometheus.NewDesc("grout_expired_until_timestamp_seconds", "What arrived until then has expired; 0 before anything has.", byPartition, nil),
		sequence:         prometheus.NewDesc("grout_applied_stream_sequence", "Stream sequence of the last applied group.", byPartition, nil),
	}
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descs.heals /* the others depend on what runs */
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descs.heals, prometheus.CounterValue, float64(c.heals.Load()))
	c.checks.each(func(stream string, looks int64, found int) {
		ch <- prometheus.MustNewConstMetric(descs.checks, prometheus.CounterValue, float64(looks), stream)
		ch <- prometheus.MustNewConstMetric(descs.damage, prometheus.GaugeValue, float64(found), stream)
	})
	c.alarms.each(func(name string, partition int, n int64) {
		ch <- prometheus.MustNewConstMetric(descs.alarms, prometheus.CounterValue, float64(n), name, strconv.Itoa(partition))
	})
	ch <- prometheus.MustNewConstMetric(descs.configured, prometheus.CounterValue, float64(c.sources.changed.Load()))
	c.sources.each(func(source string, ok bool, failures int64) {
		up := 0.
		if ok {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(descs.sourceUp, prometheus.GaugeValue, up, source)
		ch <- prometheus.MustNewConstMetric(descs.sourceFailures, prometheus.CounterValue, float64(failures), source)
	})
	n := c.current.Load()
	if n == nil {
		return
	}
	for number := range n.cfg.Partitions {
		in := 0.
		if n.quarantined[number] != nil {
			in = 1
		}
		ch <- prometheus.MustNewConstMetric(descs.quarantined, prometheus.GaugeValue, in, strconv.Itoa(number))
	}
	for _, p := range n.partitions {
		label := strconv.Itoa(p.number)
		counter := func(d *prometheus.Desc, v float64, more ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, append([]string{label}, more...)...)
		}
		gauge := func(d *prometheus.Desc, v float64, more ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{label}, more...)...)
		}
		st := p.store.Stats()
		messages, _ := p.backlog()
		queued, bytes := p.publisher.QueueDepth()
		counter(descs.applied, float64(p.loop.Applied()))
		counter(descs.transactions, float64(st.Transactions))
		counter(descs.events, float64(st.Events))
		counter(descs.adjustments, float64(st.Voided), "voided")
		counter(descs.adjustments, float64(st.Amended), "amended")
		counter(descs.commit, st.CommitSeconds)
		gauge(descs.backlog, float64(messages))
		gauge(descs.queue, float64(queued))
		gauge(descs.queueBytes, float64(bytes))
		gauge(descs.ids, float64(st.IDs))
		gauge(descs.idBytes, float64(st.IDBytes))
		gauge(descs.chats, float64(st.Chats))
		gauge(descs.file, float64(st.FileBytes))
		clock := p.store.Clock()
		counter(descs.clockSteps, float64(clock.Steps))
		gauge(descs.lastTick, float64(clock.LastTick)/1e9)
		gauge(descs.expiryWaits, float64(clock.Wait))
		gauge(descs.expiredUntil, float64(clock.ExpiredUntil)/1e9)
		gauge(descs.sequence, float64(p.store.Checkpoint().Seq))
		counter(descs.snapshots, float64(p.keeper.taken.Load()))
		counter(descs.snapshotFailures, float64(p.keeper.failed.Load()))
		gauge(descs.snapshotSequence, float64(p.keeper.sequence.Load()))
		gauge(descs.trimmed, float64(p.keeper.trim.Load()))
		gauge(descs.outbox, float64(st.FactRows), "evt")
		gauge(descs.outbox, float64(st.DeadLetterRows), "dlq")
		gauge(descs.waiting, float64(st.Facts))
		counter(descs.published, float64(p.pumped.brought.Load()), "stored")
		counter(descs.published, float64(p.pumped.done.Load()), "done")
		counter(descs.published, float64(p.pumped.refused.Load()), "refused")
		counter(descs.published, float64(p.pumped.dead.Load()), "dead")
		gauge(descs.publishedWaiting, float64(p.inbox.Pending()))
		waiting, filed := p.store.LettersWaiting()
		gauge(descs.letters, float64(waiting))
		counter(descs.lettersFiled, float64(filed))
		for dest, r := range p.relays {
			rs := r.Stats()
			counter(descs.facts, float64(rs.Facts), dest)
			counter(descs.batches, float64(rs.Batches), dest)
			counter(descs.relayErrors, float64(rs.Errors), dest)
		}
	}
}
