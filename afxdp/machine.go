package afxdp

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"blockd.dev/bpf"
)

// machine is what of kernel and process matters to AF_XDP.
type machine struct {
	netRaw, netAdmin, loadPrograms, lockMemory bool
	lockLimit                                  uint64 // bytes that may be locked without the privilege
	hugeFree, hugeTotal                        int64  // reserved pages of 2 MiB; total below 0: unknown
	features                                   []bpf.Feature
	release                                    [2]int // of the kernel: major and minor; zero: unknown
}

// Bits of CapEff in /proc/PID/status (linux/capability.h).
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capIPCLock  = 14
	capSysAdmin = 21
	capBPF      = 39
)

func lookAtMachine() machine {
	m := machine{hugeFree: -1, hugeTotal: -1, features: bpf.Features(), release: release()}
	has, err := strconv.ParseUint(field("/proc/self/status", "CapEff"), 16, 64)
	if err == nil {
		cap := func(bit int) bool { return has>>bit&1 != 0 }
		m.netRaw, m.netAdmin, m.lockMemory = cap(capNetRaw), cap(capNetAdmin), cap(capIPCLock)
		m.loadPrograms = cap(capBPF) || cap(capSysAdmin)
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		m.lockLimit = limit.Cur
	}
	if size := field("/proc/meminfo", "Hugepagesize"); size == "2048 kB" {
		m.hugeFree, m.hugeTotal = number("/proc/meminfo", "HugePages_Free"), number("/proc/meminfo", "HugePages_Total")
	}
	return m
}

// field returns what follows "name:" in a file of /proc, or "".
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && k == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func number(path, name string) int64 {
	n, err := strconv.ParseInt(field(path, name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

const howToPrivilege = "run blockd as root, or with AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF CAP_IPC_LOCK"

// lacksForXDP says why this process can have no AF_XDP at all, or "".
func (m *machine) lacksForXDP() (why, fix string) {
	for _, f := range m.features[:min(featuresNeeded, len(m.features))] {
		if errors.Is(f.Err, bpf.ErrUnsupported) {
			return f.Err.Error(), "boot a newer kernel, or one with CONFIG_XDP_SOCKETS"
		}
	}
	var missing []string
	for _, c := range []struct {
		has  bool
		name string
	}{{m.netRaw, "CAP_NET_RAW"}, {m.netAdmin, "CAP_NET_ADMIN"}, {m.loadPrograms, "CAP_BPF"}} {
		if !c.has {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return "this process lacks " + strings.Join(missing, ", "), howToPrivilege
	}
	return "", ""
}

// featuresNeeded is how many of bpf.Features there must be for AF_XDP at all:
// programs, XSKMAP, links.
const featuresNeeded = 3

// multiBuffer reports whether AF_XDP takes frames over several chunks: the socket
// by Linux 6.6, the program before.
func (m *machine) multiBuffer() bool {
	return m.release == [2]int{} || m.release[0] > 6 || m.release[0] == 6 && m.release[1] >= 6
}

func release() (r [2]int) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		// What doesn't begin with two numbers stays unknown.
		if n, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &r[0], &r[1]); n != 2 || err != nil {
			return [2]int{}
		}
	}
	return r
}
