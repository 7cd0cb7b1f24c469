package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
)

// jobMessage says what the catalog knows of a job.
func jobMessage(s *catalog.State, j *catalog.Job) *blockdv1.Job {
	rate, end := estimate(j, idleFor(s, j))
	return &blockdv1.Job{Id: j.ID.String(), Kind: j.Kind, Subject: subjectOf(s, j), State: string(j.State), Reason: j.Reason,
		StepsDone: j.StepsDone, StepsTotal: j.StepsTotal, BytesDone: j.BytesDone, BytesTotal: j.BytesTotal, BytesPerSecond: rate, Actor: j.Actor,
		Created: timeText(j.Created), Updated: timeText(j.Updated), EstimatedEnd: timeText(end)}
}

// liveJobMessage also says what has been copied of the extents that are on the move for a job now, by what is under way.
// The catalog hears of a move when all of it is done.
func liveJobMessage(s *catalog.State, j *catalog.Job, underway []*blockdv1.Job, now time.Time) *blockdv1.Job {
	if n := arrived(s, j, underway); n > 0 && j.State == catalog.JobRunning {
		live := *j
		live.BytesDone, live.Updated = min(j.BytesDone+n, j.BytesTotal), now
		j = &live
	}
	return jobMessage(s, j)
}

// arrived is how much has been copied, in bytes, of the extents that a job has on the move.
func arrived(s *catalog.State, j *catalog.Job, underway []*blockdv1.Job) (bytes int64) {
	copied := map[string]int64{}
	for _, u := range underway {
		copied[u.GetId()] = u.GetBytesDone()
	}
	for id, v := range s.Map().Volumes() {
		// An owner tells of all extents that move to a disk together.
		all, own := map[extmap.Disk]int64{}, map[extmap.Disk]int64{}
		for m := range v.Moves() {
			all[m.To]++
			if moves(s, j, s.DiskByNumber(m.From)) {
				own[m.To]++
			}
		}
		for to, n := range own {
			if d := s.DiskByNumber(to); d != nil {
				bytes += copied[underwayID(jobMove, copyID(catalog.ID(id), d.ID))] * n / all[to]
			}
		}
	}
	return bytes
}

// moves reports whether it is for a job that extents leave a disk.
func moves(s *catalog.State, j *catalog.Job, from *catalog.Disk) bool {
	switch {
	case from == nil:
		return false
	case j.Kind == director.JobRemove:
		n := s.NodeByID(from.Node)
		return n != nil && n.Name == j.Subject
	case j.Kind == director.JobRebalance:
		return !slices.ContainsFunc(s.Jobs, func(other catalog.Job) bool {
			return other.Kind != director.JobRebalance && !other.Ended() && moves(s, &other, from)
		})
	}
	return from.ID.String() == j.Subject
}

// subjectOf is what a job is about, a disk by the name that `disk list` gives it.
func subjectOf(s *catalog.State, j *catalog.Job) string {
	if d := s.DiskByID(parseID(j.Subject)); d != nil {
		return diskName(s, d.ID)
	}
	return j.Subject
}

// estimate is how fast a job has gone, in bytes per second, and when it ends if the rest takes as long, byte by byte,
// or step by step if it has no bytes, as what is done has taken without the time in which it was idle; zero when nothing says.
func estimate(j *catalog.Job, idle time.Duration) (rate int64, end time.Time) {
	done, total := float64(j.BytesDone), float64(j.BytesTotal)
	if total == 0 {
		done, total = float64(j.StepsDone), float64(j.StepsTotal)
	}
	took := j.Updated.Sub(j.Created) - idle
	if j.State != catalog.JobRunning || done == 0 || done >= total || took <= 0 {
		return 0, time.Time{}
	}
	return int64(float64(j.BytesDone) / took.Seconds()), j.Updated.Add(time.Duration(float64(took) * (total - done) / done))
}

// idleFor is how long a job was paused, or waited for something, up to its last progress, as far as the audit log
// goes back.
func idleFor(s *catalog.State, j *catalog.Job) (idle time.Duration) {
	var since time.Time
	for i := range s.Audits {
		e := &s.Audits[i]
		if e.Action != "job.state" || e.Subject != j.ID.String() || e.Refused != "" {
			continue
		}
		if !since.IsZero() {
			idle += e.Time.Sub(since)
		}
		since = time.Time{}
		if to := stateTo(e.Detail); to == catalog.JobPaused || to == catalog.JobWaiting {
			since = e.Time
		}
	}
	return idle
}

// stateTo is the state that a job went into, by what the audit log tells of that: FROM to STATE; REASON.
func stateTo(detail string) catalog.JobState {
	change, _, _ := strings.Cut(detail, ";")
	_, to, _ := strings.Cut(change, " to ")
	return catalog.JobState(to)
}

// job finds a job by its id, or by the begin of it if no other begins so.
func (a api) job(id string) (*catalog.Job, error) {
	s := a.d.catalog.State()
	var found *catalog.Job
	for i := range s.Jobs {
		if id == "" || !strings.HasPrefix(s.Jobs[i].ID.String(), strings.ToLower(id)) {
			continue
		}
		if found != nil {
			return nil, severalJobs(id)
		}
		found = &s.Jobs[i]
	}
	if found == nil {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no job %q; see `blockctl job list --all`", id))
	}
	return found, nil
}

