package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev/store"
	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/replication/device"
	replicated "blockd.dev/replication/volume"
)

// What nodes do by themselves is in no catalog. It shows like jobs, and the nodes that do it are asked for it.
const (
	jobResync    = "resync"     // the owner of a volume brings a copy back
	jobMove      = "move"       // the owner of a volume copies extents to a disk that is to have them
	jobScrub     = "scrub"      // the owner of a volume compares the copies
	jobScrubDisk = "scrub-disk" // a node reads one of its disks
)

// underwayID is the id of what is under way, on each look.
func underwayID(kind, of string) string {
	sum := sha256.Sum256([]byte(kind + " " + of))
	return hex.EncodeToString(sum[:len(catalog.ID{})])
}

// copyID tells the copies of volumes apart.
func copyID(volume, disk catalog.ID) string { return volume.String() + " " + disk.String() }

// pace is how far something has come that is counted in bytes.
type pace struct {
	total, left int64
	since       time.Time
	went        int64 // bytes, since then
}

// perSecond is how fast it went on average until now; 0 when nothing says.
func (p pace) perSecond(now time.Time) int64 {
	took := now.Sub(p.since).Seconds()
	if took <= 0 {
		return 0
	}
	return int64(float64(p.went) / took)
}

// end is when it ends if it goes on so; zero when nothing says.
func (p pace) end(now time.Time) time.Time {
	if rate := p.perSecond(now); rate > 0 && p.left > 0 {
		return now.Add(time.Duration(float64(p.left) / float64(rate) * float64(time.Second)))
	}
	return time.Time{}
}

// message is of a copy that is brought back.
func (p pace) message(now time.Time) *blockdv1.Resync {
	return &blockdv1.Resync{Since: timeText(p.since), RegionsTotal: p.total / store.ChunkBytes, RegionsLeft: p.left / store.ChunkBytes,
		BytesTotal: p.total, BytesLeft: p.left, BytesPerSecond: p.perSecond(now), EstimatedEnd: timeText(p.end(now))}
}

// job shows it like one of the catalog's. id tells it from others of its kind.
func (p pace) job(kind, subject, id, reason string, now time.Time) *blockdv1.Job {
	return &blockdv1.Job{Id: underwayID(kind, id), Kind: kind, Subject: subject, State: string(catalog.JobRunning), Reason: reason,
		BytesDone: p.total - p.left, BytesTotal: p.total, BytesPerSecond: p.perSecond(now), Actor: "cluster",
		Created: timeText(p.since), Updated: timeText(now), EstimatedEnd: timeText(p.end(now)), ReadOnly: true}
}

// resyncPaces are how far the copies have come that are brought back by this node, which owns the volume, by the
// numbers of their disks.
func (v *sharedVolume) resyncPaces(now time.Time) map[uint32]pace {
	return v.paces(func(m *replicated.MemberStatus) (pace, bool) { return resyncPace(m, now) })
}

// resyncPace is how far a copy has come; ok is false for one that is not brought back.
func resyncPace(m *replicated.MemberStatus, now time.Time) (p pace, ok bool) {
	return pace{m.Regions * store.ChunkBytes, m.Left * store.ChunkBytes, now.Add(-m.Rebuilding), (m.Regions - m.Left) * store.ChunkBytes}, m.Rebuilding > 0
}

// movePaces are how far the extents have come that this node, which owns the volume, copies to disks that are to have
// them. Since when is not known.
func (v *sharedVolume) movePaces() map[uint32]pace {
	return v.paces(func(m *replicated.MemberStatus) (pace, bool) {
		return pace{total: m.Arriving.Regions * store.ChunkBytes, left: m.Arriving.Left * store.ChunkBytes}, m.Arriving.Regions > 0
	})
}

// paces are those of the volume's disks that have one, by the disks' numbers, if this node owns the volume.
func (v *sharedVolume) paces(of func(*replicated.MemberStatus) (p pace, ok bool)) map[uint32]pace {
	_, members, disks := v.standing()
	out := map[uint32]pace{}
	for i := range members {
		if p, ok := of(&members[i]); ok {
			out[uint32(disks[i])] = p
		}
	}
	return out
}

// standing is how a volume stands that this node owns, its copies, and the numbers of their disks; there are none when it doesn't own it.
func (v *sharedVolume) standing() (st device.Status, members []replicated.MemberStatus, disks []uint16) {
	st, owned := v.Status(), v.owned.Load()
	if !st.Owner || owned == nil || owned.epoch != st.Epoch {
		return st, nil, nil
	}
	n := min(len(st.Volume.Members), len(owned.disks))
	return st, st.Volume.Members[:n], owned.disks[:n]
}

