package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/replication/device"
)

// A disk whose machine went down may have lost what it had said to be durable. The owner of a volume
// holds it against other copies before hosts see it (docs/REPLICATION.md); here is what an administrator
// hears of that, and what there is to do where those copies are gone.

// numberName is the name of the disk with a number.
func numberName(s *catalog.State, number uint16) string {
	if d := s.DiskByNumber(extmap.Disk(number)); d != nil {
		return diskName(s, d.ID)
	}
	return fmt.Sprint(number)
}

// unsure is why extents of a volume wait.
type unsure struct {
	bytes             int64
	unproven, awaited []string // disks
}

// unsureOf reads what an owner has told.
func unsureOf(s *catalog.State, told *blockdv1.Volume) unsure {
	u := unsure{bytes: told.GetUnsureBytes()}
	for _, r := range told.GetReplicas() {
		name := "disk " + numberName(s, uint16(r.GetNumber()))
		switch {
		case r.GetAwaited():
			u.awaited = append(u.awaited, name)
		case r.GetUnproven():
			u.unproven = append(u.unproven, name)
		}
	}
	return u
}

// because is what is so, in sentences.
func (u unsure) because() []string {
	there := "the copies that are there"
	if len(u.unproven) > 0 {
		there = strings.Join(u.unproven, ", ") + ", which came back after a machine went down,"
	}
	lines := []string{fmt.Sprintf("%s of it wait: %s may have lost what was said to be durable", units.FormatBytes(u.bytes), there)}
	if len(u.awaited) == 0 {
		return append(lines, "no other copy is in sync that could tell")
	}
	return append(lines, fmt.Sprintf("what is right is known to %s, which can't be reached", strings.Join(u.awaited, ", ")))
}

// advice is what an administrator can do.
func (u unsure) advice(volume string) string {
	if len(u.awaited) == 0 {
		return fmt.Sprintf("`blockctl volume trust %s` has hosts go on with what is there; restore from a backup what is missing in it", volume)
	}
	return fmt.Sprintf("bring %s back; if all of them are gone for good: `blockctl volume trust %s`, which loses what only they have", strings.Join(u.awaited, " or "), volume)
}

// lostWords says what a disk had lost that it had said to be durable; "" when it is not known to have lost anything.
func lostWords(name, volume string, regions int64, writes uint64) string {
	const what = "that it had said to be durable when its machine went down; they are taken from other disks; replace the disk or turn its write cache off"
	switch {
	case regions > 0:
		return fmt.Sprintf("disk %s had lost %s of volume %s %s", name, countOf(int(regions), "region"), volume, what)
	case writes > 0:
		return fmt.Sprintf("disk %s came back without about %s of volume %s %s", name, countOf(int(writes), "write"), volume, what)
	}
	return ""
}

// addUnproven adds to an explanation what the owner has told of disks whose machines went down.
func addUnproven(e *director.Explanation, s *catalog.State, v *catalog.Volume, told *blockdv1.Volume) {
	for _, r := range told.GetReplicas() {
		if words := lostWords(numberName(s, uint16(r.GetNumber())), v.Name, r.GetLostRegions(), r.GetLostWrites()); words != "" {
			e.Because = append(e.Because, words)
		}
	}
	if told.GetUnsureBytes() == 0 {
		return
	}
	u := unsureOf(s, told)
	e.State = director.Stuck
	e.Because = append(e.Because, u.because()...)
	if len(u.awaited) > 0 {
		e.Next = append(e.Next, "when one of these is back, what the others have lost is found and written to them again, and hosts go on")
	}
	e.Advice = append(e.Advice, u.advice(v.Name))
}

// copiesEvery is the time between two looks at what the owners here have found.
const copiesEvery = 2 * time.Second

// reportCopies makes events of it, until ctx ends.
func (s *sharing) reportCopies(ctx context.Context) {
	tick := time.NewTicker(copiesEvery)
	defer tick.Stop()
	last, lost := map[catalog.ID]*blockdv1.Volume{}, map[catalog.ID]device.Losses{}
	for {
		select {
		case <-tick.C:
			now, losses := map[catalog.ID]*blockdv1.Volume{}, map[catalog.ID]device.Losses{}
			for _, v := range s.all() {
				st, members, disks := v.standing()
				losses[v.id] = st.Lost
				s.reportLost(v.id, st.Lost.Since(lost[v.id]))
				if told := tell(st, members, disks, time.Now()); told != nil {
					now[v.id] = told
					before := last[v.id]
					if before.GetEpoch() != told.GetEpoch() {
						before = nil // of another owner
					}
					s.reportUnsure(v.id, before, told)
					s.reportObstacles(v.id, before, told)
				}
			}
			last, lost = now, losses
		case <-ctx.Done():
			return
		}
	}
}

