package clusterbench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of times in /proc/PID/stat (proc(5)); it is the same on all
// architectures that Go knows.
const tick = 10 * time.Millisecond

// withCPU measures, and adds the processor time of the serving processes for each
// request. They work during the warm-up too.
func withCPU(pids []int, runtime time.Duration, measure func() (Sample, error)) (Sample, error) {
	before, err := cpu(pids)
	if err != nil {
		return Sample{}, err
	}
	s, err := measure()
	if err != nil {
		return Sample{}, err
	}
	after, err := cpu(pids)
	if s.IOPS > 0 {
		s.CPU = time.Duration(float64(after-before) / (s.IOPS * (warmup + runtime).Seconds()))
	}
	return s, err
}

// cpu is the processor time of processes so far.
func cpu(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The second field is the name in parentheses and may hold blanks.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		for _, f := range fields[11:13] { // utime, stime
			t, err := strconv.ParseInt(string(f), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			sum += time.Duration(t) * tick
		}
	}
	return sum, nil
}
