package daemon

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// level says how much an event matters.
type level string

const (
	levelInfo    level = "info"
	levelWarning level = "warning"
	levelError   level = "error"
)

// event is something that happened while the node ran.
type event struct {
	seq     uint64
	time    time.Time
	level   level
	kind    string // for example session.login
	subject string
	message string
}

// eventsMax is how many events are kept in memory.
const eventsMax = 1024

// eventLog keeps the last events, writes each to the log, counts them by level,
// and wakes watchers. add never blocks on a watcher.
type eventLog struct {
	log *zap.Logger

	mu      sync.Mutex
	ring    []event
	seq     uint64
	counts  map[level]uint64
	changed chan struct{} // closed and replaced by add
}

func newEventLog(log *zap.Logger) *eventLog {
	return &eventLog{log: log, counts: map[level]uint64{}, changed: make(chan struct{})}
}

// add notes an event.
func (l *eventLog) add(lv level, kind, subject, message string) {
	zl := zapcore.InfoLevel
	switch lv {
	case levelWarning:
		zl = zapcore.WarnLevel
	case levelError:
		zl = zapcore.ErrorLevel
	}
	l.log.Log(zl, message, zap.String("event", kind), zap.String("subject", subject))

	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	l.counts[lv]++
	if len(l.ring) == eventsMax {
		copy(l.ring, l.ring[1:])
		l.ring = l.ring[:eventsMax-1]
	}
	l.ring = append(l.ring, event{l.seq, time.Now().UTC(), lv, kind, subject, message})
	close(l.changed)
	l.changed = make(chan struct{})
}

// after returns the events that are kept with a sequence above seq, and a
// channel that is closed when there are more.
func (l *eventLog) after(seq uint64) ([]event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []event
	for _, e := range l.ring {
		if e.seq > seq {
			out = append(out, e)
		}
	}
	return out, l.changed
}

// follow calls send for every event that is kept and, if more is set, for those
// to come until ctx ends or send fails.
func (l *eventLog) follow(ctx context.Context, more bool, send func(event) error) error {
	var seq uint64
	for {
		list, changed := l.after(seq)
		for _, e := range list {
			if err := send(e); err != nil {
				return err
			}
			seq = e.seq
		}
		if !more {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// count returns how many events there were of a level.
func (l *eventLog) count(lv level) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[lv]
}