// reportLost makes events of what disks had lost of their copies of a volume.
func (s *sharing) reportLost(id catalog.ID, lost device.Losses) {
	state, volume := s.d.catalog.State(), s.d.volumeNamed(id)
	for disk, n := range lost {
		name := numberName(state, disk)
		s.d.events.add(levelError, "disk.lost-data", name, lostWords(name, volume, n.Regions, n.Writes))
	}
}

// reportUnsure makes events of what waits for a disk that can tell what is right, by what the owner of a volume has told now and before.
func (s *sharing) reportUnsure(id catalog.ID, before, now *blockdv1.Volume) {
	state, volume := s.d.catalog.State(), s.d.volumeNamed(id)
	switch u := unsureOf(state, now); {
	case u.bytes > 0 && before.GetUnsureBytes() == 0:
		s.d.events.add(levelError, "volume.unsure", volume, strings.Join(append(u.because(), u.advice(volume)), "; "))
	case u.bytes == 0 && before.GetUnsureBytes() > 0:
		s.d.events.add(levelInfo, "volume.unsure", volume, "nothing of it waits any more for a disk that can tell what is right")
	}
}

// TrustVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) TrustVolume(ctx context.Context, req *connect.Request[blockdv1.TrustVolumeRequest]) (*connect.Response[blockdv1.TrustVolumeResponse], error) {
	s := a.d.catalog.State()
	v := s.Volume(req.Msg.GetName())
	if v == nil {
		return nil, noSuch("volume", req.Msg.GetName())
	}
	told := a.toldByOwner(ctx, req, s, v)
	switch {
	case !shared(s, v):
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("volume %q has one copy, which is taken at its word always", v.Name))
	case told == nil:
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("no node says that it owns volume %q just now; see `blockctl explain %s`, and ask again", v.Name, v.Name))
	case told.GetUnsureBytes() == 0:
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("nothing of volume %q waits for a disk that can tell what is right; see `blockctl explain %s`", v.Name, v.Name))
	}
	u := unsureOf(s, told)
	changes := []string{fmt.Sprintf("%s of volume %s: the copies that are there are taken at their word", units.FormatBytes(u.bytes), v.Name)}
	if len(u.awaited) > 0 {
		changes = append(changes, fmt.Sprintf("what only %s had is lost; what is there is copied over it if it comes back", strings.Join(u.awaited, ", ")))
	}
	if req.Msg.GetDryRun() {
		return connect.NewResponse(&blockdv1.TrustVolumeResponse{Changes: changes}), nil
	}
	// What can't be undone is in the audit log before it is done.
	if err := a.d.note(ctx, callerOf(ctx, req, req.Msg.GetRequestId()), &catalogpb.Note{Action: "volume.trust", Subject: v.Name, Detail: strings.Join(changes, "; ")}); err != nil {
		return nil, apiError(err)
	}
	if err := a.trust(ctx, s, v.ID, told.GetEpoch()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.TrustVolumeResponse{Changes: changes}), nil
}

// trust has the owner of an epoch do it, wherever it is.
func (a api) trust(ctx context.Context, s *catalog.State, id catalog.ID, epoch uint64) error {
	l, _ := s.Lease(id)
	owner := s.NodeByID(l.Owner)
	if owner == nil || owner.ID == a.d.plane.id() {
		return a.trustHere(id, epoch)
	}
	return askAround(ctx, a.d, []catalog.Node{*owner}, func(ctx context.Context, p *control.Peer) (struct{}, error) {
		_, err := blockdv1connect.NewPeerServiceClient(p, p.URL).TrustCopies(ctx, connect.NewRequest(&blockdv1.TrustCopiesRequest{Volume: id[:], Epoch: epoch}))
		return struct{}{}, err
	})[0].err
}

// trustHere does it if this node owns the volume in that epoch.
func (a api) trustHere(id catalog.ID, epoch uint64) error {
	if v := a.d.shared.Load().sharedVolume(id); v == nil || !v.Trust(epoch) {
		return connect.NewError(connect.CodeUnavailable, errors.New("the volume has got another owner meanwhile; look again what it waits for"))
	}
	return nil
}

// TrustCopies implements blockdv1connect.PeerServiceHandler.
func (a api) TrustCopies(_ context.Context, req *connect.Request[blockdv1.TrustCopiesRequest]) (*connect.Response[blockdv1.TrustCopiesResponse], error) {
	if err := a.trustHere(parseVolume(req.Msg.GetVolume()), req.Msg.GetEpoch()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.TrustCopiesResponse{}), nil
}
