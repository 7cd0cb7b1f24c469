package clusterbench

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// Stage is a part of the way of a volume's requests, in the mean.
type Stage struct {
	Name string        `json:"name"`
	Mean time.Duration `json:"mean_ns"`
}

// counted is a stage as the owner counts it since it has the volume, or as a node that forwards to it does.
type counted struct {
	stageKey
	Count  float64 `json:"count"`
	MeanMS float64 `json:"mean_ms"`
}

// stageKey is what makes a stage this one: those of copies are one for each disk.
type stageKey struct {
	Stage string `json:"stage"`
	Node  string `json:"node"`
	Disk  string `json:"disk"`
}

// latency is what `blockctl volume latency` says now.
func (b *bench) latency(ctx context.Context, v *target) ([]counted, error) {
	out, err := b.c.Ctl(ctx, "n1", "volume", "latency", v.name, "-o", "json")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Stages []counted `json:"stages"`
	}
	err = json.Unmarshal([]byte(out), &doc)
	return doc.Stages, err
}

// stages adds up what was counted during rounds of a load.
type stages struct {
	load  load
	order []string
	sum   map[string]time.Duration
	count map[string]float64
}

// add takes a round: what the host saw, and what the owner had counted before and after.
func (a *stages) add(host Sample, before, after []counted) {
	since := map[stageKey]counted{}
	for _, c := range before {
		since[c.stageKey] = c
	}
	owner := time.Duration(0)
	var found []Stage
	var counts []float64
	for _, c := range after {
		from := since[c.stageKey]
		n := c.Count - from.Count
		if n <= 0 || strings.HasPrefix(c.Stage, "read") == a.load.write {
			continue // there was none, or another node owns the volume now
		}
		mean := time.Duration((c.MeanMS*c.Count - from.MeanMS*from.Count) / n * float64(time.Millisecond))
		if c.Stage == "write" || c.Stage == "read" {
			owner = mean
			continue
		}
		found, counts = append(found, Stage{strings.TrimSpace("at the owner: " + c.Stage + " " + c.Disk), mean}), append(counts, n)
	}
	if owner == 0 {
		return
	}
	// As many in flight all the time: a request takes as long as there is between two, times that (Little's law).
	whole := time.Duration(float64(a.load.depth) * float64(time.Second) / host.IOPS)
	a.count1("from the host and back, in all", whole, 1)
	a.count1("outside of the owner: initiator, network, target", whole-owner, 1)
	a.count1("at the owner, in all", owner, 1)
	for i, s := range found {
		a.count1(s.Name, s.Mean, counts[i])
	}
}

func (a *stages) count1(name string, mean time.Duration, n float64) {
	if a.sum == nil {
		a.sum, a.count = map[string]time.Duration{}, map[string]float64{}
	}
	if a.count[name] == 0 {
		a.order = append(a.order, name)
	}
	a.sum[name] += time.Duration(float64(mean) * n)
	a.count[name] += n
}

// mean is that of all rounds.
func (a *stages) mean() (out []Stage) {
	for _, name := range a.order {
		out = append(out, Stage{name, time.Duration(float64(a.sum[name]) / a.count[name])})
	}
	return out
}
