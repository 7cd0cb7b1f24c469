package catalog

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
)

// FSM is the state machine of the Raft group: it publishes the State that the
// commands so far come to. Give it to group.Open, and then both to New.
type FSM struct {
	state atomic.Pointer[State]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when state changes

	changes changes
}

var _ group.FSM = (*FSM)(nil)

// NewFSM returns a state machine with an empty state.
func NewFSM() *FSM {
	f := &FSM{changed: make(chan struct{})}
	f.state.Store(&State{})
	return f
}

// State returns the state as this member has it. It never blocks.
func (f *FSM) State() *State { return f.state.Load() }

// MaxVersion implements group.FSM.
func (f *FSM) MaxVersion() uint32 { return CommandVersion }

// Check implements group.FSM: it refuses what this blockd does not understand
// to the last field, and secrets that are not sealed. What passes here is
// applied by every member.
func (f *FSM) Check(version uint32, command []byte) error {
	cmd, err := decodeCommand(version, command)
	if err != nil {
		return err
	}
	if commandHasPlaintext(cmd) {
		return refuse(ErrInvalid, "a secret that is not sealed must not enter the log")
	}
	return nil
}

// Apply implements group.FSM. A command that is refused leaves its trace in
// the audit log, unless it was nobody's decision.
func (f *FSM) Apply(_, term uint64, version uint32, command []byte) []byte {
	s := f.state.Load()
	cmd, err := decodeCommand(version, command)
	if err == nil && cmd.GetTerm() != 0 && cmd.GetTerm() != term {
		err = refuse(ErrConflict, "it was decided in term %d of the log, and came into it in term %d: there is another leader, which decides anew", cmd.GetTerm(), term)
	}
	if err != nil {
		return encodeOutcome(Result{}, err)
	}
	next, res, err := s.Apply(cmd)
	if err != nil && quietKinds[kindOf(cmd)] {
		return encodeOutcome(Result{}, err)
	}
	what := Change{Revision: res.Revision, Action: res.Audit.Action, Subject: res.Audit.Subject}
	if err != nil {
		next = s.refused(cmd, err)
		what = Change{Revision: next.Revision, Action: kindOf(cmd), Refused: true}
	}
	f.publish(next, what)
	return encodeOutcome(res, err)
}

// quietKinds are proposals that cross each other all the time. Those of version 1, which
// do so too, are in the audit log when they are refused, as they always were.
var quietKinds = map[string]bool{"allocate_extents": true, "mark_replica": true, "start_moves": true, "finish_moves": true, "cancel_moves": true}

// publish makes s the state; what led to it is told to those who watch.
func (f *FSM) publish(s *State, what Change) {
	if s == f.state.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Store(s)
	f.changes.add(what) // after the state, which has it then for all who watch
	close(f.changed)
	f.changed = make(chan struct{})
}

// watch returns the state, and a channel that is closed when it changes.
func (f *FSM) watch() (*State, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Load(), f.changed
}

// Snapshot implements group.FSM.
func (f *FSM) Snapshot() group.Snapshot { return f.state.Load() }

// Restore implements group.FSM.
func (f *FSM) Restore(r io.Reader) error {
	s, err := ReadState(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Store(s)
	f.changes.reset(s.Revision)
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// decodeCommand reads a command of the log, whole or not at all.
func decodeCommand(version uint32, b []byte) (*catalogpb.Command, error) {
	cmd := &catalogpb.Command{}
	if err := proto.Unmarshal(b, cmd); err != nil {
		return nil, refuse(ErrInvalid, "malformed command: %v", err)
	}
	if cmd.GetVersion() != version {
		return nil, refuse(ErrInvalid, "command of version %d in an entry of version %d", cmd.GetVersion(), version)
	}
	if name := unknownField(cmd.ProtoReflect()); name != "" {
		return nil, refuse(ErrInvalid, "%s has a field that this blockd does not know; upgrade it", name)
	}
	if want := versionOf(cmd); want == 0 || version < want {
		return nil, refuse(ErrInvalid, "unknown kind of command, or one of version %d in an entry of version %d", want, version)
	}
	return cmd, nil
}

// unknownField returns the name of a message within m that has a field which
// was added later, or "". Such a field may not be passed over: members that
// know it would do something else.
func unknownField(m protoreflect.Message) (name string) {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().Name())
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() || fd.Kind() != protoreflect.MessageKind:
		case fd.IsList():
			for i := 0; i < v.List().Len() && name == ""; i++ {
				name = unknownField(v.List().Get(i).Message())
			}
		default:
			name = unknownField(v.Message())
		}
		return name == ""
	})
	return name
}

// refused is the state after a command that changed nothing but the audit log.
func (s *State) refused(cmd *catalogpb.Command, err error) *State {
	if s.ClusterID.IsZero() {
		return s
	}
	next := *s
	next.Revision++
	next.audit(Audit{Revision: next.Revision, Time: decodeTime(cmd.GetTimeUnixNano()),
		Actor: clip(cmd.GetActor()), Source: clip(cmd.GetSource()), Action: kindOf(cmd), Refused: clip(err.Error())})
	return &next
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "?") }

// String names the state in messages.
func (s *State) String() string { return fmt.Sprintf("catalog at revision %d", s.Revision) }
