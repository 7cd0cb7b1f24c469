package reservation

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Log is where Shared keeps tables: one log, which all nodes follow.
type Log interface {
	// Table returns the record of a volume as this node has it, and its
	// generation: 0 and nothing for a volume that never had one. It does not
	// block.
	Table(id VolumeID) (generation uint64, record []byte)
	// Replace puts a record in the place of the one with generation expect.
	// ErrOutdated means that another node was faster, and that Table has what
	// it wrote; with another error the record may have been replaced or not.
	Replace(ctx context.Context, id VolumeID, expect uint64, record []byte) error
	// Barrier returns when Table has what any node had written before the call.
	Barrier(ctx context.Context) error
	// Spread returns when every node that serves the volume enforces the table
	// of this generation or a later one, and has ended the tasks that it aborts.
	Spread(ctx context.Context, id VolumeID, generation uint64) error
}

// ErrOutdated is what Log.Replace answers when the generation has moved on.
var ErrOutdated = errors.New("the reservations were changed meanwhile")

// changesKept is how many of a volume's last changes can be waited for.
const changesKept = 64

// Shared is a Backend for volumes that several nodes serve. A change is a
// record in the Log, made of the table and of what others must be told; a node
// publishes it when it sees it there (Follow), so that all enforce the same and
// hosts get their notices wherever they are connected. A command is
// answered when every node has done so.
//
// Tables survive power losses of nodes whether or not hosts ask for it (APTPL,
// PTPL): the volume itself doesn't lose its power while other nodes have theirs.
type Shared struct {
	log Log

	mu      sync.Mutex
	volumes map[VolumeID]*sharedVolume
}

type sharedVolume struct {
	*Volume
	mu         sync.Mutex    // held while changes are published
	generation atomic.Uint64 // published
	changes    map[uint64]*Change
}

// NewShared returns the Backend over log.
func NewShared(log Log) *Shared {
	return &Shared{log: log, volumes: map[VolumeID]*sharedVolume{}}
}

// get returns the volume with what the log has of it published.
func (s *Shared) get(id VolumeID) (*sharedVolume, error) {
	s.mu.Lock()
	v := s.volumes[id]
	if v == nil {
		v = &sharedVolume{Volume: NewVolume(nil), changes: map[uint64]*Change{}}
		s.volumes[id] = v
	}
	s.mu.Unlock()
	return v, s.follow(v, id)
}

// follow publishes the newest record of the log. What those in between told,
// which this node has not seen, is told as if all of it were one change.
func (s *Shared) follow(v *sharedVolume, id VolumeID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	generation, record := s.log.Table(id)
	last := v.generation.Load()
	if generation <= last {
		return nil
	}
	c, err := decodeRecord(record)
	if err != nil {
		return fmt.Errorf("reservations of volume %s, generation %d: %w; the volume is not served, since hosts may be fenced from it: "+
			"if a newer blockd on another node wrote them, update this one, else bring the catalog back from a backup", id, generation, err)
	}
	switch {
	case last == 0 && generation > 1:
		c.Events, c.Aborts = nil, nil // from before this node served anybody
	case generation > last+1:
		missed(v.State(), c)
	}
	v.changes[generation] = c
	maps.DeleteFunc(v.changes, func(g uint64, _ *Change) bool { return g+changesKept <= generation })
	v.Publish(c)
	v.generation.Store(generation)
	return nil
}

// missed makes c tell those who are registered in before, and not in c, that
// they were preempted, and abort their tasks.
func missed(before *State, c *Change) {
	for _, r := range before.Registrants {
		if c.State.Find(r.ID) >= 0 {
			continue
		}
		if !slices.ContainsFunc(c.Events, func(e Event) bool { return e.To == r.ID }) {
			c.Events = append(c.Events, Event{To: r.ID, Notice: RegistrationsPreempted})
		}
		if !slices.Contains(c.Aborts, r.ID) {
			c.Aborts = append(c.Aborts, r.ID)
		}
	}
}

// Follow publishes what the log has of a volume, if that is new. It is to be
// called whenever the log may have something new.
func (s *Shared) Follow(id VolumeID) error {
	_, err := s.get(id)
	return err
}

// Guard returns a function that tells which generation of a volume's table this
// node enforces, 0 while there is none. A command that was let pass before the
// call was let pass by that table or an older one. The function is cheap.
func (s *Shared) Guard(id VolumeID) func() uint64 {
	v, _ := s.get(id) // a table that can't be read is told by Volume
	return v.generation.Load
}

// Ended returns when this node enforces the generation, which the log here must have, and the tasks that it
// aborted here have ended; ErrUnfinished when ctx ends before they have.
func (s *Shared) Ended(ctx context.Context, id VolumeID, generation uint64) error {
	v, err := s.get(id)
	if err != nil {
		return err
	}
	v.mu.Lock()
	have := v.generation.Load()
	var c *Change
	for g := generation; g <= have && c == nil; g++ {
		c = v.changes[g] // the first that has it: see missed
	}
	v.mu.Unlock()
	if c == nil {
		return fmt.Errorf("reservations of volume %s: this node has generation %d and not yet %d", id, have, generation)
	}
	return c.Wait(ctx)
}

