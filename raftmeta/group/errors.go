package group

import (
	"errors"
	"fmt"
)

// Why a call failed, to be matched with errors.Is. Text that wraps them says
// more. Unless it is ErrOutcomeUnknown, what was asked for had no effect.
var (
	ErrNoLeader       = errors.New("the group has no leader that this node can reach; a majority of the voters must be up")
	ErrNotLeader      = errors.New("this node is not the leader of the group")
	ErrOutcomeUnknown = errors.New("whether the command took effect is not known; ask for the state, or try again with the same request id")
	ErrGate           = errors.New("not every member understands this version of commands yet; upgrade the others first")
	ErrUnknownCommand = errors.New("command not understood by the leader")
	ErrTooLarge       = errors.New("command longer than 1 MiB")
	ErrRefused        = errors.New("refused")
	ErrRemoved        = errors.New("this node was removed from the cluster; wipe its data folder and let it join again under a new id")
	ErrDiverged       = errors.New("this node's state differs from the leader's")
	ErrStorage        = errors.New("the disk of the Raft log failed")
	ErrTooOld         = errors.New("this blockd is older than what the cluster uses; install the newer release")
	ErrHalted         = errors.New("this member has stopped")
	ErrClosed         = errors.New("the group is closed on this node")
	ErrIncarnation    = errors.New("the cluster was restored or recovered since this node was a member; wipe its data folder and let it join again")
	ErrBackup         = errors.New("not a usable backup")
)

// code carries the identity of an error between members; text never does.
// Numbers are part of the protocol: add, never renumber.
type code uint8

const (
	codeOK code = iota
	codeOther
	codeNoLeader
	codeNotLeader
	codeOutcomeUnknown
	codeGate
	codeUnknownCommand
	codeTooLarge
	codeRefused
	codeRemoved
	codeTooOld
	codeHalted
	codeIncarnation
)

var codes = map[code]error{
	codeNoLeader:       ErrNoLeader,
	codeNotLeader:      ErrNotLeader,
	codeOutcomeUnknown: ErrOutcomeUnknown,
	codeGate:           ErrGate,
	codeUnknownCommand: ErrUnknownCommand,
	codeTooLarge:       ErrTooLarge,
	codeRefused:        ErrRefused,
	codeRemoved:        ErrRemoved,
	codeTooOld:         ErrTooOld,
	codeHalted:         ErrHalted,
	codeIncarnation:    ErrIncarnation,
}

func codeOf(err error) code {
	if err == nil {
		return codeOK
	}
	for c := codeNoLeader; c <= codeIncarnation; c++ {
		if errors.Is(err, codes[c]) {
			return c
		}
	}
	return codeOther
}

// remoteError is an error that another member answered with.
type remoteError struct {
	node string
	text string
	is   error // nil for codeOther
}

func (e *remoteError) Error() string { return fmt.Sprintf("node %s: %s", e.node, e.text) }
func (e *remoteError) Unwrap() error { return e.is }

func (c code) err(node, text string) error {
	if c == codeOK {
		return nil
	}
	return &remoteError{node, text, codes[c]}
}
