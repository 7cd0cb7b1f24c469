package group

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// machine is the state machine that the Raft library drives: meta, the FSM,
// and the comparison of hashes. The library calls Apply, StoreConfiguration,
// Snapshot and Restore from one goroutine.
type machine struct {
	fsm     FSM
	self    string
	version uint32 // fsm.MaxVersion()
	reborn  bool   // snapshots begin a new incarnation: Recover

	stop        func(error) // this member halts; it must not block
	events      func(Event)
	tookOffice  func(index, term uint64) // this node's TakeOffice was applied
	membersMove func()                   // meta.Members, or who votes, has changed
	votersMove  func()                   // who votes has changed, just before applied says so
	persisted   func()                   // a snapshot was written
	advanced    func()                   // applied has grown

	mu      sync.Mutex // guards what follows; the FSM is called without it
	meta    meta
	applied uint64 // the last index that meta and the FSM have
	term    uint64 // of applied
	halted  bool
	moved   chan struct{} // closed when applied grows; nil when nobody waits

	hashes hashes
}

func newMachine(fsm FSM, id identity, events func(Event)) *machine {
	return &machine{
		fsm: fsm, self: id.Node, version: fsm.MaxVersion(),
		stop: func(error) {}, events: events, tookOffice: func(uint64, uint64) {}, membersMove: func() {}, votersMove: func() {}, persisted: func() {}, advanced: func() {},
		meta: newMeta(id.Cluster, id.Incarnation),
	}
}

// Apply implements raft.FSM. It returns *outcome, or nil when this member has
// halted: what came of the entry elsewhere is not known here.
func (m *machine) Apply(l *raft.Log) any {
	m.mu.Lock()
	if m.halted || l.Index <= m.applied {
		m.mu.Unlock()
		return (*outcome)(nil)
	}
	o, call := m.begin(l)
	m.mu.Unlock()
	if call == nil {
		m.finish(l)
		return &o
	}
	if call.kind == kindGroup {
		o = m.applyOrder(l, call)
	} else {
		o.Data = m.fsm.Apply(l.Index, l.Term, call.version, call.command)
		if len(o.Data) > ResultMax {
			m.stop(fmt.Errorf("%w: the result of the command at index %d has %d bytes", ErrHalted, l.Index, len(o.Data)))
		}
	}
	m.mu.Lock()
	m.meta.Requests.add(call.request, o)
	m.mu.Unlock()
	m.finish(l)
	return &o
}

// begin decides what an entry comes to without being carried out, or returns
// what to carry out. What can't be decoded is refused in the same way everywhere.
func (m *machine) begin(l *raft.Log) (o outcome, call *envelope) {
	o = outcome{Index: l.Index, Term: l.Term}
	e, err := decodeEnvelope(l.Data)
	if err != nil {
		o.Code, o.Data = codeRefused, []byte(err.Error())
		return o, nil
	}
	if known, ok := m.meta.Requests.find(e.request, e.after); ok {
		return known, nil
	}
	if e.version > m.meta.Gate {
		o.Code = codeGate
		return o, nil
	}
	return o, &e
}

// finish publishes that the entry was applied.
func (m *machine) finish(l *raft.Log) {
	m.mu.Lock()
	m.applied, m.term = l.Index, l.Term
	m.wakeLocked()
	m.mu.Unlock()
	m.advanced()
}

func (m *machine) wakeLocked() {
	if m.moved != nil {
		close(m.moved)
		m.moved = nil
	}
}

func (m *machine) applyOrder(l *raft.Log, e *envelope) outcome {
	o := outcome{Index: l.Index, Term: l.Term}
	ord, err := decodeOrder(e.command)
	if err != nil {
		o.Code, o.Data = codeRefused, []byte(err.Error())
		return o
	}
	m.mu.Lock()
	gate := m.meta.Gate
	err = m.meta.apply(l.Term, &ord)
	opened := m.meta.Gate
	m.mu.Unlock()
	if err != nil {
		o.Code, o.Data = codeOf(err), []byte(err.Error())
		return o
	}
	switch {
	case ord.TakeOffice != nil && ord.TakeOffice.ID == m.self:
		m.tookOffice(l.Index, l.Term)
		m.membersMove()
	case ord.TakeOffice != nil, ord.Announce != nil:
		m.membersMove()
	case ord.Admit != nil:
		m.events(Event{Kind: EventMember, Node: ord.Admit.ID, Index: l.Index, Text: "admitted, at " + ord.Admit.Address})
		m.membersMove()
	case ord.Remove != nil:
		m.events(Event{Kind: EventMember, Node: ord.Remove.ID, Index: l.Index, Text: "removed"})
		m.membersMove()
		if ord.Remove.ID == m.self {
			m.stop(ErrRemoved)
		}
	case ord.Open != nil && opened != gate:
		m.events(Event{Kind: EventGate, Index: uint64(opened)})
		if opened > m.version {
			m.stop(fmt.Errorf("%w: it understands version %d of commands, and %d is in use", ErrTooOld, m.version, opened))
		}
	case ord.Mark != nil:
		m.mark(l.Index)
	case ord.Hash != nil:
		m.compare(ord.Hash.Mark, ord.Hash.Hash)
	}
	return o
}

