package multipath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"blockd.dev/tools/blockbench/iscsihost"
)

// ISCSI dials logical units over iSCSI. Within is as with NVMe.
func ISCSI(cfg iscsihost.Config, within func(func() error) error) func(context.Context) (Session, error) {
	return func(ctx context.Context) (Session, error) {
		return inside(within, func() (Session, error) { return login(ctx, cfg) })
	}
}

// unit is a logical unit with a session of its own.
type unit struct {
	*iscsihost.Session
	group     uint16 // target port group of the path
	optimized atomic.Bool
	ended     sync.WaitGroup
}

const (
	opInquiry       = 0x12
	opMaintenanceIn = 0xa3
	reportGroups    = 0x0a // service action of opMaintenanceIn
	vpdIdentity     = 0x83
	designatorGroup = 0x5
	aluaOptimized   = 0x0
	replyMax        = 1024
)

func login(ctx context.Context, cfg iscsihost.Config) (Session, error) {
	changed := make(chan struct{}, 1)
	cfg.Attention = func(s iscsihost.Sense) {
		if !s.IsAccessChange() {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	s, err := iscsihost.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	u := &unit{Session: s}
	if err = u.readGroup(); err == nil {
		err = u.readState()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	u.ended.Go(func() { u.follow(changed) })
	return u, nil
}

// follow keeps the access state up to date until the session ends.
func (u *unit) follow(changed <-chan struct{}) {
	for {
		select {
		case <-changed:
			if u.readState() != nil {
				u.Drop() // so that the path is dialled again, with all that is known of it
				return
			}
		case <-u.Gone():
			return
		}
	}
}

// ask sends a CDB that reads, past unit attentions.
func (u *unit) ask(cdb []byte) ([]byte, error) {
	b := make([]byte, replyMax)
	for range unitAttentionsMax {
		r, err := u.Command(cdb, b, false)
		switch {
		case err != nil:
			return nil, err
		case r.Sense.Key == keyUnitAttention:
			continue
		case r.Err() != nil:
			return nil, r.Err()
		}
		return b[:r.N], nil
	}
	return nil, errors.New("multipath: too many unit attentions")
}

const (
	unitAttentionsMax = 16
	keyUnitAttention  = 0x6
)

// readGroup finds the path's target port group in the Device Identification page (SPC-5
// "Target port group designator").
func (u *unit) readGroup() error {
	page, err := u.ask([]byte{opInquiry, 1, vpdIdentity, replyMax >> 8, replyMax & 0xff, 0})
	if err != nil {
		return err
	}
	for at := 4; at+4 <= len(page); at += 4 + int(page[at+3]) {
		if page[at+1]&0xf == designatorGroup && page[at+3] == 4 && at+8 <= len(page) {
			u.group = binary.BigEndian.Uint16(page[at+6:])
			return nil
		}
	}
	return errors.New("multipath: the logical unit does not say to which target port group the path belongs")
}

// readState reads the access state of the group (SPC-5 "REPORT TARGET PORT GROUPS").
func (u *unit) readState() error {
	groups, err := u.ask([]byte{opMaintenanceIn, reportGroups, 0, 0, 0, 0, 0, 0, replyMax >> 8, replyMax & 0xff, 0, 0})
	if err != nil {
		return err
	}
	for at := 4; at+8 <= len(groups); at += 8 + 4*int(groups[at+7]) {
		if binary.BigEndian.Uint16(groups[at+2:]) == u.group {
			u.optimized.Store(groups[at]&0xf == aluaOptimized)
			return nil
		}
	}
	return fmt.Errorf("multipath: target port group %d is not reported", u.group)
}

// Optimized reports whether the target prefers this path.
func (u *unit) Optimized() bool { return u.optimized.Load() }

// Close ends the session.
func (u *unit) Close() error {
	err := u.Session.Close()
	u.ended.Wait()
	return err
}
