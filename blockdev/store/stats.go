package store

import (
	"sync/atomic"

	"blockd.dev/blockdev/disk"
)

// counters are read by Stats and written from everywhere.
type counters struct {
	readBytes, writeBytes                     atomic.Int64
	dataBytes, logBytes, homeBytes, metaBytes atomic.Int64
	batches, syncs, checkpoints, metaReads    atomic.Int64
	badBlocks, scrubbedBytes, replayedBatches atomic.Int64
}

// Stats is a snapshot of an open store.
type Stats struct {
	UUID      [16]byte
	State     State
	Failure   string // why State is not online
	Disk      disk.Info
	DiskBytes int64

	CapacityBytes   int64 // what volumes can hold
	UsedBytes       int64 // owned by volumes, in whole chunks
	AvailableBytes  int64 // free and not promised
	QuarantineBytes int64 // chunks that refused a write since Open
	Volumes         int   // that have data or notes
	Replicas        int   // of these, that have notes
	TailEntries     int   // of all replicas: writes above the watermark
	Unproven        int   // of these: see ReplicaState
	Extents         int
	ExtentsMax      int
	MetaPages       int // in use on disk
	MetaPagesMax    int
	PagesCached     int

	LogBytes     int64
	LogUsedBytes int64
	DirtyBytes   int64 // acknowledged and not home yet
	DirtyMax     int64

	// What hosts read and wrote, and what went to the disk for it: whole regions,
	// the log, home writes, metadata. Write amplification is the sum of the four
	// over HostWriteBytes.
	HostReadBytes, HostWriteBytes                  int64
	DataBytes, LogWriteBytes, HomeBytes, MetaBytes int64

	Batches, Syncs, Checkpoints, MetaReads int64
	ReplayedBatches                        int64 // by the last Open
	BadBlocks                              int64 // reads that found an error or a wrong checksum
	ScrubbedBytes                          int64
}

// WriteAmplification is bytes written to the disk per byte that hosts wrote; 0
// before the first write.
func (st Stats) WriteAmplification() float64 {
	if st.HostWriteBytes == 0 {
		return 0
	}
	return float64(st.DataBytes+st.LogWriteBytes+st.HomeBytes+st.MetaBytes) / float64(st.HostWriteBytes)
}

// Stats returns the counters. It is cheap.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		UUID: s.sb.uuid, State: s.mu.state, Disk: s.d.Info(), DiskBytes: s.sb.diskBytes,
		CapacityBytes:   int64(s.sb.chunks) * ChunkBytes,
		AvailableBytes:  int64(s.mu.alloc.available()) * ChunkBytes,
		QuarantineBytes: int64(len(s.mu.bad)) * ChunkBytes,
		ExtentsMax:      int(s.sb.maxExtents), Extents: int(s.sb.maxExtents) - len(s.mu.extFree),
		MetaPages: int(s.sb.pageSlots - s.mu.slots), MetaPagesMax: int(s.sb.pageSlots), PagesCached: s.mu.pages.count,
		LogBytes: s.mu.lg.size, LogUsedBytes: s.mu.lg.used(),
		DirtyBytes: int64(s.mu.bufs.used()) * BlockBytes, DirtyMax: int64(s.mu.bufs.total) * BlockBytes,
		HostReadBytes: s.stats.readBytes.Load(), HostWriteBytes: s.stats.writeBytes.Load(),
		DataBytes: s.stats.dataBytes.Load(), LogWriteBytes: s.stats.logBytes.Load(),
		HomeBytes: s.stats.homeBytes.Load(), MetaBytes: s.stats.metaBytes.Load(),
		Batches: s.stats.batches.Load(), Syncs: s.stats.syncs.Load(), Checkpoints: s.stats.checkpoints.Load(),
		MetaReads: s.stats.metaReads.Load(), ReplayedBatches: s.stats.replayedBatches.Load(),
		BadBlocks: s.stats.badBlocks.Load(), ScrubbedBytes: s.stats.scrubbedBytes.Load(),
	}
	if s.mu.failure != nil {
		st.Failure = s.mu.failure.Error()
	}
	for _, v := range s.mu.vols {
		if len(v.exts) > 0 || v.notes != nil {
			st.Volumes++
			st.UsedBytes += v.chunks * ChunkBytes
		}
		if n := v.notes; n != nil {
			st.Replicas++
			st.TailEntries += n.above(n.stable)
			if n.unproven {
				st.Unproven++
			}
		}
	}
	return st
}

// Info says which store this is and how its disk is driven.
type Info struct {
	UUID          [16]byte
	FormatVersion int
	CapacityBytes int64
	Disk          disk.Info
}

// Info returns what does not change while the store is open.
func (s *Store) Info() Info {
	return Info{UUID: s.sb.uuid, FormatVersion: formatVersion, CapacityBytes: int64(s.sb.chunks) * ChunkBytes, Disk: s.d.Info()}
}

// Usage returns the bytes that v owns and the bytes that are left to all
// volumes of the store, both in whole chunks.
func (s *Store) Usage(v *Vol) (usedBytes, availableBytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.chunks * ChunkBytes, int64(s.mu.alloc.available()) * ChunkBytes
}

// State returns the store's health and, when it is not online, why.
func (s *Store) State() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.state, s.mu.failure
}
