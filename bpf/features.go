package bpf

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something of the kernel that this package uses.
type Feature struct {
	Name string
	For  string // what can't be had without it
	// Err is nil when the kernel has it; wraps ErrUnsupported when not, and
	// ErrPermission when this process may not even look. Its text says what to do.
	Err error
}

// FeatureTrafficControl is the name of what package bpf/fault needs.
const FeatureTrafficControl = "traffic-control links"

// Features looks at the running kernel. It changes nothing.
func Features() []Feature {
	return []Feature{
		{"XDP programs", "AF_XDP; without it UDP sockets are used", explainFeature("XDP programs", "4.8", features.HaveProgramType(ebpf.XDP))},
		{"XSKMAP", "AF_XDP; without it UDP sockets are used", explainFeature("redirecting to AF_XDP sockets (CONFIG_XDP_SOCKETS)", "4.18", features.HaveMapType(ebpf.XSKMap))},
		{"XDP links", "AF_XDP; without it UDP sockets are used", explainFeature("XDP programs that vanish with their process", "5.9", haveXDPLink())},
		{"XDP multi-buffer", "AF_XDP with an MTU over about 3,500 bytes", explainFeature("XDP on frames of several buffers", "5.18", haveFrags())},
		{FeatureTrafficControl, "injecting faults in tests", explainFeature("traffic-control programs that vanish with their process", "6.6", haveTCX())},
	}
}

// haveXDPLink goes by the version: a kernel that doesn't know such links and one
// that doesn't know the interface of a trial give the same answer, EINVAL.
func haveXDPLink() error {
	version, err := features.LinuxVersionCode()
	if err == nil && version < linux(5, 9) {
		err = ebpf.ErrNotSupported
	}
	return err
}

// linux returns a kernel's version as the kernel counts it.
func linux(major, minor uint32) uint32 { return major<<16 | minor<<8 }

// haveTCX asks for a link to an interface that can't exist: ENODEV is the answer
// of a kernel that knows such links.
func haveTCX() error {
	p, err := probeProgram(ebpf.SchedCLS, ebpf.AttachTCXIngress, 0)
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: p, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(errors.New("there is an interface with the greatest number of all"), l.Close())
}

// haveFrags loads a program with the flag for multi-buffer frames.
func haveFrags() error {
	p, err := probeProgram(ebpf.XDP, ebpf.AttachXDP, unix.BPF_F_XDP_HAS_FRAGS)
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			return ebpf.ErrNotSupported
		}
		return err
	}
	return p.Close()
}

// probeProgram loads a program that does nothing.
func probeProgram(kind ebpf.ProgramType, attach ebpf.AttachType, flags uint32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:       "blockd_probe",
		Type:       kind,
		AttachType: attach,
		Flags:      flags,
		License:    "Apache-2.0",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), // XDP_PASS; never run
			asm.Return(),
		},
	})
}

// newCollection loads what spec has, without the program frags where the
// kernel knows no such programs.
func newCollection(spec *ebpf.CollectionSpec, frags string) (*ebpf.Collection, error) {
	if spec.Programs[frags] != nil {
		if err := haveFrags(); errors.Is(err, ebpf.ErrNotSupported) {
			delete(spec.Programs, frags)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, explainLoad(err)
	}
	return c, nil
}

// allowLockedMemory raises RLIMIT_MEMLOCK where the kernel counts programs and
// tables against it: before Linux 5.11.
func allowLockedMemory() error {
	version, err := features.LinuxVersionCode()
	if err != nil {
		return fmt.Errorf("bpf: the kernel's version: %w", err)
	}
	if version >= linux(5, 11) {
		return nil
	}
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all); err != nil {
		return fmt.Errorf("bpf: %w: raising RLIMIT_MEMLOCK, which kernels before 5.11 charge for programs: %w; run as root, or set LimitMEMLOCK=infinity", ErrPermission, err)
	}
	return nil
}
