package cli

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

type leaseView struct {
	Volume   string `json:"volume"`
	Owner    string `json:"owner"`
	Epoch    uint64 `json:"epoch"`
	State    string `json:"state"`
	Since    string `json:"since"`
	MovingTo string `json:"moving_to"`
}

func viewLease(l *blockdv1.Lease) leaseView {
	return leaseView{l.GetVolume(), l.GetOwner(), l.GetEpoch(), l.GetState(), l.GetSince(), l.GetMovingTo()}
}

var leaseColumns = []column[leaseView]{
	{"VOLUME", func(l leaseView) string { return l.Volume }, plain},
	{"OWNER", func(l leaseView) string { return l.Owner }, plain},
	{"STATE", func(l leaseView) string { return l.State }, plain},
	{"EPOCH", func(l leaseView) string { return fmt.Sprint(l.Epoch) }, fixed},
	{"SINCE", func(l leaseView) string { return shortTime(l.Since) }, fixed},
	{"MOVING TO", func(l leaseView) string { return l.MovingTo }, plain},
}

type jobView struct {
	ID           string `json:"id"`
	Kind         string `json:"kind"`
	Subject      string `json:"subject"`
	State        string `json:"state"`
	Reason       string `json:"reason,omitempty"`
	StepsDone    uint64 `json:"steps_done"`
	StepsTotal   uint64 `json:"steps_total"`
	BytesDone    int64  `json:"bytes_done"`
	BytesTotal   int64  `json:"bytes_total"`
	Created      string `json:"created"`
	Updated      string `json:"updated"`
	EstimatedEnd string `json:"estimated_end"`
	Actor        string `json:"actor"`
	ReadOnly     bool   `json:"read_only"`
	BytesPerSec  int64  `json:"bytes_per_second"`
}

func viewJob(j *blockdv1.Job) jobView {
	return jobView{j.GetId(), j.GetKind(), j.GetSubject(), j.GetState(), j.GetReason(), j.GetStepsDone(), j.GetStepsTotal(), j.GetBytesDone(), j.GetBytesTotal(),
		j.GetCreated(), j.GetUpdated(), j.GetEstimatedEnd(), j.GetActor(), j.GetReadOnly(), j.GetBytesPerSecond()}
}

func (j jobView) ended() bool {
	return j.State == "done" || j.State == "failed" || j.State == "canceled"
}

// part is how much is done, 0 to 1; ok is false when that is not known.
func (j jobView) part() (part float64, ok bool) {
	switch {
	case j.BytesTotal > 0:
		return float64(j.BytesDone) / float64(j.BytesTotal), true
	case j.StepsTotal > 0:
		return float64(j.StepsDone) / float64(j.StepsTotal), true
	}
	return 0, false
}

func (j jobView) progress() string {
	part, ok := j.part()
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.0f%%", 100*part)
}

var jobColumns = []column[jobView]{
	{"ID", func(j jobView) string { return j.ID[:min(8, len(j.ID))] }, fixed},
	{"KIND", func(j jobView) string { return j.Kind }, plain},
	{"SUBJECT", func(j jobView) string { return j.Subject }, plain},
	{"STATE", func(j jobView) string { return j.State }, plain},
	{"DONE", jobView.progress, fixed},
	{"REASON", func(j jobView) string { return j.Reason }, text},
	{"ESTIMATED END", func(j jobView) string { return shortTime(j.EstimatedEnd) }, wide},
	{"CREATED", func(j jobView) string { return shortTime(j.Created) }, wide},
	{"ACTOR", func(j jobView) string { return j.Actor }, wide},
}

// stepWords are what the steps of jobs are, where all are the same.
var stepWords = map[string]string{"drain-disk": "extents moved", "rebuild": "extents moved", "rebalance": "extents moved"}

