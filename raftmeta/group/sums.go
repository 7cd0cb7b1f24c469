package group

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// summed gives every entry a checksum where it is kept, and checks it when the entry is
// read. raft-wal 0.4 has its own, and looks at them only to find where the last write was
// torn: an entry with a wrong bit in it would be carried out as it is, by one member. The
// sum is in Log.Extensions, on the disk only. Entries of releases before have none.
type summed struct{ store }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf is over what an entry means.
func sumOf(l *raft.Log) []byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32(nil, sum)
}

// StoreLogs is raft.LogStore's. The library goes on using what it gave.
func (s *summed) StoreLogs(logs []*raft.Log) error {
	kept := make([]*raft.Log, len(logs))
	for i, l := range logs {
		with := *l
		with.Extensions = sumOf(l)
		kept[i] = &with
	}
	return s.store.StoreLogs(kept)
}

// StoreLog is StoreLogs of one.
func (s *summed) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// GetLog is raft.LogStore's.
func (s *summed) GetLog(index uint64, l *raft.Log) error {
	if err := s.store.GetLog(index, l); err != nil {
		return err
	}
	sum := l.Extensions
	l.Extensions = nil
	if len(sum) > 0 && string(sum) != string(sumOf(l)) || l.Index != index {
		return fmt.Errorf("entry %d of the log is damaged: its checksum is wrong", index)
	}
	return nil
}
