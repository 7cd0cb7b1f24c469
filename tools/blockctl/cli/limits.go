package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// limitFlags are the flags of a volume's limits.
type limitFlags struct{ iops, bandwidth, burst string }

func (f *limitFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.iops, "iops", "", "operations a second of all hosts together, 10 or more, or none")
	c.Flags().StringVar(&f.bandwidth, "bandwidth", "", "bytes a second read and written by all hosts together, such as 100MiB, 1MiB or more, or none")
	c.Flags().StringVar(&f.burst, "burst", "", "for how long what hosts don't use of it is saved up for them, such as 30s, 1h at most, or none")
}

// parse returns what was given; nil for what was not.
func (f *limitFlags) parse() (iops, bytesPerSecond *uint64, burst *uint32, err error) {
	if f.iops != "" {
		n, err := strconv.ParseUint(unlessNone(f.iops), 10, 64)
		if err != nil {
			return nil, nil, nil, usageError{fmt.Errorf("--iops %q: want a number such as 1000, or none", f.iops)}
		}
		iops = &n
	}
	if f.bandwidth != "" {
		n, err := units.ParseBytes(strings.TrimSuffix(unlessNone(f.bandwidth), "/s"))
		if err != nil || n < 0 {
			return nil, nil, nil, usageError{fmt.Errorf("--bandwidth %q: want bytes a second such as 100MiB, or none", f.bandwidth)}
		}
		bytesPerSecond = proto.Uint64(uint64(n))
	}
	if f.burst != "" {
		d, err := time.ParseDuration(unlessNone(f.burst))
		if err != nil || d < 0 || d%time.Second != 0 || d > burstMax {
			return nil, nil, nil, usageError{fmt.Errorf("--burst %q: want whole seconds such as 30s, up to 1h, or none", f.burst)}
		}
		burst = proto.Uint32(uint32(d / time.Second))
	}
	return iops, bytesPerSecond, burst, nil
}

const burstMax = time.Hour

// unlessNone is s, and 0 for the word none.
func unlessNone(s string) string {
	if s == "none" {
		return "0"
	}
	return s
}

// limits are those of a volume to be created.
func (f *limitFlags) limits() (*blockdv1.Limits, error) {
	iops, bytesPerSecond, burst, err := f.parse()
	if err != nil || iops == nil && bytesPerSecond == nil && burst == nil {
		return nil, err
	}
	set := &blockdv1.SetVolumeLimitsRequest{Iops: iops, BytesPerSecond: bytesPerSecond, BurstSeconds: burst}
	return &blockdv1.Limits{Iops: set.GetIops(), BytesPerSecond: set.GetBytesPerSecond(), BurstSeconds: set.GetBurstSeconds()}, nil
}

func (a *app) volumeSet() *cobra.Command {
	var flags limitFlags
	c := &cobra.Command{
		Use:   "set NAME [--iops N] [--bandwidth SIZE] [--burst TIME]",
		Short: "Limit how much hosts may do with a volume",
		Long: "Limit how much hosts may do with a volume, all of them together and through all nodes. It holds at\n" +
			"once. Limits that are not named stay; none takes one away. An operation is up to 512 KiB of a command.",
		Example:           "  blockctl volume set db1 --iops 5000 --bandwidth 200MiB --burst 30s\n  blockctl volume set db1 --iops none",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeArgs(a.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			iops, bytesPerSecond, burst, err := flags.parse()
			if err != nil {
				return err
			}
			if iops == nil && bytesPerSecond == nil && burst == nil {
				return usageError{errors.New("nothing to set: give --iops, --bandwidth or --burst")}
			}
			r, err := ask(a, cmd, a.clients().volume.SetVolumeLimits, &blockdv1.SetVolumeLimitsRequest{
				Name: args[0], Iops: iops, BytesPerSecond: bytesPerSecond, BurstSeconds: burst})
			return a.printVolume(cmd, r, err)
		},
	}
	flags.add(c)
	return a.dryRun(c, &blockdv1.SetVolumeLimitsRequest{})
}

type limitsView struct {
	IOPS           uint64 `json:"iops"`
	BytesPerSecond uint64 `json:"bytes_per_second"`
	BurstSeconds   uint32 `json:"burst_seconds"`
}

func viewLimits(l *blockdv1.Limits) limitsView {
	return limitsView{l.GetIops(), l.GetBytesPerSecond(), l.GetBurstSeconds()}
}

// String says them in words.
func (l limitsView) String() string {
	var words []string
	if l.IOPS > 0 {
		words = append(words, fmt.Sprintf("%d iops", l.IOPS))
	}
	if l.BytesPerSecond > 0 {
		words = append(words, units.FormatBytes(int64(l.BytesPerSecond))+"/s")
	}
	if l.BurstSeconds > 0 {
		words = append(words, fmt.Sprintf("burst %v", time.Duration(l.BurstSeconds)*time.Second))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
