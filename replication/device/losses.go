package device

import (
	"maps"
	"sync"

	"blockd.dev/replication/volume"
)

// Losses say, by disks' numbers, what these had lost of what they had said to be durable.
type Losses map[uint16]Lost

// Lost is what one disk had lost, see volume.MemberStatus.
type Lost struct {
	Regions int64
	Writes  uint64
}

// count adds what an owner has found.
func (l Losses) count(s standing) {
	for i, m := range s.Members[:min(len(s.Members), len(s.disks))] {
		if m.LostRegions > 0 || m.LostWrites > 0 {
			n := l[s.disks[i]]
			l[s.disks[i]] = Lost{n.Regions + m.LostRegions, n.Writes + m.LostWrites}
		}
	}
}

// Since returns what owners have found since l was before. While one owner hands over to the next, what it has
// found is not counted for a moment; so l gets what it is to be compared with the next time.
func (l Losses) Since(before Losses) (more Losses) {
	more = Losses{}
	for disk, was := range before {
		now := l[disk]
		l[disk] = Lost{max(now.Regions, was.Regions), max(now.Writes, was.Writes)}
	}
	for disk, now := range l {
		was := before[disk]
		if n := (Lost{now.Regions - was.Regions, now.Writes - was.Writes}); n != (Lost{}) {
			more[disk] = n
		}
	}
	return more
}

// standing is how an owner stands, with the numbers of its members' disks.
type standing struct {
	volume.Status
	disks []uint16
}

// losses are those that owners have found whose time is over.
type losses struct {
	sync.Mutex
	past Losses
}

func (l *losses) add(s standing) {
	l.Lock()
	defer l.Unlock()
	if l.past == nil {
		l.past = Losses{}
	}
	l.past.count(s)
}

// with are all, with those that the owner of today has found.
func (l *losses) with(s standing) Losses {
	l.Lock()
	all := maps.Clone(l.past)
	l.Unlock()
	if all == nil {
		all = Losses{}
	}
	all.count(s)
	return all
}
