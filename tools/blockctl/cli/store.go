package cli

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
)

func (a *app) store() *cobra.Command {
	return group("store", "Work on a disk that blockd has not open", &cobra.Command{
		Use:   "check FILE",
		Short: "Check the store on a disk or file, and say what is wrong and where; changes nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := disk.Open(args[0], disk.Options{})
			if err != nil {
				return fmt.Errorf("%w; stop the blockd that uses it first", err)
			}
			var found bytes.Buffer
			report, err := store.Check(d, &found)
			if err = errors.Join(err, d.Close()); err != nil {
				return err
			}
			return a.printReport(cmd, args[0], report, found.String())
		},
	})
}

// reportView is what `store check` prints as JSON.
type reportView struct {
	File           string   `json:"file"`
	UUID           string   `json:"uuid"`
	Clean          bool     `json:"clean"`
	LogBatches     int64    `json:"log_batches"`
	Volumes        int      `json:"volumes"`
	Extents        int      `json:"extents"`
	Chunks         int      `json:"chunks"`
	ChunksTotal    int      `json:"chunks_total"`
	BlocksVerified int64    `json:"blocks_verified"`
	Poisoned       int64    `json:"poisoned_sectors"`
	Replicas       int      `json:"replicas"`
	TailEntries    int      `json:"tail_entries"`
	NoVersion      int64    `json:"regions_without_version"`
	Unproven       int      `json:"unproven"`
	ProblemCount   int      `json:"problem_count"`
	Problems       []string `json:"problems"`
}

func (a *app) printReport(cmd *cobra.Command, file string, r store.Report, found string) error {
	v := reportView{File: file, UUID: hex.EncodeToString(r.UUID[:]), Clean: r.Clean, LogBatches: r.LogBatches, Volumes: r.Volumes,
		Extents: r.Extents, Chunks: r.Chunks, ChunksTotal: r.ChunksTotal, BlocksVerified: r.Blocks, Poisoned: r.Poisoned,
		Replicas: r.Replicas, TailEntries: r.TailEntries, NoVersion: r.NoVersion, Unproven: r.Unproven, ProblemCount: r.Problems, Problems: []string{}}
	t := rows{}
	for line := range strings.Lines(found) {
		v.Problems = append(v.Problems, strings.TrimSpace(line))
		t = append(t, []string{strings.TrimSpace(line)})
	}
	state := "closed cleanly"
	if !r.Clean {
		state = fmt.Sprintf("not closed cleanly; its log of %d batches was taken into account", r.LogBatches)
	}
	t = append(t, []string{fmt.Sprintf("%s: store %s, %s", file, v.UUID, state)},
		[]string{fmt.Sprintf("%d volumes, %d extents, %d of %d chunks in use, %d blocks verified, %d sectors made unreadable by hosts", r.Volumes, r.Extents, r.Chunks, r.ChunksTotal, r.Blocks, r.Poisoned)})
	if r.Replicas > 0 {
		t = append(t, []string{fmt.Sprintf("%d of the volumes are parts of replicated ones, with %d writes above their watermarks and %d regions without a version, which are to be copied from other replicas", r.Replicas, r.TailEntries, r.NoVersion)})
	}
	if r.Unproven > 0 {
		t = append(t, []string{fmt.Sprintf("%d of these are unproven: the machine went down, and they are yet to be held against other replicas", r.Unproven)})
	}
	t = append(t, []string{fmt.Sprintf("%d problems", r.Problems)})
	if err := a.print(cmd, v, t); err != nil {
		return err
	}
	if r.Problems > 0 {
		return fmt.Errorf("%w: %s is damaged, %d problems; copy it before anything else, and restore from a backup what the lines above name", errBroken, file, r.Problems)
	}
	return nil
}
