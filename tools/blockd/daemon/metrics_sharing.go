package daemon

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/extmap"
	replicated "blockd.dev/replication/volume"
)

// sharingMetrics are of the network between nodes, and of volumes of several
// copies.
type sharingMetrics struct {
	peerUp, peerRTT, peerLost, peerPackets                *prometheus.Desc
	linkPackets, linkBytes, linkDropped, linkPolled       *prometheus.Desc
	frames                                                *prometheus.Desc
	leases, replicas, owned, waiting, repairs, equalized  *prometheus.Desc
	ownerSeconds, ownerRequests, rebuildLeft, notWritable *prometheus.Desc
	rebuildCompared, rebuildCopied, rebuildPause, moving  *prometheus.Desc
	unsure, lostRegions, lostWrites                       *prometheus.Desc
	scrubRunning, scrubBytes, scrubRounds, scrubFinish    *prometheus.Desc
	scrubFound, scrubAt                                   *prometheus.Desc
}

func newSharingMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) sharingMetrics {
	return sharingMetrics{
		peerUp:      desc("network_peer_up", "1 while the node is connected to another for data, else 0.", "node"),
		peerRTT:     desc("network_peer_rtt_seconds", "Smoothed round trip to another node.", "node"),
		peerLost:    desc("network_peer_lost_packets_total", "Packets to another node that were declared lost.", "node"),
		peerPackets: desc("network_peer_packets_total", "Packets of the connection to another node.", "node", "direction"),
		linkPackets: desc("network_link_packets_total", "Datagrams of a link.", "link", "mode", "direction"),
		linkBytes:   desc("network_link_bytes_total", "Bytes of datagrams of a link.", "link", "mode", "direction"),
		linkDropped: desc("network_link_dropped_total", "Datagrams that a link could not take, by reason.", "link", "mode", "reason"),
		linkPolled:  desc("network_link_poll_seconds_total", "Time spent polling a link.", "link", "mode"),
		frames:      desc("network_xdp_frames_total", "Frames that the NIC's program saw, by what became of them.", "queue", "fate"),

		leases:          desc("volume_leases", "Leases of volumes that the node has."),
		replicas:        desc("volume_replicas", "Copies of a volume, by state.", "volume", "state"),
		owned:           desc("volume_owned", "1 on the node that owns the volume, else 0.", "volume"),
		waiting:         desc("volume_waiting_requests", "Requests that wait for an owner, or for copies.", "volume"),
		repairs:         desc("volume_repairs_total", "Ranges that a copy could not read, and that were written again.", "volume"),
		equalized:       desc("volume_takeover_writes_total", "Writes of an earlier owner that this one had to repeat.", "volume"),
		ownerSeconds:    desc("volume_owner_seconds_total", "Time that requests of hosts spent at the owner, by stage.", "volume", "stage"),
		ownerRequests:   desc("volume_owner_requests_total", "Requests whose time that is.", "volume", "stage"),
		rebuildLeft:     desc("volume_rebuild_regions", "Regions of 64 KiB that copies which are brought back still lack.", "volume"),
		moving:          desc("volume_moving_regions", "Regions of 64 KiB of extents that move to another disk and are not there yet.", "volume"),
		rebuildCompared: desc("volume_rebuild_compared_bytes_total", "Bytes of copies that are brought back whose versions were compared.", "volume"),
		rebuildCopied:   desc("volume_rebuild_copied_bytes_total", "Bytes that were sent to copies that are brought back; holes are none.", "volume"),
		rebuildPause:    desc("volume_rebuild_pause_seconds", "What each step of bringing copies back waits for the sake of hosts.", "volume"),
		notWritable:     desc("volume_unwritable_bytes", "Bytes with too few copies in sync to be written.", "volume"),
		unsure:          desc("volume_unsure_bytes", "Bytes that wait for a disk that is away, since those that are there may have lost something.", "volume"),
		lostRegions:     desc("volume_lost_regions_total", "Regions of 64 KiB that a disk had lost though it had said that they were durable; they were taken from others.", "volume", "disk"),
		lostWrites:      desc("volume_lost_writes_total", "Writes, about, without which a disk came back though it had said that they were durable.", "volume", "disk"),

		scrubRunning: desc("volume_scrub_running", "1 while the node compares the copies of the volume.", "volume"),
		scrubAt:      desc("volume_scrub_reached_bytes", "Where the round under way is, or goes on after a pause; 0 when there is none.", "volume"),
		scrubBytes:   desc("volume_scrub_bytes_total", "Bytes of the volume whose copies the node has compared.", "volume"),
		scrubRounds:  desc("volume_scrub_rounds_total", "Scrubs of the volume by the node that came to the end.", "volume"),
		scrubFinish:  desc("volume_scrub_last_finished_seconds", "When the last one ended, in seconds since 1970; 0 for never.", "volume"),
		scrubFound:   desc("volume_scrub_regions_total", "Regions of 64 KiB in which these found something.", "volume", "found"),
	}
}

