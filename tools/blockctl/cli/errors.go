package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"blockd.dev/raftmeta/pki"
)

// The exit codes of blockctl; what each means is in the text of `blockctl help`.
const (
	exitDone = iota
	exitRefused
	exitUsage
	exitUnreachable
	exitCertificate
	exitBroken
)

// errBroken is wrapped by the error of a command that did what it should, and
// found something broken.
var errBroken = errors.New("something is broken")

// usageError is about the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// ranError is the error of a command whose line was right.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// markRuns makes errors of the commands below c be told from those of cobra,
// which are about the command line.
func markRuns(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			if err := run(c, args); err != nil {
				return ranError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		markRuns(sub)
	}
}

// ExitCode returns what the process ends with after err.
func ExitCode(err error) int {
	var usage usageError
	var ran ranError
	var away *unreachable
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), !errors.As(err, &ran):
		return exitUsage
	case errors.Is(err, errBroken):
		return exitBroken
	case errors.Is(err, errCertificate), errors.Is(err, pki.ErrPeer), refusedByPeer(err):
		return exitCertificate
	case errors.As(err, &away):
		return exitUnreachable
	}
	switch code := connect.CodeOf(err); {
	case code == connect.CodeUnavailable, code == connect.CodeDeadlineExceeded, isStrange(err):
		return exitUnreachable
	case code == connect.CodeUnauthenticated, code == connect.CodePermissionDenied:
		return exitCertificate
	}
	return exitRefused
}

// refusedByPeer tells whether the node has ended a TLS connection by an alert,
// which it does after the handshake when it is the client's certificate that it
// does not want (RFC 8446, section 4.4.3).
func refusedByPeer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// isStrange tells whether a node has answered otherwise than blockd would.
func isStrange(err error) bool {
	var ce *connect.Error
	if !errors.As(err, &ce) || connect.IsWireError(err) {
		return false
	}
	code := ce.Code()
	return code == connect.CodeUnavailable || code == connect.CodeInternal || code == connect.CodeUnknown
}

// Explain puts an error into words for the user: what happened, to what, and
// what to do.
func Explain(err error) string {
	var away *unreachable
	if errors.As(err, &away) {
		return away.Error()
	}
	if refusedByPeer(err) {
		return "the node refuses your certificate; see `blockctl cert show` for whose it is and until when, compare the node's clock, or name another with --cert"
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err.Error()
	}
	switch {
	case ce.Code() == connect.CodeDeadlineExceeded:
		return ce.Message() + "; blockd did not answer in time, see its log; --timeout waits longer"
	case ce.Code() == connect.CodeUnimplemented:
		return ce.Message() + "; if blockd answers at that address, it is older than this blockctl and does not have the request: upgrade it"
	case isStrange(err):
		return ce.Message() + "; the node did not answer as blockd does: if it is of a cluster, name your certificate with --cert"
	}
	return ce.Message()
}

// unreachable says that no address could be asked.
type unreachable struct {
	tries []try
}

type try struct {
	address string
	err     error
}

// Unwrap is for errors.Is and As.
func (u *unreachable) Unwrap() []error {
	var out []error
	for _, t := range u.tries {
		out = append(out, t.err)
	}
	return out
}

// Error implements error.
func (u *unreachable) Error() string {
	var list []string
	for _, t := range u.tries {
		list = append(list, t.address+": "+reason(t.err))
	}
	return fmt.Sprintf("no blockd answers at %s; %s", strings.Join(list, "; at "), u.advice())
}

func (u *unreachable) advice() string {
	err := u.tries[0].err
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "the socket is for the user that blockd runs as: become that user, or root"
	case errors.Is(err, errCertificate):
		return "name another certificate with --cert, or ask on a node's own machine with --api unix:DATA/control.sock"
	case errors.Is(err, pki.ErrPeer):
		return "name the certificate of that cluster with --cert, or its addresses with --api"
	case errors.As(err, new(tls.RecordHeaderError)):
		return "that node has no certificate, so it is of no cluster; --api names others"
	}
	return "start it (blockd), or say where it is with --api or BLOCKD_API"
}

// reason leaves out of a system call's error what the address says already.
func reason(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}
