package group

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
)

// A log whose last segment is full, and was not rotated when the process ended,
// is opened, has all its entries, and takes more.
func TestFullSegmentIsRotatedAtOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := &Config{Dir: dir, segmentBytes: 4 << 10}
	s, err := openStorage(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("x"), 5<<10) // one entry fills a segment
	for index := uint64(1); index <= 3; index++ {
		if err := s.store.StoreLog(&raft.Log{Index: index, Term: 1, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store.DeleteRange(4, 9); err != nil { // nothing, once the rotation is done
		t.Fatal(err)
	}
	s.close()

	// As it was before the rotation: no segment after the third entry's, and that not sealed.
	db := &metadb.BoltMetaDB{}
	state, err := db.Load(filepath.Join(dir, dirWAL))
	if err != nil {
		t.Fatal(err)
	}
	state.Segments = slices.DeleteFunc(state.Segments, func(i types.SegmentInfo) bool { return i.BaseIndex > 3 })
	full := &state.Segments[len(state.Segments)-1]
	if full.MaxIndex != 3 || full.SealTime.IsZero() {
		t.Fatalf("the third segment is %+v", full)
	}
	full.SealTime, full.MaxIndex, full.IndexStart = time.Time{}, 0, 0
	if err := errors.Join(db.CommitState(state), db.Close()); err != nil {
		t.Fatal(err)
	}

	if s, err = openStorage(cfg, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.store.StoreLog(&raft.Log{Index: 4, Term: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	for index := uint64(1); index <= 4; index++ {
		var got raft.Log
		if err := s.store.GetLog(index, &got); err != nil || got.Index != index {
			t.Errorf("entry %d: index %d, %v", index, got.Index, err)
		}
	}
}

// The log is appended to by one goroutine and compacted by another, over many
// segments; whatever was appended and not compacted away is found.
func TestLogIsCompactedWhileItGrows(t *testing.T) {
	t.Parallel()
	s, err := openStorage(&Config{Dir: t.TempDir(), segmentBytes: 8 << 10}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var last atomic.Uint64
	done := make(chan struct{})
	var compacting sync.WaitGroup
	compacting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			first, err := s.store.FirstIndex()
			if high := last.Load(); err == nil && first > 0 && high > first+8 {
				err = s.store.DeleteRange(first, high-4)
			}
			if err != nil {
				t.Error("compact:", err)
				return
			}
		}
	})
	check := func(index uint64) error {
		var got raft.Log
		if err := s.store.GetLog(index, &got); err != nil || got.Index != index {
			return fmt.Errorf("entry %d: index %d, %v", index, got.Index, err)
		}
		return nil
	}
	data := bytes.Repeat([]byte("x"), 500)
	for index := uint64(1); index <= 3000; index++ {
		if err := s.store.StoreLog(&raft.Log{Index: index, Term: 1, Data: data}); err != nil {
			t.Errorf("append %d: %v", index, err)
			break
		}
		// Before the compaction hears of it, nothing may take it away.
		if err := check(index); err != nil {
			t.Error(err)
			break
		}
		last.Store(index)
	}
	close(done)
	compacting.Wait()
}