func (c *sharingMetrics) collect(m sink, s *sharing, state *catalog.State) {
	stats := s.network.endpoint.Stats()
	for _, p := range stats.Peers {
		name, up := s.d.nodeNamed(p.Node), 0.0
		if p.Up {
			up = 1
		}
		m.gauge(c.peerUp, up, name)
		m.gauge(c.peerRTT, p.Wire.SmoothedRTT.Seconds(), name)
		m.counter(c.peerLost, float64(p.Wire.TxLost), name)
		m.counter(c.peerPackets, float64(p.Wire.TxPackets), name, "out")
		m.counter(c.peerPackets, float64(p.Wire.RxPackets), name, "in")
	}
	for _, l := range stats.Links {
		at, mode := l.Local.String(), l.Kind.String()
		m.counter(c.linkPackets, float64(l.Link.TxPackets), at, mode, "out")
		m.counter(c.linkPackets, float64(l.Link.RxPackets), at, mode, "in")
		m.counter(c.linkBytes, float64(l.Link.TxBytes), at, mode, "out")
		m.counter(c.linkBytes, float64(l.Link.RxBytes), at, mode, "in")
		m.counter(c.linkDropped, float64(l.Link.TxDroppedNoRoute), at, mode, "no-route")
		m.counter(c.linkDropped, float64(l.Link.TxDroppedTooLong), at, mode, "too-long")
		m.counter(c.linkDropped, float64(l.Link.RxDroppedNoBuffer), at, mode, "no-buffer")
		m.counter(c.linkDropped, float64(l.Link.RxInvalid), at, mode, "invalid")
		m.counter(c.linkPolled, l.Poll.Spun.Seconds(), at, mode)
	}
	c.collectFrames(m, s.network)
	m.gauge(c.leases, float64(s.pulse.Held()))
	for _, v := range s.all() {
		c.collectVolume(m, v, state)
	}
}

// collectFrames tells what the steering program did, where there is one.
func (c *sharingMetrics) collectFrames(m sink, n *network) {
	if n.device == nil {
		return
	}
	counters, err := n.device.Steer().Counters()
	if err != nil {
		return // the NIC is going away
	}
	for i, q := range counters.Queues {
		queue := strconv.Itoa(i)
		for fate, count := range map[string]uint64{"redirected": q.Redirected, "no-socket": q.NoSocket, "unknown-peer": q.UnknownPeer,
			"malformed": q.Malformed, "fragment": q.Fragments, "other": q.Other} {
			m.counter(c.frames, float64(count), queue, fate)
		}
	}
}

func (c *sharingMetrics) collectVolume(m sink, v *sharedVolume, state *catalog.State) {
	cv := state.VolumeByID(v.id)
	if cv == nil {
		return
	}
	count := map[extmap.SyncState]int{extmap.InSync: 0, extmap.OutOfSync: 0, extmap.Rebuilding: 0}
	for _, r := range state.Replicas(v.id) {
		count[r.Sync]++
	}
	for sync, n := range count {
		m.gauge(c.replicas, float64(n), cv.Name, sync.String())
	}
	st, members, disks := v.standing()
	owned := 0.0
	if st.Owner {
		owned = 1
	}
	m.gauge(c.owned, owned, cv.Name)
	m.gauge(c.waiting, float64(st.Waiting+st.Volume.Waiting), cv.Name)
	c.collectScrub(m, v, cv.Name)
	if !st.Owner {
		return
	}
	o := st.Volume
	m.counter(c.repairs, float64(o.Repairs), cv.Name)
	m.counter(c.equalized, float64(o.Equalized), cv.Name)
	for stage, l := range map[string]struct {
		seconds float64
		count   uint64
	}{
		"lock": {o.Lock.Sum.Seconds(), o.Lock.Count}, "read": {o.Reads.Sum.Seconds(), o.Reads.Count},
		"write": {o.Writes.Sum.Seconds(), o.Writes.Count}, "slowest-copy": {o.Slow.Sum.Seconds(), o.Slow.Count},
	} {
		m.counter(c.ownerSeconds, l.seconds, cv.Name, stage)
		m.counter(c.ownerRequests, float64(l.count), cv.Name, stage)
	}
	left, moving := regionsLeft(o.Members)
	m.gauge(c.rebuildLeft, float64(left), cv.Name)
	m.gauge(c.moving, float64(moving), cv.Name)
	m.counter(c.rebuildCompared, float64(o.Compared), cv.Name)
	m.counter(c.rebuildCopied, float64(o.Copied), cv.Name)
	m.gauge(c.rebuildPause, o.Pause.Seconds(), cv.Name)
	m.gauge(c.notWritable, float64(o.Below), cv.Name)
	m.gauge(c.unsure, float64(o.Unsure), cv.Name)
	for i := range members {
		disk := numberName(state, disks[i])
		m.counter(c.lostRegions, float64(members[i].LostRegions), cv.Name, disk)
		m.counter(c.lostWrites, float64(members[i].LostWrites), cv.Name, disk)
	}
}

// regionsLeft is what the members that are brought back lack, and what has not come of extents that move.
func regionsLeft(members []replicated.MemberStatus) (back, moving int64) {
	for _, r := range members {
		back += r.Left
		moving += r.Arriving.Left
	}
	return back, moving
}

func (c *sharingMetrics) collectScrub(m sink, v *sharedVolume, name string) {
	running, finished, s := 0.0, 0.0, v.scrub.get()
	if s.running {
		running = 1
	}
	if !s.lastFinished.IsZero() {
		finished = float64(s.lastFinished.Unix())
	}
	m.gauge(c.scrubRunning, running, name)
	m.gauge(c.scrubAt, float64(s.at), name)
	m.gauge(c.scrubFinish, finished, name)
	m.counter(c.scrubBytes, float64(v.Scrubbed()), name)
	m.counter(c.scrubRounds, float64(s.rounds), name)
	m.counter(c.scrubFound, float64(v.scrub.differ.Load()), name, "different")
	m.counter(c.scrubFound, float64(v.scrub.unreadable.Load()), name, "unreadable")
	m.counter(c.scrubFound, float64(v.scrub.lost.Load()), name, "lost")
}
