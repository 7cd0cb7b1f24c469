package daemon

import (
	"cmp"
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"blockd.dev/blockdev"
	"blockd.dev/internal/adaptive"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
)

// collector turns the Stats of every part into metrics when they are scraped.
// docs/OPERATIONS.md lists them.
type collector struct {
	d *Daemon

	info, catalogRevision, events                                   *prometheus.Desc
	volumeState, volumeSize, volumeUsed                             *prometheus.Desc
	volumeOps, volumeBytes, volumeErrors, volumeLatency             *prometheus.Desc
	volumeLimit, volumeHeld, volumeHeldSeconds, volumeHeldNow       *prometheus.Desc
	sessions, connections, logins, dropped                          *prometheus.Desc
	nvmeControllers, nvmeQueues, nvmeConnections, nvmeConnects      *prometheus.Desc
	nvmeDropped, nvmeCommands, nvmeBytes, nvmeErrors                *prometheus.Desc
	nvmeKeepAlive, nvmeEvents                                       *prometheus.Desc
	pollSpinning, pollSpun, pollBudget                              *prometheus.Desc
	pollHits, pollMisses, pollParks                                 *prometheus.Desc
	arenaSize, arenaUsed, arenaPeak, arenaFailures                  *prometheus.Desc
	diskUp, diskCapacity, diskUsed, diskAvailable                   *prometheus.Desc
	storeLog, storeLogUsed, storeDirty, storeHost, storeDisk        *prometheus.Desc
	storeAmplification, storeCheckpoints, storeBatches, storeBad    *prometheus.Desc
	scrubRunning, scrubBytes, scrubErrors, scrubRounds, scrubFinish *prometheus.Desc

	sharing sharingMetrics
}

