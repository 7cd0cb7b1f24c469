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
)

// jobMessage has no bytes unless the job counts in these; none does of those that there are.
func jobMessage(s *catalog.State, j *catalog.Job) *blockdv1.Job {
	return &blockdv1.Job{Id: j.ID.String(), Kind: j.Kind, Subject: subjectOf(s, j), State: string(j.State), Reason: j.Reason,
		StepsDone: j.StepsDone, StepsTotal: j.StepsTotal, BytesDone: j.BytesDone, BytesTotal: j.BytesTotal, Actor: j.Actor,
		Created: timeText(j.Created), Updated: timeText(j.Updated), EstimatedEnd: timeText(estimatedEnd(j, idleFor(s, j)))}
}

// subjectOf is what a job is about, a disk by the name that `disk list` gives it.
func subjectOf(s *catalog.State, j *catalog.Job) string {
	if d := s.DiskByID(parseID(j.Subject)); d != nil {
		return diskName(s, d.ID)
	}
	return j.Subject
}

// estimatedEnd is when a job ends if the rest takes as long, step by step or byte by
// byte, as what is done has taken without the time in which it was idle; zero when nothing says.
func estimatedEnd(j *catalog.Job, idle time.Duration) time.Time {
	done, total := float64(j.BytesDone), float64(j.BytesTotal)
	if total == 0 {
		done, total = float64(j.StepsDone), float64(j.StepsTotal)
	}
	if j.State != catalog.JobRunning || done == 0 || done >= total {
		return time.Time{}
	}
	took := j.Updated.Sub(j.Created) - idle
	return j.Updated.Add(time.Duration(float64(took) * (total - done) / done))
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
	out := &blockdv1.ListJobsResponse{}
	for i := range s.Jobs {
		if req.Msg.GetAll() || !s.Jobs[i].Ended() {
			out.Jobs = append(out.Jobs, jobMessage(s, &s.Jobs[i]))
		}
	}
	out.Jobs = append(out.Jobs, a.underway(ctx, s)...)
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
	return connect.NewResponse(&blockdv1.GetJobResponse{Job: jobMessage(a.d.catalog.State(), j)}), nil
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
