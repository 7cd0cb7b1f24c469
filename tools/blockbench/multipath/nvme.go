package multipath

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"blockd.dev/target/nvmetcp/nvmehost"
)

// NVMe dials namespaces over NVMe/TCP. Within is what the sockets are made in,
// for instance a network namespace; nil means as always.
func NVMe(cfg nvmehost.Config, nsid uint32, within func(func() error) error) func(context.Context) (Session, error) {
	return func(ctx context.Context) (s Session, err error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return inside(within, func() (Session, error) { return dial(cfg, nsid) })
	}
}

// inside calls f within, if there is something to be within.
func inside(within func(func() error) error, f func() (Session, error)) (s Session, err error) {
	if within == nil {
		return f()
	}
	err = within(func() (err error) {
		s, err = f()
		return err
	})
	return s, err
}

// session is a namespace with an association of its own.
type session struct {
	*nvmehost.Namespace
	host      *nvmehost.Host
	nsid      uint32
	optimized atomic.Bool
	gone      chan struct{}
	ended     sync.WaitGroup
}

const (
	logANA                = 0x0c
	anaOptimized          = 0x01
	featureAsyncEvents    = 0x0b
	noticeANA             = 1 << 11 // of featureAsyncEvents
	noticeNamespaceChange = 1 << 8
	opSetFeatures         = 0x09
)

func dial(cfg nvmehost.Config, nsid uint32) (Session, error) {
	s := &session{nsid: nsid, gone: make(chan struct{})}
	changed := make(chan struct{}, 1)
	cfg.Event = func(nvmehost.AsyncEvent) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	h, err := nvmehost.Dial(cfg)
	if err != nil {
		return nil, err
	}
	s.host = h
	if s.Namespace, err = h.Namespace(nsid); err == nil {
		err = s.readANA()
	}
	if err == nil {
		c := &nvmehost.Call{}
		c.SQE[0] = opSetFeatures
		c.SQE[40] = featureAsyncEvents
		binary.LittleEndian.PutUint32(c.SQE[44:], noticeANA|noticeNamespaceChange)
		err = h.Admin(c)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	h.WatchEvents()
	s.ended.Go(func() { s.follow(changed) })
	return s, nil
}

// follow keeps the access state up to date until the association ends.
func (s *session) follow(changed <-chan struct{}) {
	defer close(s.gone)
	for {
		select {
		case <-changed:
			if s.readANA() != nil {
				s.host.Close() // so that the path is dialled again, with all that is known of it
				return
			}
		case <-s.host.Gone():
			return
		}
	}
}

// readANA finds the namespace in the ANA log page (NVMe Base 2.0 §5.16.1.13).
func (s *session) readANA() error {
	page, err := s.host.LogPage(logANA, 0, 4096)
	if err != nil {
		return err
	}
	groups := int(binary.LittleEndian.Uint16(page[8:]))
	for at := 16; groups > 0 && at+32 <= len(page); groups-- {
		n := int(binary.LittleEndian.Uint32(page[at+4:]))
		state := page[at+16] & 0xf
		at += 32
		for ; n > 0 && at+4 <= len(page); n-- {
			if binary.LittleEndian.Uint32(page[at:]) == s.nsid {
				s.optimized.Store(state == anaOptimized)
				return nil
			}
			at += 4
		}
	}
	return fmt.Errorf("multipath: namespace %d is in no ANA group", s.nsid)
}

// Optimized reports whether the target prefers this path.
func (s *session) Optimized() bool { return s.optimized.Load() }

// Gone is closed when the association has ended.
func (s *session) Gone() <-chan struct{} { return s.gone }

// Close ends the association.
func (s *session) Close() error {
	s.host.Close()
	s.ended.Wait()
	return nil
}