func newCollector(d *Daemon) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("blockd_"+name, help, labels, nil)
	}
	return &collector{
		d:               d,
		sharing:         newSharingMetrics(desc),
		info:            desc("info", "Always 1; the labels say what runs.", "version", "iqn", "media"),
		catalogRevision: desc("catalog_revision", "Changes that the catalog has seen."),
		events:          desc("events_total", "Events by level.", "level"),

		volumeState:   desc("volume_up", "1 while the volume is online, else 0.", "volume"),
		volumeSize:    desc("volume_size_bytes", "Size that hosts see.", "volume"),
		volumeUsed:    desc("volume_used_bytes", "Space that the volume takes.", "volume"),
		volumeOps:     desc("volume_ops_total", "Requests that ended, by operation.", "volume", "op"),
		volumeBytes:   desc("volume_bytes_total", "Bytes of requests that succeeded, by operation.", "volume", "op"),
		volumeErrors:  desc("volume_errors_total", "Requests that the storage failed, by operation.", "volume", "op"),
		volumeLatency: desc("volume_latency_seconds", "Time that the storage took, of every eighth request.", "volume", "op"),

		volumeLimit:       desc("volume_limit_per_second", "What hosts may do with the volume, in operations or bytes; missing without a limit.", "volume", "of"),
		volumeHeld:        desc("volume_held_total", "Requests that were held back to keep to the limits of the volume.", "volume"),
		volumeHeldSeconds: desc("volume_held_seconds_total", "Time that they were held for, all of them together.", "volume"),
		volumeHeldNow:     desc("volume_held_requests", "Requests that are held back now.", "volume"),

		sessions:    desc("iscsi_sessions", "Sessions now."),
		connections: desc("iscsi_connections_total", "Connections accepted."),
		logins:      desc("iscsi_logins_total", "Logins by result.", "result"),
		dropped:     desc("iscsi_sessions_dropped_total", "Sessions that ended without logout."),

		nvmeControllers: desc("nvme_controllers", "Controllers now.", "type"),
		nvmeQueues:      desc("nvme_io_queues", "I/O queues now."),
		nvmeConnections: desc("nvme_connections_total", "Connections accepted."),
		nvmeConnects:    desc("nvme_connects_total", "Attempts to connect a queue by result.", "result"),
		nvmeDropped:     desc("nvme_queues_dropped_total", "Queues that ended by an error."),
		nvmeCommands:    desc("nvme_commands_total", "Commands that ended, by name.", "set", "command"),
		nvmeBytes:       desc("nvme_bytes_total", "Bytes of I/O commands that succeeded.", "direction"),
		nvmeErrors:      desc("nvme_errors_total", "Commands that ended with another status than success.", "status"),
		nvmeKeepAlive:   desc("nvme_keep_alive_timeouts_total", "Controllers whose host fell silent."),
		nvmeEvents:      desc("nvme_events_total", "Asynchronous events that hosts were told of.", "event"),

		pollSpinning: desc("poll_spinning", "Connections that are polled now.", "frontend"),
		pollSpun:     desc("poll_spin_seconds_total", "Time spent polling.", "frontend"),
		pollBudget:   desc("poll_budget_seconds", "For how long the busiest connection is polled before its reader sleeps.", "frontend"),
		pollHits:     desc("poll_hits_total", "Waits that polling ended.", "frontend"),
		pollMisses:   desc("poll_misses_total", "Polls that gave up.", "frontend"),
		pollParks:    desc("poll_parks_total", "Waits that a wake-up ended.", "frontend"),

		arenaSize:     desc("arena_size_bytes", "Memory for I/O buffers."),
		arenaUsed:     desc("arena_used_bytes", "Of it, lent out now."),
		arenaPeak:     desc("arena_peak_bytes", "Most ever lent out."),
		arenaFailures: desc("arena_failures_total", "Requests for a buffer that found none."),

		diskUp:             desc("disk_up", "1 while the disk is online, else 0.", "disk", "driver"),
		diskCapacity:       desc("disk_capacity_bytes", "What volumes can hold.", "disk"),
		diskUsed:           desc("disk_used_bytes", "What volumes hold.", "disk"),
		diskAvailable:      desc("disk_available_bytes", "What is left.", "disk"),
		storeLog:           desc("store_log_bytes", "Size of the write-ahead log.", "disk"),
		storeLogUsed:       desc("store_log_used_bytes", "Of it, since the last checkpoint.", "disk"),
		storeDirty:         desc("store_dirty_bytes", "Acknowledged data that is in the log only.", "disk"),
		storeHost:          desc("store_host_bytes_total", "Bytes that volumes read and wrote.", "disk", "direction"),
		storeDisk:          desc("store_written_bytes_total", "Bytes written to the disk, by purpose.", "disk", "purpose"),
		storeAmplification: desc("store_write_amplification", "Bytes written to the disk per byte that volumes wrote.", "disk"),
		storeCheckpoints:   desc("store_checkpoints_total", "Checkpoints.", "disk"),
		storeBatches:       desc("store_log_batches_total", "Group commits.", "disk"),
		storeBad:           desc("store_bad_blocks_total", "Reads that found an error or a wrong checksum.", "disk"),

		scrubRunning: desc("scrub_running", "1 while a scrub runs.", "disk"),
		scrubBytes:   desc("scrub_bytes_total", "Bytes that scrubs have read.", "disk"),
		scrubErrors:  desc("scrub_errors_total", "Errors that scrubs have found.", "disk"),
		scrubRounds:  desc("scrub_rounds_total", "Scrubs that came to the end.", "disk"),
		scrubFinish:  desc("scrub_last_finished_seconds", "When the last scrub ended, in seconds since 1970; 0 for never.", "disk"),
	}
}