// jobOrOther finds a job of the catalog, or what goes on by itself if there is none.
func (a api) jobOrOther(ctx context.Context, id string) (j *catalog.Job, other *blockdv1.Job, err error) {
	if j, err = a.job(id); connect.CodeOf(err) != connect.CodeNotFound || id == "" {
		return j, nil, err
	}
	other, several := a.underwayJob(ctx, id)
	if several != nil {
		err = several
	}
	return nil, other, err
}

func severalJobs(id string) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("several jobs begin with %q; give more of the id", id))
}

// ListJobs implements blockdv1connect.JobServiceHandler. To another node it tells only what this one does
// by itself.
func (a api) ListJobs(ctx context.Context, req *connect.Request[blockdv1.ListJobsRequest]) (*connect.Response[blockdv1.ListJobsResponse], error) {
	s := a.d.catalog.State()
	if _, own := control.Own(req); own {
		return connect.NewResponse(&blockdv1.ListJobsResponse{Jobs: a.underwayHere(s)}), nil
	}
	out, underway, now := &blockdv1.ListJobsResponse{}, a.underway(ctx, s), time.Now().UTC()
	for i := range s.Jobs {
		if req.Msg.GetAll() || !s.Jobs[i].Ended() {
			out.Jobs = append(out.Jobs, liveJobMessage(s, &s.Jobs[i], underway, now))
		}
	}
	out.Jobs = append(out.Jobs, underway...)
	return connect.NewResponse(out), nil
}

// GetJob implements blockdv1connect.JobServiceHandler.
func (a api) GetJob(ctx context.Context, req *connect.Request[blockdv1.GetJobRequest]) (*connect.Response[blockdv1.GetJobResponse], error) {
	j, other, err := a.jobOrOther(ctx, req.Msg.GetId())
	if other != nil {
		return connect.NewResponse(&blockdv1.GetJobResponse{Job: other}), nil
	}
	if err != nil {
		return nil, err
	}
	s := a.d.catalog.State()
	if j.State != catalog.JobRunning || j.BytesTotal == 0 {
		return connect.NewResponse(&blockdv1.GetJobResponse{Job: jobMessage(s, j)}), nil
	}
	return connect.NewResponse(&blockdv1.GetJobResponse{Job: liveJobMessage(s, j, a.underway(ctx, s), time.Now().UTC())}), nil
}

// beginJob creates a job, and returns it, or only says what that would change.
func (a api) beginJob(ctx context.Context, by *caller, c *catalogpb.CreateJob, dry bool) (changes []string, job *blockdv1.Job, err error) {
	id := newID()
	c.Id = id[:]
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_CreateJob{CreateJob: c}}
	if dry {
		changes, err = a.try(ctx, by, cmd)
		return changes, nil, err
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, nil, err
	}
	s := a.d.catalog.State()
	if j := s.Job(res.ID); j != nil {
		job = jobMessage(s, j)
	}
	return []string{changeText(res.Audit)}, job, nil
}

// setJob makes a job go into a state, because by wants it.
func (a api) setJob(ctx context.Context, by *caller, id string, to catalog.JobState, verb string, dry bool) (*blockdv1.Job, []string, error) {
	j, other, err := a.jobOrOther(ctx, id)
	if other != nil {
		err = notSteered(other)
	}
	if err != nil {
		return nil, nil, err
	}
	changes, err := a.changeOrTry(ctx, by, jobCommand(j, to, fmt.Sprintf("%s by %s", verb, by.actor)), dry)
	if err != nil {
		return nil, nil, err
	}
	s := a.d.catalog.State()
	if now := s.Job(j.ID); now != nil {
		j = now
	}
	return jobMessage(s, j), changes, nil
}

func jobCommand(j *catalog.Job, to catalog.JobState, reason string) *catalogpb.Command {
	return &catalogpb.Command{Kind: &catalogpb.Command_SetJobState{SetJobState: &catalogpb.SetJobState{Id: j.ID[:], State: string(to), Reason: reason}}}
}

// PauseJob implements blockdv1connect.JobServiceHandler.
func (a api) PauseJob(ctx context.Context, req *connect.Request[blockdv1.PauseJobRequest]) (*connect.Response[blockdv1.PauseJobResponse], error) {
	m := req.Msg
	j, changes, err := a.setJob(ctx, callerOf(ctx, req, m.GetRequestId()), m.GetId(), catalog.JobPaused, "paused", m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.PauseJobResponse{Job: j, Changes: changes}), nil
}

// ResumeJob implements blockdv1connect.JobServiceHandler.
func (a api) ResumeJob(ctx context.Context, req *connect.Request[blockdv1.ResumeJobRequest]) (*connect.Response[blockdv1.ResumeJobResponse], error) {
	m := req.Msg
	j, changes, err := a.setJob(ctx, callerOf(ctx, req, m.GetRequestId()), m.GetId(), catalog.JobRunning, "resumed", m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.ResumeJobResponse{Job: j, Changes: changes}), nil
}

// CancelJob implements blockdv1connect.JobServiceHandler.
func (a api) CancelJob(ctx context.Context, req *connect.Request[blockdv1.CancelJobRequest]) (*connect.Response[blockdv1.CancelJobResponse], error) {
	m := req.Msg
	j, changes, err := a.setJob(ctx, callerOf(ctx, req, m.GetRequestId()), m.GetId(), catalog.JobCanceled, "canceled", m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.CancelJobResponse{Job: j, Changes: changes}), nil
}

// liveJobs are the jobs about a node, by its name, or a disk, by its UUID, that have not ended.
func liveJobs(s *catalog.State, subject string) []catalog.Job {
	return slices.DeleteFunc(slices.Clone(s.Jobs), func(j catalog.Job) bool { return j.Subject != subject || j.Ended() })
}