// Volume implements Backend.
func (s *Shared) Volume(id VolumeID) (*Volume, error) {
	v, err := s.get(id)
	if err != nil {
		return nil, err
	}
	return v.Volume, nil
}

// Apply implements Backend. With an error other than ErrUnfinished the change
// may have been made or not.
func (s *Shared) Apply(ctx context.Context, id VolumeID, c *Command) (Result, error) {
	for {
		if err := s.Follow(id); err != nil {
			return Result{}, err
		}
		generation, record := s.log.Table(id)
		before, err := decodeRecord(record)
		if err != nil {
			return Result{}, fmt.Errorf("reservations of volume %s: %w", id, err)
		}
		next, res := before.State.Apply(c)
		if next == before.State && len(res.Events) == 0 && len(res.Aborts) == 0 {
			err = s.log.Barrier(ctx) // a node that was cut off may have an old table
			if err == nil {
				if now, _ := s.log.Table(id); now != generation {
					continue
				}
			}
		} else {
			// A node that sees this change and the last one as one would not know whose tasks the last one
			// ended, if he is registered again by this one.
			if len(before.Aborts) > 0 {
				if err := s.spread(ctx, id, generation); err != nil {
					return Result{}, fmt.Errorf("reservations of volume %s: nothing has changed, since the last command is not done on all nodes: %v", id, err)
				}
			}
			record, err = encodeRecord(&Change{State: next, Events: res.Events, Aborts: res.Aborts})
			if err == nil {
				err = s.log.Replace(ctx, id, generation, record)
			}
			if errors.Is(err, ErrOutdated) {
				continue
			}
			generation++
		}
		// Also for a command that changes nothing: it may repeat one that failed because
		// not every node had its table yet.
		if err == nil && res.Status == StatusOK && generation > 0 {
			err = s.spread(ctx, id, generation)
		}
		if err != nil {
			return Result{}, fmt.Errorf("reservations of volume %s: %w", id, err)
		}
		return res, nil
	}
}

// spread returns when every node enforces the generation, which the log here must have.
func (s *Shared) spread(ctx context.Context, id VolumeID, generation uint64) error {
	if err := s.Ended(ctx, id, generation); err != nil {
		return err
	}
	return s.log.Spread(ctx, id, generation)
}

// Remove implements Backend: the record goes with the volume.
func (s *Shared) Remove(id VolumeID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, id)
	return nil
}

// recordVersion is the first byte of every record.
const recordVersion = 1

// encodeRecord is a table with what the change that made it tells to whom:
//
//	0      1 version (1)
//	1      4 length of the State, which follows (see State.AppendBinary)
//	       2 number of events: Notice (1), identity
//	       2 number of aborts: identity
func encodeRecord(c *Change) ([]byte, error) {
	table, err := c.State.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32([]byte{recordVersion}, uint32(len(table)))
	b = append(b, table...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Events)))
	for _, e := range c.Events {
		b = appendIdentity(append(b, byte(e.Notice)), e.To)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Aborts)))
	for _, a := range c.Aborts {
		b = appendIdentity(b, a)
	}
	return b, nil
}

// decodeRecord is the inverse of encodeRecord; nothing is an empty table.
func decodeRecord(b []byte) (*Change, error) {
	if len(b) == 0 {
		return &Change{State: empty}, nil
	}
	if len(b) < 5 || b[0] != recordVersion {
		return nil, fmt.Errorf("%w: a record of version %d with %d bytes", ErrDamaged, b[0], len(b))
	}
	n := binary.BigEndian.Uint32(b[1:])
	if b = b[5:]; uint64(n) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: the record ends within the table", ErrDamaged)
	}
	state, err := DecodeState(b[:n])
	if err != nil {
		return nil, err
	}
	c, b := &Change{State: state}, b[n:]
	count := func() int {
		if len(b) < 2 {
			return -1
		}
		n := int(binary.BigEndian.Uint16(b))
		b = b[2:]
		return n
	}
	identity := func() (id Identity, ok bool) {
		id, b, ok = cutIdentity(b)
		return id, ok && id.Valid()
	}
	events := count()
	for range events {
		if len(b) == 0 {
			return nil, fmt.Errorf("%w: the record ends within an event", ErrDamaged)
		}
		notice := Notice(b[0])
		b = b[1:]
		to, ok := identity()
		if !ok || notice < ReservationsPreempted || notice > RegistrationsPreempted {
			return nil, fmt.Errorf("%w: bad event", ErrDamaged)
		}
		c.Events = append(c.Events, Event{To: to, Notice: notice})
	}
	aborts := count()
	for range aborts {
		of, ok := identity()
		if !ok {
			return nil, fmt.Errorf("%w: bad abort", ErrDamaged)
		}
		c.Aborts = append(c.Aborts, of)
	}
	if events < 0 || aborts < 0 || len(b) > 0 {
		return nil, fmt.Errorf("%w: the record is too short, or too long", ErrDamaged)
	}
	return c, nil
}