// StoreConfiguration implements raft.ConfigurationStore: the library's own
// changes of membership pass here in the order of the log.
func (m *machine) StoreConfiguration(index uint64, _ raft.Configuration) {
	m.votersMove()
	m.mu.Lock()
	if index > m.applied {
		m.applied = index
		m.wakeLocked()
	}
	m.mu.Unlock()
	m.membersMove()
}

// wait returns when everything up to index has been applied here.
func (m *machine) wait(ctx context.Context, index uint64, halted <-chan struct{}) error {
	for {
		m.mu.Lock()
		if m.applied >= index {
			m.mu.Unlock()
			return nil
		}
		if m.moved == nil {
			m.moved = make(chan struct{})
		}
		moved := m.moved
		m.mu.Unlock()
		select {
		case <-moved:
		case <-halted:
			return ErrHalted
		case <-ctx.Done():
			return fmt.Errorf("waiting for index %d of the log: %w", index, ctx.Err())
		}
	}
}

// halt makes Apply do nothing any more.
func (m *machine) halt() {
	m.mu.Lock()
	m.halted = true
	m.mu.Unlock()
}

func (m *machine) position() (index, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied, m.term
}

func (m *machine) incarnation() (index uint64, incarnation uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied, m.meta.Incarnation
}

func (m *machine) gate() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta.Gate
}

func (m *machine) member(id string) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.meta.Members[id]
	return n, ok
}

func (m *machine) removed(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta.Removed[id]
}

// members returns the members by id, ascending.
func (m *machine) members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Member, 0, len(m.meta.Members))
	for _, id := range slices.Sorted(maps.Keys(m.meta.Members)) {
		list = append(list, m.meta.Members[id])
	}
	return list
}

func (m *machine) openable() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta.openable()
}

// image is the whole state at one index, immutable. Its stream:
//
//	| 8 magic | 8 index | 8 term | 4 length | meta, JSON | the FSM's bytes ... |
//
// Numbers are big-endian. Whoever stores it adds a checksum.
type image struct {
	index, term uint64
	meta        meta
	fsm         Snapshot
	of          *machine
}

const imageMagic = "BDGROUP1"

// image is called where Apply is.
func (m *machine) image() *image {
	state := m.fsm.Snapshot()
	m.mu.Lock()
	defer m.mu.Unlock()
	i := &image{m.applied, m.term, m.meta.frozen(), state, m}
	if m.reborn {
		i.meta = m.meta.reborn()
	}
	return i
}

// WriteTo implements io.WriterTo.
func (i *image) WriteTo(w io.Writer) (int64, error) {
	text := i.meta.encode()
	head := binary.BigEndian.AppendUint64([]byte(imageMagic), i.index)
	head = binary.BigEndian.AppendUint64(head, i.term)
	head = binary.BigEndian.AppendUint32(head, uint32(len(text)))
	head = append(head, text...)
	n, err := w.Write(head)
	if err != nil {
		return int64(n), err
	}
	more, err := i.fsm.WriteTo(w)
	return int64(n) + more, err
}

// Hash covers the group's own state and the FSM's.
func (i *image) Hash() [HashSize]byte {
	own, fsm := sha256.Sum256(i.meta.encode()), i.fsm.Hash()
	return sha256.Sum256(append(own[:], fsm[:]...))
}

// readImageHead reads an image up to the FSM's bytes.
func readImageHead(r io.Reader) (i image, err error) {
	head := make([]byte, len(imageMagic)+8+8+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return i, fmt.Errorf("the state is cut short: %w", err)
	}
	if string(head[:8]) != imageMagic {
		return i, errors.New("not a state of a group")
	}
	i.index, i.term = binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint64(head[16:])
	size := binary.BigEndian.Uint32(head[24:])
	if size > 256<<20 {
		return i, fmt.Errorf("the group's own state has %d bytes", size)
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(text) != int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return i, fmt.Errorf("the state is cut short: %w", err)
	}
	i.meta, err = decodeMeta(text)
	return i, err
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return m.image(), nil }

// Persist implements raft.FSMSnapshot.
func (i *image) Persist(sink raft.SnapshotSink) error {
	w := bufio.NewWriterSize(sink, 256<<10)
	_, err := i.WriteTo(w)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	i.of.events(Event{Kind: EventSnapshot, Index: i.index, Term: i.term})
	i.of.persisted()
	return nil
}

// Release implements raft.FSMSnapshot; the collector frees images.
func (i *image) Release() {}

// Restore implements raft.FSM.
func (m *machine) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	r := bufio.NewReaderSize(rc, 256<<10)
	i, err := readImageHead(r)
	if err != nil {
		return err
	}
	if i.meta.Gate > m.version {
		err := fmt.Errorf("%w: it understands version %d of commands, and %d is in use", ErrTooOld, m.version, i.meta.Gate)
		m.stop(err)
		return err
	}
	if err := m.fsm.Restore(r); err != nil {
		return err
	}
	m.votersMove()
	m.mu.Lock()
	m.meta, m.applied, m.term = i.meta, i.index, i.term
	m.wakeLocked()
	gone := m.meta.Removed[m.self]
	m.mu.Unlock()
	m.hashes.forget()
	m.events(Event{Kind: EventRestored, Index: i.index, Term: i.term})
	m.membersMove()
	if gone && !m.reborn {
		m.stop(ErrRemoved)
	}
	return nil
}
