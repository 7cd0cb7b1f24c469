package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kinds of failure that a caller may want to tell apart, by errors.Is.
var (
	// ErrBusy means that another XDP program is attached to the NIC.
	ErrBusy = errors.New("the interface has an XDP program already")
	// ErrPermission means that the process lacks a privilege.
	ErrPermission = errors.New("not permitted")
	// ErrUnsupported means that the kernel or the driver can't.
	ErrUnsupported = errors.New("not supported")
)

// errTooBig is what a full hash table answers.
const errTooBig = unix.E2BIG

const privileges = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (before Linux 5.8: CAP_SYS_ADMIN)"

// explainFeature turns what a probe found into the text for a Feature.
func explainFeature(what, since string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: this kernel lacks %s; Linux %s or later has it", ErrUnsupported, what, since)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w to look for %s; %s", ErrPermission, what, privileges)
	}
	return fmt.Errorf("looking for %s: %w", what, err)
}

// explainLoad says why a program or table couldn't be loaded: if the kernel
// lacks something, what that is.
func explainLoad(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && !isVerifierError(err) {
		return fmt.Errorf("bpf: load: %w: %w; %s", ErrPermission, err, privileges)
	}
	for _, f := range Features()[:2] {
		if errors.Is(f.Err, ErrUnsupported) {
			return fmt.Errorf("bpf: load: %w (%w)", f.Err, err)
		}
	}
	return fmt.Errorf("bpf: load: %w", err)
}

func isVerifierError(err error) bool {
	var v *ebpf.VerifierError
	return errors.As(err, &v) && len(v.Log) > 0
}

// explainAttach says why the NIC didn't take the program.
func explainAttach(err error, nic *netlink.LinkAttrs, mode Mode) error {
	where := fmt.Sprintf("bpf: attach to %s, %v mode", nic.Name, mode)
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w%s; end that process or use UDP sockets: a NIC takes one XDP program", where, ErrBusy, attached(nic.Index))
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w; %s", where, ErrPermission, privileges)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w: the driver has no XDP; use mode generic", where, ErrUnsupported)
	}
	if feature := explainFeature("XDP programs that vanish with their process", "5.9", haveXDPLink()); feature != nil {
		return fmt.Errorf("%s: %w", where, feature)
	}
	return fmt.Errorf("%s: %w: %w; the driver says why in the kernel's log: often an MTU over about 3,500 bytes, "+
		"LRO, or too few free queues", where, ErrUnsupported, err)
}

// attached names the XDP program on the interface, as well as it can.
func attached(index int) string {
	nic, err := netlink.LinkByIndex(index)
	if err != nil || nic.Attrs().Xdp == nil || !nic.Attrs().Xdp.Attached {
		return ""
	}
	id := nic.Attrs().Xdp.ProgId
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return fmt.Sprintf(" (program %d)", id)
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	if err != nil {
		return fmt.Sprintf(" (program %d)", id)
	}
	return fmt.Sprintf(" (program %d, %q)", id, info.Name)
}
