package serve

import (
	"errors"
	"sync"

	"blockd.dev/replication/wire"
)

// backlog has the calls for which a peer's send queue had no room.
type backlog struct {
	calls   []*call
	sending bool // somebody is in send
	again   bool // and has to look again before it leaves
}

// send tries one call after the other until there is no room. The caller holds
// mu, which guards b; it is not held during an attempt. The peer says only once
// that there is room, perhaps while an attempt that found none is on its way back:
// so who comes second has the first one look again.
func (b *backlog) send(mu *sync.Mutex, try func(*call) error) {
	b.again = true
	if b.sending {
		return
	}
	b.sending = true
	for len(b.calls) > 0 && b.again {
		c := b.calls[0]
		b.again = false
		mu.Unlock()
		err := try(c)
		full := errors.Is(err, wire.ErrQueueFull)
		if err != nil && !full {
			c.Err = errors.Join(err, wire.ErrNotSent)
			c.done()
		}
		mu.Lock()
		if !full {
			b.calls[0] = nil
			b.calls, b.again = b.calls[1:], true
		}
	}
	b.sending = false
}