// Describe implements prometheus.Collector; the set of metrics depends on what
// the node has.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := sink{ch}
	s := c.d.catalog.State()
	m.gauge(c.info, 1, Version(), s.IQN, string(c.d.cfg.Media))
	m.gauge(c.catalogRevision, float64(s.Revision))
	for _, lv := range []level{levelInfo, levelWarning, levelError} {
		m.counter(c.events, float64(c.d.events.count(lv)), string(lv))
	}
	for i := range s.Volumes {
		if c.d.serves(s, &s.Volumes[i]) {
			c.collectVolume(m, &s.Volumes[i])
		}
	}
	if c.d.iscsi != nil {
		st := c.d.iscsi.Stats()
		m.gauge(c.sessions, float64(st.Sessions))
		m.counter(c.connections, float64(st.Accepted))
		m.counter(c.logins, float64(st.Logins), "ok")
		m.counter(c.logins, float64(st.Failed), "failed")
		m.counter(c.dropped, float64(st.Dropped))
		c.collectPoll(m, "iscsi", st.Poll)
	}
	if c.d.nvme.server != nil {
		c.collectNVMe(m)
	}
	a := c.d.arena.Stats()
	m.gauge(c.arenaSize, float64(a.SizeBytes))
	m.gauge(c.arenaUsed, float64(a.InUseBytes))
	m.gauge(c.arenaPeak, float64(a.PeakBytes))
	m.counter(c.arenaFailures, float64(a.Failures))
	for _, s := range c.d.disks {
		c.collectDisk(m, s)
	}
	if c.d.shared.Load() != nil {
		c.sharing.collect(m, c.d.shared.Load(), s)
	}
}

// collectPoll tells how a frontend's connections wait for their hosts.
func (c *collector) collectPoll(m sink, frontend string, s adaptive.Stats) {
	m.gauge(c.pollSpinning, float64(s.Spinning), frontend)
	m.counter(c.pollSpun, s.Spun.Seconds(), frontend)
	m.gauge(c.pollBudget, s.Budget.Seconds(), frontend)
	m.counter(c.pollHits, float64(s.Hits), frontend)
	m.counter(c.pollMisses, float64(s.Misses), frontend)
	m.counter(c.pollParks, float64(s.Parks), frontend)
}

func (c *collector) collectNVMe(m sink) {
	st, sub := c.d.nvme.server.Stats(), c.d.nvme.subsystem.Stats()
	m.gauge(c.nvmeControllers, float64(sub.Controllers), "nvm")
	m.gauge(c.nvmeControllers, float64(sub.Discovery), "discovery")
	m.gauge(c.nvmeQueues, float64(sub.IOQueues))
	m.counter(c.nvmeConnections, float64(st.Accepted))
	m.counter(c.nvmeConnects, float64(st.Connects), "ok")
	m.counter(c.nvmeConnects, float64(st.Failed), "failed")
	m.counter(c.nvmeConnects, float64(st.AuthFailed), "auth-failed")
	m.counter(c.nvmeConnects, float64(st.Refused), "refused")
	m.counter(c.nvmeDropped, float64(st.Dropped))
	c.collectPoll(m, "nvme", st.Poll)
	for _, n := range sub.Commands {
		m.counter(c.nvmeCommands, float64(n.Count), cmp.Or(n.Set, "unknown"), cmp.Or(n.Name, "unknown"))
	}
	m.counter(c.nvmeBytes, float64(sub.ReadBytes), "read")
	m.counter(c.nvmeBytes, float64(sub.WriteBytes), "write")
	for _, n := range sub.Errors {
		m.counter(c.nvmeErrors, float64(n.Count), n.Status.String())
	}
	m.counter(c.nvmeKeepAlive, float64(sub.KeepAliveTimeouts))
	for _, n := range sub.Events {
		m.counter(c.nvmeEvents, float64(n.Count), n.Kind)
	}
}

