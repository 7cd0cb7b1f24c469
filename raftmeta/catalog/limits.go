package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Limits are how much hosts may do with a volume, all of them together, through
// all nodes. 0 is no limit.
type Limits struct {
	IOPS           uint64
	BytesPerSecond uint64
	// BurstSeconds is for how long what is not used may be saved up, to be used at once.
	BurstSeconds uint32
}

// Bounds of limits. The lowest keep a single command of a host from taking longer than
// it waits for one, which is 30 s with Linux: it may have 8 MiB.
const (
	IOPSMin, IOPSMax           = 10, 1_000_000_000
	BandwidthMin, BandwidthMax = 1 << 20, 1 << 40 // bytes per second
	BurstMax                   = 3600             // seconds
)

// IsZero reports whether there is no limit.
func (l Limits) IsZero() bool { return l == Limits{} }

// check returns what is kept of l.
func (l Limits) check() (Limits, error) {
	switch {
	case l.IOPS != 0 && (l.IOPS < IOPSMin || l.IOPS > IOPSMax):
		return l, refuse(ErrInvalid, "a limit of %d operations a second: want %d to %d, or none", l.IOPS, IOPSMin, IOPSMax)
	case l.BytesPerSecond != 0 && (l.BytesPerSecond < BandwidthMin || l.BytesPerSecond > BandwidthMax):
		return l, refuse(ErrInvalid, "a limit of %d bytes a second: want 1MiB to 1TiB, or none", l.BytesPerSecond)
	case l.BurstSeconds > BurstMax:
		return l, refuse(ErrInvalid, "a burst of %d seconds: want at most %d", l.BurstSeconds, BurstMax)
	case l.BurstSeconds != 0 && l.IOPS == 0 && l.BytesPerSecond == 0:
		return l, refuse(ErrInvalid, "a burst of %d seconds is of a limit, and there is none: give --iops or --bandwidth too", l.BurstSeconds)
	}
	return l, nil
}

// detail describes l for the audit log, after a text; nothing when there is no limit.
func (l Limits) detail(after string) string {
	var words []string
	if l.IOPS != 0 {
		words = append(words, fmt.Sprintf("iops %d", l.IOPS))
	}
	if l.BytesPerSecond != 0 {
		words = append(words, fmt.Sprintf("bytes/s %d", l.BytesPerSecond))
	}
	if l.BurstSeconds != 0 {
		words = append(words, fmt.Sprintf("burst %d s", l.BurstSeconds))
	}
	if len(words) == 0 {
		return ""
	}
	return after + strings.Join(words, ", ")
}

// setVolumeLimits changes the limits that the command has. With the last limit goes the
// burst, of which nobody has said that it should stay.
func (f *fold) setVolumeLimits(c *catalogpb.SetVolumeLimits) error {
	i, err := f.liveVolume(c.GetName())
	if err != nil {
		return err
	}
	if c.Iops == nil && c.BytesPerSecond == nil && c.BurstSeconds == nil {
		return refuse(ErrInvalid, "nothing to set for volume %q: give --iops, --bandwidth or --burst", c.GetName())
	}
	old := f.Volumes[i].Limits
	l := old
	if c.Iops != nil {
		l.IOPS = c.GetIops()
	}
	if c.BytesPerSecond != nil {
		l.BytesPerSecond = c.GetBytesPerSecond()
	}
	if c.BurstSeconds != nil {
		l.BurstSeconds = c.GetBurstSeconds()
	} else if l.IOPS == 0 && l.BytesPerSecond == 0 {
		l.BurstSeconds = 0
	}
	if l, err = l.check(); err != nil {
		return err
	}
	f.Volumes = slices.Clone(f.Volumes)
	f.Volumes[i].Limits = l
	f.did("volume.limit", c.GetName(), "%s to %s", cmp.Or(old.detail(""), "none"), cmp.Or(l.detail(""), "none"))
	return nil
}

func limitsFrom(m *catalogpb.Limits) Limits {
	return Limits{IOPS: m.GetIops(), BytesPerSecond: m.GetBytesPerSecond(), BurstSeconds: m.GetBurstSeconds()}
}

func limitsTo(l Limits) *catalogpb.Limits {
	if l.IsZero() {
		return nil
	}
	return &catalogpb.Limits{Iops: l.IOPS, BytesPerSecond: l.BytesPerSecond, BurstSeconds: l.BurstSeconds}
}

// limits are those of a volume in a snapshot.
func (l *loader) limits(m *catalogpb.Limits) Limits {
	out, err := limitsFrom(m).check()
	l.bad = l.bad || err != nil
	return out
}
