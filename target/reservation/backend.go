package reservation

import (
	"context"
	"fmt"
	"sync"
)

// VolumeID names a volume; it is the volume's identity on both protocols.
type VolumeID [16]byte

// String writes the ID as 32 hexadecimal digits.
func (v VolumeID) String() string { return fmt.Sprintf("%x", v[:]) }

// Backend keeps the reservation tables of all volumes and puts commands in
// order. Its methods are safe for concurrent use.
type Backend interface {
	// Volume returns the table of a volume, empty for one it has never heard of.
	// It is the same value at every call until Remove. An error means that the
	// table can't be read: such a volume must not be served, since hosts may be
	// fenced from it.
	Volume(id VolumeID) (*Volume, error)

	// Apply runs one command. When it returns without an error, the new state is
	// published, every watcher of this process has seen it and released its
	// holds, and, if the state says Persist, it survives a crash. It may wait for
	// storage, for other nodes, and for the watchers, as long as ctx allows:
	// ErrUnfinished says that these have not released. With another error, whether the command took
	// effect is unknown to the caller unless the error says so.
	Apply(ctx context.Context, id VolumeID, c *Command) (Result, error)

	// Remove forgets a volume that was deleted.
	Remove(id VolumeID) error
}

// Memory is a Backend that keeps nothing across restarts, for volumes whose
// data does not survive one either. The zero value is ready.
type Memory struct {
	mu      sync.Mutex
	volumes map[VolumeID]*memoryVolume
}

type memoryVolume struct {
	*Volume
	mu sync.Mutex // held over Apply
}

func (m *Memory) get(id VolumeID) *memoryVolume {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.volumes[id]
	if v == nil {
		if m.volumes == nil {
			m.volumes = make(map[VolumeID]*memoryVolume)
		}
		v = &memoryVolume{Volume: NewVolume(nil)}
		m.volumes[id] = v
	}
	return v
}

// Volume implements Backend.
func (m *Memory) Volume(id VolumeID) (*Volume, error) { return m.get(id).Volume, nil }

// Apply implements Backend.
func (m *Memory) Apply(ctx context.Context, id VolumeID, c *Command) (Result, error) {
	v := m.get(id)
	v.mu.Lock()
	s := v.State()
	next, res := s.Apply(c)
	change := publish(v.Volume, s, next, &res)
	v.mu.Unlock()
	return res, change.Wait(ctx)
}

// Remove implements Backend.
func (m *Memory) Remove(id VolumeID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, id)
	return nil
}

// publish tells the watchers of v if there is anything to tell. The caller
// waits for the returned change without its locks.
func publish(v *Volume, prev, next *State, res *Result) *Change {
	c := &Change{State: next, Events: res.Events, Aborts: res.Aborts}
	if next != prev || len(res.Events) > 0 || len(res.Aborts) > 0 {
		v.Publish(c)
	}
	return c
}