// scrubPace is how far the scrub of a disk of this node has come; ok is false while there is none.
func (s *storage) scrubPace() (p pace, ok bool) {
	scrub, used := s.scrub.get(), s.store.Stats().UsedBytes
	return pace{used, max(used-scrub.before-scrub.bytes, 0), scrub.began, scrub.bytes}, scrub.running
}

// scrubPace is how far the scrub of a volume by this node has come; ok is false while there is none.
func (v *sharedVolume) scrubPace() (p pace, ok bool) {
	scrub, size := v.scrub.get(), v.Geometry().SizeBytes
	return pace{size, max(size-scrub.at, 0), scrub.began, scrub.bytes}, scrub.running
}

// told is what this node says of a volume that it owns and that is in no catalog; nil when it doesn't own it.
func (v *sharedVolume) told(now time.Time) *blockdv1.Volume {
	st, members, disks := v.standing()
	return tell(st, members, disks, now)
}

func tell(st device.Status, members []replicated.MemberStatus, disks []uint16, now time.Time) *blockdv1.Volume {
	if members == nil {
		return nil
	}
	out := &blockdv1.Volume{Epoch: st.Epoch, UnsureBytes: st.Volume.Unsure}
	for i := range members {
		m, lost := &members[i], st.Lost[disks[i]]
		r := &blockdv1.Replica{Number: uint32(disks[i]), Unproven: m.Unproven, Awaited: m.Awaited, LostRegions: lost.Regions, LostWrites: lost.Writes, Obstacle: obstacleOf(&m.Obstacle, now)}
		if p, ok := resyncPace(m, now); ok {
			r.Resync = p.message(now)
		}
		out.Replicas = append(out.Replicas, r)
	}
	return out
}

// toldByOwner is what the owner of a volume of several copies says of it, wherever it is; nil when it doesn't.
func (a api) toldByOwner(ctx context.Context, req connect.AnyRequest, s *catalog.State, v *catalog.Volume) *blockdv1.Volume {
	sharing := a.d.shared.Load()
	if sharing == nil || !shared(s, v) {
		return nil
	}
	if open := sharing.sharedVolume(v.ID); open != nil {
		if here := open.told(time.Now()); here != nil {
			return here
		}
	}
	l, _ := s.Lease(v.ID)
	owner := s.NodeByID(l.Owner)
	if _, own := control.Own(req); own || owner == nil || owner.ID == a.d.plane.id() || a.d.plane.peers == nil {
		return nil
	}
	told := askAround(ctx, a.d, []catalog.Node{*owner}, func(ctx context.Context, p *control.Peer) (*blockdv1.Volume, error) {
		r, err := blockdv1connect.NewVolumeServiceClient(p, p.URL).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: v.Name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVolume(), nil
	})[0]
	return told.value // nil of an owner that does not answer
}

// addTold adds to a volume what its owner says.
func addTold(s *catalog.State, v *blockdv1.Volume, told *blockdv1.Volume) {
	for _, r := range v.GetReplicas() {
		for _, t := range told.GetReplicas() {
			if t.GetNumber() == r.GetNumber() {
				r.Resync, r.Unproven, r.Awaited, r.LostRegions, r.LostWrites = t.GetResync(), t.GetUnproven(), t.GetAwaited(), t.GetLostRegions(), t.GetLostWrites()
				r.Obstacle = t.GetObstacle()
			}
		}
	}
	if v.UnsureBytes = told.GetUnsureBytes(); v.UnsureBytes > 0 {
		v.State, v.Reason = string(director.Stuck), strings.Join(unsureOf(s, told).because(), "; ")
	}
}

