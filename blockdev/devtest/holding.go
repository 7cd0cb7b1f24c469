package devtest

import (
	"slices"
	"sync"

	"blockd.dev/blockdev"
)

// Holding is a Device that holds requests back until Release, as limits of a volume do.
type Holding struct {
	blockdev.Device

	mu   sync.Mutex
	held []*blockdev.Request
}

// Submit implements blockdev.Device.
func (h *Holding) Submit(batch []*blockdev.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = append(h.held, batch...)
}

// Withdraw implements blockdev.Withdrawer.
func (h *Holding) Withdraw(r *blockdev.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.held, r)
	if i >= 0 {
		h.held = slices.Delete(h.held, i, i+1)
	}
	return i >= 0
}

// Release lets what is held go on.
func (h *Holding) Release() {
	h.mu.Lock()
	held := h.held
	h.held = nil
	h.mu.Unlock()
	h.Device.Submit(held)
}

// Held is how many are held.
func (h *Holding) Held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}
