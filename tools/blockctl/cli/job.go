package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

func (a *app) job() *cobra.Command {
	pause := a.steer("pause ID", "Stop a job until it is resumed", &blockdv1.PauseJobRequest{}, func(cmd *cobra.Command, id string) (*blockdv1.Job, []string, error) {
		r, err := ask(a, cmd, a.clients().job.PauseJob, &blockdv1.PauseJobRequest{Id: id})
		return r.GetJob(), r.GetChanges(), err
	})
	resume := a.steer("resume ID", "Have a job that was paused go on", &blockdv1.ResumeJobRequest{}, func(cmd *cobra.Command, id string) (*blockdv1.Job, []string, error) {
		r, err := ask(a, cmd, a.clients().job.ResumeJob, &blockdv1.ResumeJobRequest{Id: id})
		return r.GetJob(), r.GetChanges(), err
	})
	cancel := a.steer("cancel ID", "End a job; what it has done stays", &blockdv1.CancelJobRequest{}, func(cmd *cobra.Command, id string) (*blockdv1.Job, []string, error) {
		r, err := ask(a, cmd, a.clients().job.CancelJob, &blockdv1.CancelJobRequest{Id: id})
		return r.GetJob(), r.GetChanges(), err
	})
	cancel.Long = `End a job; what it has done stays. A node or disk that was being drained gets nothing new until
` + "`blockctl node resume` or `blockctl disk resume`" + `, which end the job too. After a rebuild was canceled, the copies of the lost disk
stay as they are until the disk is back, or ` + "`blockctl disk drain`" + ` asks for it again.`
	return group("job", "Show and steer long work, such as the draining of nodes and disks", a.jobList(), a.jobShow(), pause, resume, cancel)
}

func (a *app) jobList() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the jobs that have not ended",
		Long: `List the jobs that have not ended, and what nodes do by themselves, as owners of volumes of several copies or with their disks:
  resync      a copy that was away is compared with another, and what differs is copied
  move        extents are copied to a disk that is to have them, for a job that empties another or evens disks out
  scrub       the copies are compared with each other
  scrub-disk  a disk is read, and what it has compared with its checksums
These can't be paused, resumed or canceled, and are in the list for as long as they go on. What a node does that
does not answer is not there. The estimated end is by the mean speed since the begin, without the time in which a job was paused or waited;
extents count whole, also where hosts have never written.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(a, cmd, a.clients().job.ListJobs, &blockdv1.ListJobsRequest{All: all})
			if err != nil {
				return err
			}
			return printList(a, cmd, views(r.GetJobs(), viewJob), jobColumns)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return c
}

func (a *app) jobShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show one job; the begin of its id will do",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(a, cmd, a.clients().job.GetJob, &blockdv1.GetJobRequest{Id: args[0]})
			if err != nil {
				return err
			}
			v := viewJob(r.GetJob())
			return a.print(cmd, v, jobDetail(v))
		},
	}
}

// steer is a command that changes the state of a job.
func (a *app) steer(use, short string, example proto.Message, change func(cmd *cobra.Command, id string) (*blockdv1.Job, []string, error)) *cobra.Command {
	c := &cobra.Command{
		Use:               use,
		Short:             short,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			j, changes, err := change(cmd, args[0])
			if err != nil {
				return err
			}
			if a.dry {
				return a.printChanges(cmd, changes)
			}
			v := viewJob(j)
			return a.print(cmd, v, jobDetail(v))
		},
	}
	return a.dryRun(c, example)
}

// begun prints a job that a command has begun; if it is to wait, when that has ended.
func (a *app) begun(cmd *cobra.Command, job *blockdv1.Job, wait bool) (err error) {
	v := viewJob(job)
	if wait {
		v, err = a.await(cmd, v)
	}
	return errors.Join(a.print(cmd, v, jobDetail(v)), err)
}

// waits gives a command that begins a job the flag for it.
func waits(c *cobra.Command, wait *bool) {
	c.Flags().BoolVar(wait, "wait", false, "wait until the job has ended, and fail if it was not done")
}

// jobPoll is the time from one look at a job to the next.
const jobPoll = 500 * time.Millisecond

// await waits until a job has ended, and shows meanwhile how far it is: on a
// terminal by a bar, elsewhere by a line for each change. A job that has not
// done what it should is an error.
func (a *app) await(cmd *cobra.Command, j jobView) (jobView, error) {
	w := cmd.ErrOrStderr()
	p := progressBar{w: w, live: isTerminal(w)}
	tick := time.NewTicker(jobPoll)
	defer tick.Stop()
	for {
		p.show(j)
		if j.ended() {
			break
		}
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return j, cmd.Context().Err()
		}
		r, err := ask(a, cmd, a.clients().job.GetJob, &blockdv1.GetJobRequest{Id: j.ID})
		if err != nil {
			p.end()
			return j, fmt.Errorf("job %s goes on, and can't be watched: %w", j.ID, err)
		}
		j = viewJob(r.GetJob())
	}
	p.end()
	if j.State != "done" {
		return j, fmt.Errorf("job %s has %s: %s", j.ID, map[string]string{"failed": "failed", "canceled": "been canceled"}[j.State], j.Reason)
	}
	return j, nil
}

// progressBar shows on one line how far a job is.
type progressBar struct {
	w    io.Writer
	live bool // it may be overwritten
	last string
}

const barWidth = 20 // characters

func (p *progressBar) show(j jobView) {
	line := j.State + ": " + j.Reason
	if part, ok := j.part(); ok {
		done := int(part * barWidth)
		line = fmt.Sprintf("[%s%s] %3.0f%% %s", strings.Repeat("#", done), strings.Repeat("-", barWidth-done), 100*part, line)
	}
	switch {
	case line == p.last:
	case p.live:
		fmt.Fprintf(p.w, "\r\x1b[K%s", printable(line))
	default:
		fmt.Fprintln(p.w, printable(line))
	}
	p.last = line
}

// end leaves the line as it is.
func (p *progressBar) end() {
	if p.live {
		fmt.Fprintln(p.w)
	}
}