func (c *collector) collectVolume(m sink, cv *catalog.Volume) {
	up := 0.0
	if state, _ := c.d.volumeState(cv); state == "online" || state == string(director.Degraded) {
		up = 1
	}
	m.gauge(c.volumeState, up, cv.Name)
	m.gauge(c.volumeSize, float64(cv.SizeBytes), cv.Name)
	v, ok := c.d.volumes.get(cv.ID)
	if !ok || v.dev == nil {
		return
	}
	used, _ := v.dev.Provisioning()
	m.gauge(c.volumeUsed, float64(used), cv.Name)
	c.collectLimits(m, cv, v.dev)
	for op := blockdev.OpRead; int(op) < opsCount; op++ {
		st := &v.dev.ops[op]
		m.counter(c.volumeOps, float64(st.ops.Load()), cv.Name, op.String())
		m.counter(c.volumeBytes, float64(st.bytes.Load()), cv.Name, op.String())
		m.counter(c.volumeErrors, float64(st.errors.Load()), cv.Name, op.String())
		buckets := map[float64]uint64{}
		var sum uint64
		for i := range latencyBuckets {
			sum += st.buckets[i].Load()
			buckets[math.Ldexp(1e-9, latencyShift+i)] = sum
		}
		sum += st.buckets[latencyBuckets].Load()
		ch := prometheus.MustNewConstHistogram(c.volumeLatency, sum, float64(st.nanos.Load())*1e-9, buckets, cv.Name, op.String())
		m.ch <- ch
	}
}

// collectLimits tells how a volume is limited, and what that did.
func (c *collector) collectLimits(m sink, cv *catalog.Volume, dev *meter) {
	if cv.Limits.IOPS > 0 {
		m.gauge(c.volumeLimit, float64(cv.Limits.IOPS), cv.Name, "operations")
	}
	if cv.Limits.BytesPerSecond > 0 {
		m.gauge(c.volumeLimit, float64(cv.Limits.BytesPerSecond), cv.Name, "bytes")
	}
	held := dev.limiter.Stats()
	m.counter(c.volumeHeld, float64(held.Held), cv.Name)
	m.counter(c.volumeHeldSeconds, held.Waited.Seconds(), cv.Name)
	m.gauge(c.volumeHeldNow, float64(held.Now), cv.Name)
}

func (c *collector) collectDisk(m sink, s *storage) {
	st, disk := s.store.Stats(), s.path
	up := 0.0
	if st.Failure == "" {
		up = 1
	}
	m.gauge(c.diskUp, up, disk, st.Disk.Driver)
	m.gauge(c.diskCapacity, float64(st.CapacityBytes), disk)
	m.gauge(c.diskUsed, float64(st.UsedBytes), disk)
	m.gauge(c.diskAvailable, float64(st.AvailableBytes), disk)
	m.gauge(c.storeLog, float64(st.LogBytes), disk)
	m.gauge(c.storeLogUsed, float64(st.LogUsedBytes), disk)
	m.gauge(c.storeDirty, float64(st.DirtyBytes), disk)
	m.counter(c.storeHost, float64(st.HostReadBytes), disk, "read")
	m.counter(c.storeHost, float64(st.HostWriteBytes), disk, "write")
	m.counter(c.storeDisk, float64(st.DataBytes), disk, "data")
	m.counter(c.storeDisk, float64(st.LogWriteBytes), disk, "log")
	m.counter(c.storeDisk, float64(st.HomeBytes), disk, "home")
	m.counter(c.storeDisk, float64(st.MetaBytes), disk, "metadata")
	m.gauge(c.storeAmplification, st.WriteAmplification(), disk)
	m.counter(c.storeCheckpoints, float64(st.Checkpoints), disk)
	m.counter(c.storeBatches, float64(st.Batches), disk)
	m.counter(c.storeBad, float64(st.BadBlocks), disk)

	scrub := s.scrub.get()
	running, finished := 0.0, 0.0
	if scrub.running {
		running = 1
	}
	if !scrub.lastFinished.IsZero() {
		finished = float64(scrub.lastFinished.Unix())
	}
	m.gauge(c.scrubRunning, running, disk)
	m.counter(c.scrubBytes, float64(st.ScrubbedBytes), disk)
	m.counter(c.scrubErrors, float64(scrub.errors), disk)
	m.counter(c.scrubRounds, float64(scrub.rounds), disk)
	m.gauge(c.scrubFinish, finished, disk)
}

// sink sends metrics of a kind.
type sink struct{ ch chan<- prometheus.Metric }

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