// resyncWords is what there is to say of resyncs, copy by copy.
func resyncWords(told *blockdv1.Volume) (lines []string) {
	for _, r := range told.GetReplicas() {
		if p := r.GetResync(); p != nil {
			line := fmt.Sprintf("%s of %s on disk %d are not compared or copied yet", units.FormatBytes(p.GetBytesLeft()), units.FormatBytes(p.GetBytesTotal()), r.GetNumber())
			if end, err := time.Parse(time.RFC3339Nano, p.GetEstimatedEnd()); err == nil {
				line += fmt.Sprintf("; at %s/s it is in sync at about %s", units.FormatBytes(p.GetBytesPerSecond()), end.Format("2006-01-02 15:04:05 UTC"))
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// underwayHere is what this node does with its disks, and as the owner of volumes.
func (a api) underwayHere(s *catalog.State) (jobs []*blockdv1.Job) {
	sharing, now := a.d.shared.Load(), time.Now()
	for _, on := range a.d.disks {
		if p, ok := on.scrubPace(); ok {
			jobs = append(jobs, p.job(jobScrubDisk, diskName(s, on.id()), on.id().String(), fmt.Sprintf("node %s reads the disk, at most %s in a second: %s of %s are left",
				a.d.nodeName(), units.FormatBytes(a.d.cfg.ScrubRate), units.FormatBytes(p.left), units.FormatBytes(p.total)), now))
		}
	}
	if sharing == nil {
		return jobs
	}
	for _, open := range sharing.all() {
		v := s.VolumeByID(open.id)
		if v == nil {
			continue
		}
		for disk, p := range open.movePaces() {
			if d := s.DiskByNumber(extmap.Disk(disk)); d != nil {
				jobs = append(jobs, p.job(jobMove, v.Name, copyID(v.ID, d.ID), fmt.Sprintf("node %s copies extents to disk %s, which is to have them: %s of %s are left",
					a.d.nodeName(), diskName(s, d.ID), units.FormatBytes(p.left), units.FormatBytes(p.total)), now))
			}
		}
		paces := open.resyncPaces(now)
		for _, r := range s.Replicas(v.ID) {
			if p, ok := paces[uint32(r.Disk)]; ok {
				jobs = append(jobs, p.job(jobResync, v.Name, copyID(v.ID, r.DiskID), fmt.Sprintf("node %s brings the copy on disk %s back: %s of %s are left",
					a.d.nodeName(), diskName(s, r.DiskID), units.FormatBytes(p.left), units.FormatBytes(p.total)), now))
			}
		}
		if p, ok := open.scrubPace(); ok {
			jobs = append(jobs, p.job(jobScrub, v.Name, v.ID.String(), fmt.Sprintf("node %s compares the copies, at most %s of each in a second: %s of %s are left",
				a.d.nodeName(), units.FormatBytes(a.d.cfg.ScrubRate), units.FormatBytes(p.left), units.FormatBytes(p.total)), now))
		}
	}
	return jobs
}

// underway is what all nodes do by themselves.
func (a api) underway(ctx context.Context, s *catalog.State) []*blockdv1.Job {
	jobs := a.underwayHere(s)
	if a.d.plane.peers != nil {
		for _, answer := range askAround(ctx, a.d, a.d.reachableNodes(s), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Job, error) {
			r, err := blockdv1connect.NewJobServiceClient(p, p.URL).ListJobs(ctx, connect.NewRequest(&blockdv1.ListJobsRequest{}))
			if err != nil {
				return nil, err
			}
			return r.Msg.GetJobs(), nil
		}) {
			for _, j := range answer.value {
				if j.GetReadOnly() { // a node of an older release tells what the catalog has
					jobs = append(jobs, j)
				}
			}
		}
	}
	slices.SortStableFunc(jobs, func(x, y *blockdv1.Job) int {
		return cmp.Or(cmp.Compare(x.GetKind(), y.GetKind()), cmp.Compare(x.GetSubject(), y.GetSubject()), cmp.Compare(x.GetId(), y.GetId()))
	})
	return jobs
}

// underwayJob finds what is under way by the begin of its id; nil when there is none.
func (a api) underwayJob(ctx context.Context, id string) (*blockdv1.Job, error) {
	var found *blockdv1.Job
	for _, j := range a.underway(ctx, a.d.catalog.State()) {
		switch {
		case !strings.HasPrefix(j.GetId(), strings.ToLower(id)):
		case found != nil && found.GetId() != j.GetId():
			return nil, severalJobs(id)
		default:
			found = j
		}
	}
	return found, nil
}

// notSteered says that what is under way can't be paused, resumed or canceled, and what to do instead.
func notSteered(j *blockdv1.Job) error {
	what := map[string]string{
		jobResync:    "it gives way to hosts by itself, and ends when the copy is in sync; to have other disks get what is there, use `blockctl disk drain`",
		jobMove:      "it is a part of the job that empties a disk or a node, or evens disks out, which can be (blockctl job list)",
		jobScrub:     "it gives way to hosts by its rate, which is the setting scrub_rate of the node that owns the volume; 0 there is for no scrub",
		jobScrubDisk: "it gives way to hosts by its rate, which is the setting scrub_rate of the disk's node; 0 there is for no scrub",
	}[j.GetKind()]
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("job %s is a %s of %q, which can't be paused, resumed or canceled: %s", j.GetId(), j.GetKind(), j.GetSubject(), what))
}
