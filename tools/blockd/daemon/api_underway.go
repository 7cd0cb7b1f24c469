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
	"blockd.dev/raftmeta/extmap"
)

// What owners of volumes do by themselves, to bring copies back and to compare them, is
// in no catalog. It shows like jobs, and the nodes that do it are asked for it.
const (
	jobResync = "resync"
	jobScrub  = "scrub"
)

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

// job shows it like one of the catalog's. id is what makes it this one, on each look.
func (p pace) job(kind, subject, id, reason string, now time.Time) *blockdv1.Job {
	sum := sha256.Sum256([]byte(kind + " " + id))
	return &blockdv1.Job{Id: hex.EncodeToString(sum[:len(catalog.ID{})]), Kind: kind, Subject: subject, State: string(catalog.JobRunning), Reason: reason,
		BytesDone: p.total - p.left, BytesTotal: p.total, BytesPerSecond: p.perSecond(now), Actor: "cluster",
		Created: timeText(p.since), Updated: timeText(now), EstimatedEnd: timeText(p.end(now)), ReadOnly: true}
}

// resyncPaces are how far the copies have come that are brought back by this node, which owns the volume, by the
// numbers of their disks.
func (v *sharedVolume) resyncPaces(now time.Time) map[uint32]pace {
	st, owned := v.Status(), v.owned.Load()
	if !st.Owner || owned == nil || owned.epoch != st.Epoch {
		return nil
	}
	out := map[uint32]pace{}
	for i := range min(len(st.Volume.Members), len(owned.disks)) {
		if m := &st.Volume.Members[i]; m.Rebuilding > 0 {
			out[uint32(owned.disks[i])] = pace{m.Regions * store.ChunkBytes, m.Left * store.ChunkBytes, now.Add(-m.Rebuilding), (m.Regions - m.Left) * store.ChunkBytes}
		}
	}
	return out
}

// scrubPace is how far the scrub of a volume by this node has come; ok is false while there is none.
func (v *sharedVolume) scrubPace() (p pace, ok bool) {
	scrub, size := v.scrub.get(), v.Geometry().SizeBytes
	return pace{size, max(size-scrub.at, 0), scrub.began, scrub.bytes}, scrub.running
}

// resyncs are those of a volume of several copies, as its owner tells them; nil when it doesn't, and when all copies are in sync.
func (a api) resyncs(ctx context.Context, req connect.AnyRequest, s *catalog.State, v *catalog.Volume) map[uint32]*blockdv1.Resync {
	sharing := a.d.shared.Load()
	if sharing == nil || !slices.ContainsFunc(s.Replicas(v.ID), func(r catalog.Replica) bool { return r.Sync != extmap.InSync }) {
		return nil
	}
	out, now := map[uint32]*blockdv1.Resync{}, time.Now()
	if open := sharing.sharedVolume(v.ID); open != nil {
		if here := open.resyncPaces(now); here != nil {
			for disk, p := range here {
				out[disk] = p.message(now)
			}
			return out
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
	for _, r := range told.value.GetReplicas() { // of an owner that does not answer there are none
		if r.GetResync() != nil {
			out[r.GetNumber()] = r.GetResync()
		}
	}
	return out
}

// resyncWords is what there is to say of resyncs, copy by copy.
func resyncWords(s *catalog.State, v *catalog.Volume, resyncs map[uint32]*blockdv1.Resync) (lines []string) {
	for _, r := range s.Replicas(v.ID) {
		if p := resyncs[uint32(r.Disk)]; p != nil {
			line := fmt.Sprintf("%s of %s on disk %d are not compared or copied yet", units.FormatBytes(p.GetBytesLeft()), units.FormatBytes(p.GetBytesTotal()), r.Disk)
			if end, err := time.Parse(time.RFC3339Nano, p.GetEstimatedEnd()); err == nil {
				line += fmt.Sprintf("; at %s/s it is in sync at about %s", units.FormatBytes(p.GetBytesPerSecond()), end.Format("2006-01-02 15:04:05 UTC"))
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// underwayHere is what this node does as the owner of volumes.
func (a api) underwayHere(s *catalog.State) (jobs []*blockdv1.Job) {
	sharing, now := a.d.shared.Load(), time.Now()
	if sharing == nil {
		return nil
	}
	for _, open := range sharing.all() {
		v := s.VolumeByID(open.id)
		if v == nil {
			continue
		}
		paces := open.resyncPaces(now)
		for _, r := range s.Replicas(v.ID) {
			if p, ok := paces[uint32(r.Disk)]; ok {
				jobs = append(jobs, p.job(jobResync, v.Name, v.ID.String()+" "+r.DiskID.String(), fmt.Sprintf("node %s brings the copy on disk %s back: %s of %s are left",
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
	what := "it gives way to hosts by itself, and ends when the copy is in sync; to have other disks get what is there, use `blockctl disk drain`"
	if j.GetKind() == jobScrub {
		what = "it gives way to hosts by its rate, which is the setting scrub_rate of the node that owns the volume; 0 there is for no scrub"
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("job %s is a %s of volume %q, which can't be paused, resumed or canceled: %s", j.GetId(), j.GetKind(), j.GetSubject(), what))
}
