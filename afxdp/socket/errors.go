package socket

import (
	"errors"
	"fmt"
	"syscall"
)

// The kinds of failure that a caller may want to tell apart, by errors.Is.
var (
	// ErrPermission means that the process lacks a privilege, or locked memory.
	ErrPermission = errors.New("not permitted")
	// ErrQueueBusy means that another AF_XDP socket is bound to the queue.
	ErrQueueBusy = errors.New("the queue has an AF_XDP socket already")
	// ErrUnsupported means that the kernel or the driver can't.
	ErrUnsupported = errors.New("not supported")
)

// explain turns an errno of AF_XDP into what it means there and what to do.
func explain(what string, err error) error {
	what = "af_xdp: " + what
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %w (%w); run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF", what, ErrPermission, err)
	case errors.Is(err, syscall.ENOBUFS):
		return fmt.Errorf("%s: %w to lock so much memory (%w); raise it by `ulimit -l unlimited` or LimitMEMLOCK=infinity, or give CAP_IPC_LOCK", what, ErrPermission, err)
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS) (%w)", what, ErrUnsupported, err)
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%s: %w by the driver (%w)", what, ErrUnsupported, err)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOPROTOOPT):
		return fmt.Errorf("%s: %w: no such queue, or the kernel is too old for it (%w)", what, ErrUnsupported, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%s: %w (%w); end the process that has it, or use another queue", what, ErrQueueBusy, err)
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%s: the interface is gone (%w)", what, err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%s: the kernel is out of memory (%w); use fewer or shorter rings", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