func jobDetail(j jobView) rows {
	t := rows{{"id", j.ID}, {"kind", j.Kind}, {"subject", j.Subject}, {"state", j.State}}
	if j.Reason != "" {
		t = append(t, []string{"reason", j.Reason})
	}
	if j.StepsTotal > 0 {
		t = append(t, []string{cmp.Or(stepWords[j.Kind], "steps"), fmt.Sprintf("%d of %d", j.StepsDone, j.StepsTotal)})
	}
	if j.BytesTotal > 0 {
		t = append(t, []string{"done", fmt.Sprintf("%s of %s", units.FormatBytes(j.BytesDone), units.FormatBytes(j.BytesTotal))})
	}
	if j.BytesPerSec > 0 {
		t = append(t, []string{"speed", units.FormatBytes(j.BytesPerSec) + "/s"})
	}
	if j.EstimatedEnd != "" {
		t = append(t, []string{"estimated end", j.EstimatedEnd})
	}
	return append(t, []string{"created", j.Created}, []string{"updated", j.Updated}, []string{"actor", j.Actor})
}

type explainedView struct {
	Volume  string   `json:"volume"`
	State   string   `json:"state"`
	Because []string `json:"because"`
	Next    []string `json:"next"`
	Advice  []string `json:"advice"`
}

func viewExplained(e *blockdv1.ExplainVolumeResponse) explainedView {
	list := func(l []string) []string { return append([]string{}, l...) } // an empty list is [], not null
	return explainedView{e.GetName(), e.GetState(), list(e.GetBecause()), list(e.GetNext()), list(e.GetAdvice())}
}

// printExplained prints sections of sentences, as wide as the terminal.
func (a *app) printExplained(cmd *cobra.Command, v explainedView) error {
	t := rows{{"volume " + v.Volume + " is " + v.State}}
	for _, section := range []struct {
		head  string
		lines []string
	}{{"because", v.Because}, {"what happens next", v.Next}, {"what to do", v.Advice}} {
		if len(section.lines) == 0 {
			continue
		}
		t = append(t, []string{section.head + ":"})
		for _, line := range section.lines {
			t = append(t, bulleted(line, a.width(cmd))...)
		}
	}
	return a.print(cmd, v, t)
}

// bulleted makes the lines of one sentence of a list; 0 is any width.
func bulleted(sentence string, width int) rows {
	lines := []string{sentence}
	if width > 0 {
		lines = wrap(sentence, max(textLeast, width-len("  - ")))
	}
	var t rows
	for i, line := range lines {
		mark := "  - "
		if i > 0 {
			mark = "    "
		}
		t = append(t, []string{mark + line})
	}
	return t
}

type latencyView struct {
	Volume string      `json:"volume"`
	Node   string      `json:"node"`
	Epoch  uint64      `json:"epoch"`
	Stages []stageView `json:"stages"`
}

type stageView struct {
	Stage  string  `json:"stage"`
	Count  uint64  `json:"count"`
	MeanMS float64 `json:"mean_ms"`
	P50MS  float64 `json:"p50_ms"`
	P99MS  float64 `json:"p99_ms"`
	MaxMS  float64 `json:"max_ms"`
	Node   string  `json:"node"`
	Disk   string  `json:"disk,omitempty"`
}

func viewLatency(r *blockdv1.GetVolumeLatencyResponse) latencyView {
	return latencyView{r.GetVolume(), r.GetNode(), r.GetEpoch(), views(r.GetStages(), func(s *blockdv1.LatencyStage) stageView {
		return stageView{s.GetName(), s.GetCount(), s.GetMeanMs(), s.GetP50Ms(), s.GetP99Ms(), s.GetMaxMs(), s.GetNode(), s.GetDisk()}
	})}
}

func stageMillis(ms float64) string { return fmt.Sprintf("%.3fms", ms) }

var stageColumns = []column[stageView]{
	{"STAGE", func(s stageView) string { return s.Stage }, plain},
	{"WHERE", func(s stageView) string { return cmp.Or(s.Disk, s.Node) }, plain},
	{"COUNT", func(s stageView) string { return fmt.Sprint(s.Count) }, fixed},
	{"MEAN", func(s stageView) string { return stageMillis(s.MeanMS) }, fixed},
	{"P50", func(s stageView) string { return stageMillis(s.P50MS) }, fixed},
	{"P99", func(s stageView) string { return stageMillis(s.P99MS) }, fixed},
	{"MAX", func(s stageView) string { return stageMillis(s.MaxMS) }, fixed},
}
