package daemon

import (
	"fmt"
	"net"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/director"
	"blockd.dev/target/iscsi"
)

// diagnose looks at every part and says how it is, worst last within a part.
func (d *Daemon) diagnose() []*blockdv1.Finding {
	var out []*blockdv1.Finding
	add := func(lv, subject, advice, format string, args ...any) {
		out = append(out, &blockdv1.Finding{Level: lv, Subject: subject, Message: fmt.Sprintf(format, args...), Advice: advice})
	}
	const ok, warning, bad = "ok", string(levelWarning), string(levelError)

	if err := d.catalog.Err(); err != nil {
		add(bad, "catalog", "repair the file system of the data directory and restart blockd", "%v", err)
	} else {
		add(ok, "catalog", "", "revision %d in %s", d.catalog.State().Revision, d.data.path)
	}

	a := d.arena.Stats()
	if a.HugePages == "hugetlb" {
		add(ok, "memory", "", "I/O buffers of %s in reserved huge pages", units.FormatBytes(a.SizeBytes))
	} else {
		kind := "small pages"
		if a.HugePages == "thp" {
			kind = "transparent huge pages"
		}
		add(warning, "memory", a.Reason, "I/O buffers of %s are in %s rather than in reserved huge pages", units.FormatBytes(a.SizeBytes), kind)
	}
	if a.Failures > 0 {
		add(warning, "memory", "raise --arena-size", "%d requests found no free buffer", a.Failures)
	}

	if len(d.disks) == 0 {
		add(ok, "disk", "", "none: volumes are in memory and end with the process")
	}
	for _, disk := range d.disks {
		disk.diagnose(add)
	}
	for _, lost := range d.lostDisks {
		add(bad, "disk "+lost.disk.Path, "bring it back, or remove it from the cluster when it is gone for good", "%s", lost.reason)
	}

	s := d.catalog.State()
	working, here := 0, 0
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if !d.serves(s, v) {
			continue
		}
		here++
		switch state, reason := d.volumeState(v); {
		case state == "online" && reason == "":
			working++
		case state == "deleting" && reason == "", state == string(director.Starting):
		case state == string(director.Degraded):
			working++
			add(warning, "volume "+v.Name, "see `blockctl explain "+v.Name+"`", "%s", reason)
		case state == "read-only":
			add(warning, "volume "+v.Name, "", "it is read-only")
		default:
			add(bad, "volume "+v.Name, "see the disk it is on and `blockctl events`", "%s: %s", state, reason)
		}
	}
	add(ok, "volumes", "", "%d of %d online", working, here)
	d.shared.Load().diagnoseScrubs(add)
	d.diagnoseMended(add)

	if d.iscsi == nil {
		add(ok, "iscsi", "", "this node has not the role target")
	} else {
		add(ok, "iscsi", "", "%d sessions through %v", len(d.sessions()), d.ISCSIAddresses())
	}
	d.diagnoseNVMe(add)
	if d.plane.port == nil {
		add(warning, "api", "make or join a cluster: `blockctl cluster init` or `blockctl node join`, by way of "+d.data.join(fileSocket),
			"nothing is served at %s, since this node has no certificate", d.APIAddress())
	} else {
		add(ok, "api", "", "at %s", d.APIAddress())
	}
	if creds := d.plane.creds; creds != nil {
		if err := creds.Valid(time.Now()); err != nil {
			add(bad, "certificate", "set this node's clock; `blockctl events` says if the certificate could not be renewed", "%v", err)
		} else {
			add(ok, "certificate", "", "valid until %s", timeText(creds.Certificate().NotAfter))
		}
	}
	return out
}

func (d *Daemon) diagnoseNVMe(add func(lv, subject, advice, format string, args ...any)) {
	if d.nvme.server == nil {
		add("ok", "nvme", "", "this node has no NVMe/TCP port")
		return
	}
	var addrs []net.Addr
	for _, l := range d.nvme.ports {
		addrs = append(addrs, l.Addr())
	}
	sub, st := d.nvme.subsystem.Stats(), d.nvme.server.Stats()
	add("ok", "nvme", "", "%d controllers with %d I/O queues through %v", sub.Controllers, sub.IOQueues, addrs)
	if st.Refused > 0 {
		add("warning", "nvme", "look for hosts that connect again and again (`blockctl events`)",
			"%d connections were refused: there were too many, or too many not yet authenticated", st.Refused)
	}
	if st.AuthFailed > 0 {
		add("warning", "nvme", "see who in `blockctl events`; give that host its key again with `blockctl host set --dhchap-key-file`",
			"%d authentications failed", st.AuthFailed)
	}
	if sub.KeepAliveTimeouts > 0 {
		add("warning", "nvme", "look at the network to the hosts that `blockctl events` names",
			"%d controllers ended since their host fell silent", sub.KeepAliveTimeouts)
	}
}

func (s *storage) diagnose(add func(lv, subject, advice, format string, args ...any)) {
	st := s.store.Stats()
	switch {
	case st.State != store.StateOnline:
		add("error", "disk "+s.path, "replace or repair the disk, then restart blockd; what was acknowledged is on it", "%v: %s", st.State, st.Failure)
	case st.AvailableBytes < st.CapacityBytes/100*spaceLowPercent:
		add("warning", "disk "+s.path, "delete volumes, or let hosts discard what they don't use (fstrim)",
			"%s of %s are free; writes to a full disk fail", units.FormatBytes(st.AvailableBytes), units.FormatBytes(st.CapacityBytes))
	default:
		add("ok", "disk "+s.path, "", "%s of %s are free", units.FormatBytes(st.AvailableBytes), units.FormatBytes(st.CapacityBytes))
	}
	if st.Disk.Reason != "" {
		add("warning", "driver of "+s.path, "", "%s, direct %v: %s", st.Disk.Driver, st.Disk.Direct, st.Disk.Reason)
	} else {
		add("ok", "driver of "+s.path, "", "%s, direct %v", st.Disk.Driver, st.Disk.Direct)
	}
	if st.BadBlocks > 0 {
		add("error", "disk "+s.path, "see `blockctl events`; restore what is named there from a backup, and replace the disk", "%d reads found an error or a wrong checksum", st.BadBlocks)
	}
	if scrub := s.scrub.get(); scrub.errors > 0 {
		add("error", "scrub of "+s.path, "see `blockctl events`; restore what was not repaired from a backup, and replace the disk", "%d errors, the last: %s", scrub.errors, scrub.lastError)
	} else {
		add("ok", "scrub of "+s.path, "", "%d rounds", scrub.rounds)
	}
}

// sessionParameters are the negotiated parameters under their names in RFC
// 7143 §13.
func sessionParameters(i *iscsi.SessionInfo) map[string]string {
	yes := map[bool]string{true: "Yes", false: "No"}
	digest := map[bool]string{true: "CRC32C", false: "None"}
	p := &i.Params
	out := map[string]string{
		"HeaderDigest": digest[p.HeaderDigest], "DataDigest": digest[p.DataDigest],
		"MaxRecvDataSegmentLength": fmt.Sprint(p.MaxRecvData),
		"InitialR2T":               yes[p.InitialR2T], "ImmediateData": yes[p.ImmediateData],
		"MaxBurstLength": fmt.Sprint(p.MaxBurst), "FirstBurstLength": fmt.Sprint(p.FirstBurst),
		"MaxOutstandingR2T": fmt.Sprint(p.MaxOutstandingR2T), "SessionType": "Normal",
	}
	if i.Discovery {
		out["SessionType"] = "Discovery"
	}
	return out
}
