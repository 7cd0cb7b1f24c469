package arena

// Stats is a snapshot of an arena. The counts are taken shard by shard, so
// they may be off by what happened meanwhile.
type Stats struct {
	SizeBytes  int64 // of the mapping
	InUseBytes int64 // lent out, counted by class size
	PeakBytes  int64 // most ever lent out; the sum over shards, so an upper bound
	// ReservedBytes is in Regions, which InUseBytes and PeakBytes leave out.
	ReservedBytes int64
	// HugePages is "hugetlb" (reserved 2 MiB pages), "thp" (transparent ones,
	// as the kernel finds them) or "none".
	HugePages string
	// Reason says why HugePages is not "hugetlb", and how to change that.
	// Empty when it is.
	Reason   string
	Failures int64 // requests refused because nothing was free
	Classes  [numClasses]ClassStats
}

// ClassStats is a snapshot of one size class.
type ClassStats struct {
	SizeBytes int   // of one buffer
	InUse     int64 // buffers lent out
	Slabs     int64 // 2 MiB slabs cut for this class at present
	Failures  int64 // requests refused
}

// Stats counts what is in use.
func (a *Arena) Stats() Stats {
	st := Stats{
		SizeBytes: int64(len(a.slabs)) * slabBytes,
		HugePages: a.mem.kind,
		Reason:    a.mem.reason,
	}
	a.empty.Lock()
	st.ReservedBytes = int64(a.empty.reserved) * slabBytes
	a.empty.Unlock()
	for i := range a.classes {
		c := &a.classes[i]
		cs := ClassStats{SizeBytes: c.sizeBytes, Failures: c.failures.Load()}
		for j := range c.shards {
			s := &c.shards[j]
			s.Lock()
			cs.InUse += s.used
			cs.Slabs += s.slabs
			st.PeakBytes += s.peak * int64(c.sizeBytes)
			s.Unlock()
		}
		st.InUseBytes += cs.InUse * int64(c.sizeBytes)
		st.Failures += cs.Failures
		st.Classes[i] = cs
	}
	return st
}

// Leak is a buffer that is out, and who took it.
type Leak struct {
	SizeBytes int    // of its class
	Stack     string // where it was taken, one frame per line
}
