package cluster

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bandwidthMin   = 1e6 // bits a second
	bandwidthMax   = 100e9
	bandwidthBurst = 1 << 20 // bytes that may pass at once: what a veth hands over in one go is 64 KiB and more
	// bandwidthQueue is how long a frame may wait at a port before it is lost, as in a switch whose buffer is full.
	bandwidthQueue = 4 * time.Millisecond
)

// ParseBandwidth reads bits a second as tc(8) writes them: 100mbit, 2.5gbit; or 0.
func ParseBandwidth(s string) (bits int64, err error) {
	number, unit := strings.ToLower(s), 1.0
	if n, ok := strings.CutSuffix(number, "mbit"); ok {
		number, unit = n, 1e6
	} else if n, ok := strings.CutSuffix(number, "gbit"); ok {
		number, unit = n, 1e9
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || (unit == 1 && f != 0) || !(f >= 0 && f*unit <= bandwidthMax) {
		return 0, fmt.Errorf("bandwidth %q: want bits a second up to %s, such as 100mbit or 2.5gbit, or 0 for no limit", s, FormatBandwidth(bandwidthMax))
	}
	return int64(f * unit), nil
}

// FormatBandwidth is what ParseBandwidth reads.
func FormatBandwidth(bits int64) string {
	switch {
	case bits == 0:
		return "0"
	case bits < 1e9:
		return fmt.Sprintf("%gmbit", float64(bits)/1e6)
	}
	return fmt.Sprintf("%ggbit", float64(bits)/1e9)
}

// Bandwidth limits what each place gets from the switch, in bits a second, 10^6 to 10^11. Zero ends it. The kernel
// needs the qdisc tbf.
func (c *Cluster) Bandwidth(bits int64) error {
	if bits != 0 && (bits < bandwidthMin || bits > bandwidthMax) {
		return fmt.Errorf("cluster: bandwidth of %d bits a second: want 0, or %s to %s", bits, FormatBandwidth(bandwidthMin), FormatBandwidth(bandwidthMax))
	}
	return c.update(func(s *state) error { return s.limit(bits) })
}

// limit has the port of each place send at that rate; 0: as fast as it can.
func (s *state) limit(bits int64) error {
	return inNamespace(s.namespace(switchName), func() error {
		for _, p := range s.Places {
			if err := p.limit(uint64(bits) / 8); err != nil {
				return fmt.Errorf("cluster: bandwidth of %s: %w", p.port(), err)
			}
		}
		return nil
	})
}

// bandwidth is the limit that there is, the same for all places.
func (s *state) bandwidth() (bits int64, err error) {
	err = inNamespace(s.namespace(switchName), func() error {
		port, err := netlink.LinkByName(s.Places[0].port())
		if err != nil {
			return err
		}
		limited, err := limiter(port)
		if limited != nil {
			bits = int64(limited.Rate) * 8
		}
		return err
	})
	return bits, err
}

// limit runs in the switch's namespace.
func (p *Place) limit(bytesPerSecond uint64) error {
	port, err := netlink.LinkByName(p.port())
	if err != nil {
		return err
	}
	limited, err := limiter(port)
	if err != nil {
		return err
	}
	if bytesPerSecond == 0 {
		if limited == nil {
			return nil
		}
		return netlink.QdiscDel(limited)
	}
	err = netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytesPerSecond,
		Buffer:     netlink.Xmittime(bytesPerSecond, bandwidthBurst),
		Limit:      uint32(min(bandwidthBurst+float64(bytesPerSecond)*bandwidthQueue.Seconds(), math.MaxUint32)),
	})
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the kernel does not have the qdisc tbf (CONFIG_NET_SCH_TBF): %w", err)
	}
	return err
}

// limiter is what limits a port, if anything does.
func limiter(port netlink.Link) (*netlink.Tbf, error) {
	all, err := netlink.QdiscList(port)
	if err != nil {
		return nil, err
	}
	for _, q := range all {
		if tbf, ok := q.(*netlink.Tbf); ok {
			return tbf, nil
		}
	}
	return nil, nil
}
