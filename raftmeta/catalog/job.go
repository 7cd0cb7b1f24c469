package catalog

import (
	"cmp"
	"slices"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Bounds of jobs.
const (
	JobsMax     = 1024 // with those that have ended, which make room for new ones
	JobsLiveMax = 256
	cursorMax   = 4 << 10
)

// JobState says how a job is.
type JobState string

// The states of jobs.
const (
	JobRunning  JobState = "running"
	JobWaiting  JobState = "waiting" // for something that its reason names
	JobPaused   JobState = "paused"  // by an administrator
	JobDone     JobState = "done"
	JobFailed   JobState = "failed"
	JobCanceled JobState = "canceled"
)

// jobMoves says which state may follow which.
var jobMoves = map[JobState][]JobState{
	JobRunning: {JobWaiting, JobPaused, JobDone, JobFailed, JobCanceled},
	JobWaiting: {JobRunning, JobPaused, JobDone, JobFailed, JobCanceled},
	JobPaused:  {JobRunning, JobFailed, JobCanceled},
	JobDone:    nil, JobFailed: nil, JobCanceled: nil,
}

// Job is long work, whoever does it: it is taken up where its cursor says
// after a change of leader.
type Job struct {
	ID                    ID
	Kind                  string // for example drain
	Subject               string // the name of what it is about
	State                 JobState
	Reason                string
	StepsDone, StepsTotal uint64
	BytesDone, BytesTotal int64
	Cursor                string // bytes that only its kind understands
	Actor                 string
	Created, Updated      time.Time
}

// Ended reports whether the job is over.
func (j *Job) Ended() bool { return len(jobMoves[j.State]) == 0 }

// Job returns the job with the identifier, or nil.
func (s *State) Job(id ID) *Job {
	if i := s.jobIndex(id); i >= 0 {
		return &s.Jobs[i]
	}
	return nil
}

func (s *State) jobIndex(id ID) int {
	return slices.IndexFunc(s.Jobs, func(j Job) bool { return j.ID == id })
}

func (f *fold) createJob(c *catalogpb.CreateJob, actor string) (ID, error) {
	if err := cmp.Or(checkName("job kind", c.GetKind()), checkName("job subject", c.GetSubject())); err != nil {
		return ID{}, err
	}
	id, err := f.newID(c.GetId())
	if err != nil {
		return ID{}, err
	}
	live := 0
	for i := range f.Jobs {
		j := &f.Jobs[i]
		if j.Ended() {
			continue
		}
		if live++; j.Kind == c.GetKind() && j.Subject == c.GetSubject() {
			return ID{}, refuse(ErrExists, "job %s does that already: %s of %s; see `blockctl job list`", j.ID, j.Kind, j.Subject)
		}
	}
	if live >= JobsLiveMax || len(c.GetReason()) > reasonMax || c.GetBytesTotal() < 0 {
		return ID{}, refuse(ErrConflict, "there are %d jobs under way, and there can be %d; or the reason is longer than %d bytes, or the size negative", live, JobsLiveMax, reasonMax)
	}
	jobs := slices.Clone(f.Jobs)
	if len(jobs) >= JobsMax {
		jobs = without(jobs, slices.IndexFunc(jobs, func(j Job) bool { return j.Ended() }))
	}
	f.Jobs = append(jobs, Job{ID: id, Kind: c.GetKind(), Subject: c.GetSubject(), State: JobRunning, Reason: c.GetReason(),
		StepsTotal: c.GetStepsTotal(), BytesTotal: c.GetBytesTotal(), Actor: actor, Created: f.now, Updated: f.now})
	f.did("job.create", id.String(), "%s of %s", c.GetKind(), c.GetSubject())
	return id, nil
}

// liveJob finds a job that has not ended.
func (f *fold) liveJob(id []byte) (int, error) {
	want, _ := idFrom(id)
	i := f.jobIndex(want)
	switch {
	case i < 0:
		return 0, refuse(ErrNotFound, "no job %s; see `blockctl job list --all`", want)
	case f.Jobs[i].Ended():
		return 0, refuse(ErrConflict, "job %s has ended: %s", want, f.Jobs[i].State)
	}
	return i, nil
}

// progressJob is not in the audit log: it is no decision, and comes often.
func (f *fold) progressJob(c *catalogpb.ProgressJob) error {
	i, err := f.liveJob(c.GetId())
	if err != nil {
		return err
	}
	j := f.Jobs[i]
	switch {
	case j.State == JobPaused:
		return refuse(ErrConflict, "job %s is paused; it goes on when it is resumed", j.ID)
	case len(c.GetReason()) > reasonMax || len(c.GetCursor()) > cursorMax ||
		c.GetStepsDone() > c.GetStepsTotal() || c.GetBytesDone() < 0 || c.GetBytesDone() > c.GetBytesTotal():
		return refuse(ErrInvalid, "progress of job %s: more done than there is, or a reason above %d or a cursor above %d bytes", j.ID, reasonMax, cursorMax)
	}
	j.StepsDone, j.StepsTotal, j.BytesDone, j.BytesTotal = c.GetStepsDone(), c.GetStepsTotal(), c.GetBytesDone(), c.GetBytesTotal()
	j.Reason, j.Cursor, j.Updated = c.GetReason(), string(c.GetCursor()), f.now
	f.Jobs = replaced(f.Jobs, i, j)
	f.quietly("job.progress", j.ID.String(), "%d of %d steps", j.StepsDone, j.StepsTotal)
	return nil
}

func (f *fold) setJobState(c *catalogpb.SetJobState) error {
	i, err := f.liveJob(c.GetId())
	if err != nil {
		return err
	}
	j, to := f.Jobs[i], JobState(c.GetState())
	switch {
	case len(c.GetReason()) > reasonMax:
		return refuse(ErrInvalid, "a reason of %d bytes: at most %d", len(c.GetReason()), reasonMax)
	case j.State != to && !slices.Contains(jobMoves[j.State], to):
		return refuse(ErrConflict, "job %s is %s and can't become %q", j.ID, j.State, c.GetState())
	}
	from := j.State
	j.State, j.Reason, j.Updated = to, c.GetReason(), f.now
	f.Jobs = replaced(f.Jobs, i, j)
	f.did("job.state", j.ID.String(), "%s to %s; %s", from, to, cmp.Or(j.Reason, "no reason given"))
	return nil
}

func jobTo(e *Job) *catalogpb.Job {
	return &catalogpb.Job{Id: e.ID[:], Kind: e.Kind, Subject: e.Subject, State: string(e.State), Reason: e.Reason,
		StepsDone: e.StepsDone, StepsTotal: e.StepsTotal, BytesDone: e.BytesDone, BytesTotal: e.BytesTotal, Cursor: []byte(e.Cursor),
		Actor: e.Actor, CreatedUnixNano: e.Created.UnixNano(), UpdatedUnixNano: e.Updated.UnixNano()}
}

func (l *loader) job(e *catalogpb.Job) Job {
	j := Job{ID: l.id(e.GetId(), false), Kind: e.GetKind(), Subject: e.GetSubject(), State: JobState(e.GetState()), Reason: e.GetReason(),
		StepsDone: e.GetStepsDone(), StepsTotal: e.GetStepsTotal(), BytesDone: e.GetBytesDone(), BytesTotal: e.GetBytesTotal(),
		Cursor: string(e.GetCursor()), Actor: e.GetActor(), Created: decodeTime(e.GetCreatedUnixNano()), Updated: decodeTime(e.GetUpdatedUnixNano())}
	_, known := jobMoves[j.State]
	l.bad = l.bad || !known
	return j
}
