package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/disk/faulty"
)

const carrierLog = "late.log"

// Partition loses every frame between the places of a and those of b, both ways.
// Frames that are late already still arrive.
func (c *Cluster) Partition(a, b []string) error {
	return errors.Join(c.PartitionOneWay(a, b), c.PartitionOneWay(b, a))
}

// PartitionOneWay loses every frame from the places of from to those of to.
func (c *Cluster) PartitionOneWay(from, to []string) error { return c.Loss(100, from, to) }

// Loss loses a share of the frames from the places of from to those of to:
// percent is 0 to 100, and replaces an earlier loss or partition of these.
func (c *Cluster) Loss(percent float64, from, to []string) error {
	ch, err := chance(percent)
	if err != nil {
		return err
	}
	return c.update(func(s *state) error {
		return s.eachRule(from, to, func(a, _ *Place, rules *ebpf.Map) error {
			return changeRule(rules, a.Number, func(r *rule) { r.Chance = ch })
		})
	})
}

// delayMax keeps a mistake in the unit from looking like a partition.
const delayMax = time.Minute

// Delay makes frames from the places of from to those of to late by delay and, at
// random, up to jitter more, which reorders them. Zero ends it. The process
// that sends them adds some 0.5 ms on a machine that is not busy.
func (c *Cluster) Delay(ctx context.Context, delay, jitter time.Duration, from, to []string) error {
	if delay < 0 || jitter < 0 || delay > delayMax || jitter > delayMax {
		return fmt.Errorf("cluster: delay %v, jitter %v: want 0 to %v", delay, jitter, delayMax)
	}
	return c.update(func(s *state) error {
		if delay+jitter > 0 {
			if err := s.startCarrier(ctx); err != nil {
				return err
			}
		}
		return s.eachRule(from, to, func(a, b *Place, rules *ebpf.Map) error {
			redirect := 0
			if delay+jitter > 0 {
				tap, err := net.InterfaceByName(b.lateName())
				if err != nil {
					return fmt.Errorf("interface %s: %w", b.lateName(), err)
				}
				redirect = tap.Index
			}
			return changeRule(rules, a.Number, func(r *rule) {
				r.Redirect, r.DelayNs, r.JitterNs = uint64(redirect), uint64(delay), uint64(jitter)
			})
		})
	})
}

// startCarrier starts the process that sends late frames, if it does not run.
func (s *state) startCarrier(ctx context.Context) error {
	now, err := s.Carrier.State()
	if err != nil || now != "gone" {
		return err
	}
	log := filepath.Join(s.Config.Dir, carrierLog)
	from := logSize(log)
	s.Carrier, err = start(s.namespace(switchName), log, nil, filepath.Join(s.Config.BinDir, "testenv"), "cluster", "carry-late", "--dir", s.Config.Dir)
	if err != nil {
		return err
	}
	if err := s.save(); err != nil {
		return err
	}
	if err := s.await(ctx, []awaited{{"the process that sends late frames", s.Carrier, log, from, "ready"}}); err != nil {
		said, _ := readFrom(log, from)
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}

// Heal ends partitions, losses and delays between all places, and limits of the bandwidth. Frames that are late are lost.
func (c *Cluster) Heal() error {
	return c.update(func(s *state) error {
		var all []string
		for _, p := range s.Places {
			all = append(all, p.Name)
		}
		err := s.eachRule(all, all, func(a, _ *Place, rules *ebpf.Map) error {
			return changeRule(rules, a.Number, func(r *rule) { r.Chance, r.Redirect, r.DelayNs, r.JitterNs = 0, 0, 0, 0 })
		})
		if err != nil {
			return err
		}
		if err := s.limit(0); err != nil {
			return err
		}
		return s.Carrier.end(syscall.SIGTERM, killPatience)
	})
}

// Wires is what the switch does and did to the frames from each place to each
// other that has sent it any, or for whom there is a fault.
func (c *Cluster) Wires() (wires []Wire, err error) {
	err = c.update(func(s *state) (err error) { wires, err = s.wires(); return })
	return wires, err
}

func (s *state) wires() (wires []Wire, err error) {
	var all []string
	for _, p := range s.Places {
		all = append(all, p.Name)
	}
	err = s.eachRule(all, all, func(a, b *Place, rules *ebpf.Map) error {
		var r rule
		if err := rules.Lookup(uint32(a.Number), &r); err != nil {
			return err
		}
		w := Wire{From: a.Name, To: b.Name, Loss: float64(r.Chance) * 100 / chanceAlways, Delay: time.Duration(r.DelayNs),
			Jitter: time.Duration(r.JitterNs), Seen: r.Seen, Dropped: r.Dropped, Late: r.Late}
		if w.Seen > 0 || w.IsFaulty() {
			wires = append(wires, w)
		}
		return nil
	})
	return wires, err
}

// DiskFaults has the disks of a node misbehave by rules, in the language of
// blockdev/disk/faulty: "write err=EIO", "read p=0.1 flip", "any delay=50ms". name is a
// node's, or n1/disk0 for one disk of it, whose rules then count in the place of the node's.
// They replace earlier ones and hold over restarts; none ends it.
func (c *Cluster) DiskFaults(name string, rules ...string) error {
	for _, r := range rules {
		if _, err := faulty.Parse(r); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return c.update(func(s *state) error {
		node, disk, one := strings.Cut(name, "/")
		nodes, err := s.pick([]string{node})
		switch {
		case err != nil:
			return err
		case !one:
			return setDiskFaults(nodes[0].diskFaults(), rules)
		}
		for i := range s.Config.Disks {
			if filepath.Base(nodes[0].disk(i)) == disk {
				return setDiskFaults(nodes[0].diskFaults()+"."+disk, rules)
			}
		}
		return fmt.Errorf("cluster: %s has no %s; its disks are disk0 to disk%d", node, disk, s.Config.Disks-1)
	})
}

func setDiskFaults(path string, rules []string) error {
	if len(rules) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.WriteFile(path+".new", []byte(strings.Join(rules, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// DiskFull leaves no room in a node's file system, or gives it back. What the
// disks hold stays, and can be overwritten; what they have never held, and all
// else in the data directory, can't be written.
func (c *Cluster) DiskFull(name string, full bool) error {
	return c.update(func(s *state) error {
		nodes, err := s.pick([]string{name})
		if err != nil {
			return err
		}
		if s.Config.OnDisk {
			return errors.New("cluster: this one is on the machine's own file system, which must not be filled; build one in memory for that")
		}
		path := nodes[0].fs()
		if !full {
			return resize(path, s.fsSize())
		}
		// What is written in between makes the kernel refuse; each try takes the newest number.
		for range 100 {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil {
				return fmt.Errorf("cluster: %s: %w", path, err)
			}
			err = resize(path, int64(st.Blocks-st.Bfree)*st.Bsize)
			if !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		return err
	})
}

// resize changes the size of a tmpfs, which the kernel refuses (EINVAL) below
// what is used.
func resize(path string, size int64) error {
	if err := unix.Mount("", path, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)); err != nil {
		return fmt.Errorf("cluster: resize the tmpfs on %s to %d bytes: %w", path, size, err)
	}
	return nil
}
