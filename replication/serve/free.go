package serve

import (
	"errors"
	"fmt"

	"blockd.dev/replication/message"
)

// ErrNotYet says that extents can't be freed now, and may be later.
var ErrNotYet = errors.New("an owner may still use them")

// Freeing names extents of a replica that other disks keep now.
type Freeing struct {
	Extents []uint32
	// After is the last epoch whose owner may have written them here.
	After uint64
	// Until is the epoch of which the caller knows where the extents are: no owner up
	// to it writes them here, and later ones may.
	Until uint64
}

// Free has a replica forget extents that are not on its disk any more. It does so only while
// it is fenced by an owner after f.After, so that nothing of earlier ones comes late, and not
// beyond f.Until: owners after that have their requests wait, and find the extents empty. Otherwise
// the error is ErrNotYet. It waits for the store.
func (s *Service) Free(t message.Target, f Freeing) error {
	h, err := s.replica(t)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	h.inbox.Post(event{free: &freeing{Freeing: f, done: done}})
	if err := <-done; err != nil {
		return fmt.Errorf("free %d extents of volume %x on disk %d: %w", len(f.Extents), t.Volume, t.Disk, err)
	}
	return nil
}

// freeing is a wish to free, and later its end.
type freeing struct {
	Freeing
	over bool
	err  error
	done chan<- error
}

// release begins or ends to free extents. Meanwhile requests of owners that may use them wait in
// h.held, and the replica does not close.
func (h *hosted) release(f *freeing) {
	if f.over {
		h.running--
		h.freeing = nil
		f.done <- f.err
		held := h.held
		h.held = nil
		for _, a := range held {
			h.handle(a)
		}
		return
	}
	if h.closing != nil || h.freeing != nil {
		f.done <- ErrNotYet
		return
	}
	st, err := h.store.ReplicaState(h.vol)
	if err == nil && (st.Fenced <= f.After || max(st.Fenced, h.newest) > f.Until) {
		err = ErrNotYet
	}
	if err != nil {
		f.done <- err
		return
	}
	h.running++
	h.freeing = f
	go h.freeExtents(f)
}

// freeExtents is the part that waits.
func (h *hosted) freeExtents(f *freeing) {
	f.err = h.store.FreeExtents(h.vol, f.Extents)
	f.over = true
	h.inbox.Post(event{free: f})
}

// waits reports whether a request has to wait for extents that are being freed.
func (h *hosted) waits(a *asked) bool { return h.freeing != nil && a.q.Epoch > h.freeing.Until }
