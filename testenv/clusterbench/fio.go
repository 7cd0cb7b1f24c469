package clusterbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// fioSide is what fio measured of reads or of writes.
type fioSide struct {
	IOPS  float64 `json:"iops"`
	Bytes float64 `json:"bw_bytes"` // per second
}

// fioJob is one of fio's jobs, or a group of them.
type fioJob struct {
	Read  fioSide `json:"read"`
	Write fioSide `json:"write"`
}

// fio runs on files of dir, past the page cache.
func fio(ctx context.Context, dir string, args ...string) (fioJob, error) {
	cmd := exec.CommandContext(ctx, "fio", append([]string{"--name=limit", "--directory=" + dir, "--ioengine=io_uring", "--direct=1", "--output-format=json"}, args...)...)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return fioJob{}, fmt.Errorf("fio on %s: %w: %s", dir, err, words.String())
	}
	var doc struct {
		Jobs []fioJob `json:"jobs"`
	}
	if err = json.Unmarshal(out, &doc); err == nil && len(doc.Jobs) != 1 {
		err = errors.New("there is not one job")
	}
	if err != nil {
		return fioJob{}, fmt.Errorf("fio on %s printed %q: %w", dir, out, err)
	}
	return doc.Jobs[0], nil
}

// wholeSeconds is a duration as fio takes it.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(int(d.Round(time.Second) / time.Second))
}
