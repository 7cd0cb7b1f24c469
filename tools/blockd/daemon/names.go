package daemon

import (
	"fmt"

	"blockd.dev/raftmeta/catalog"
)

// volumeNamed is the name of the volume with an identifier, or that.
func (d *Daemon) volumeNamed(id catalog.ID) string {
	if v := d.catalog.State().VolumeByID(id); v != nil {
		return v.Name
	}
	return id.String()
}

// nodeNamed is the name of the node with an identifier, or that.
func (d *Daemon) nodeNamed(id string) string {
	if n := d.catalog.State().NodeByID(parseID(id)); n != nil {
		return n.Name
	}
	return id
}

// diskName is what lists call a disk: the disks of a node are counted in the order in which they
// came. In a cluster the node's name comes first.
func diskName(s *catalog.State, id catalog.ID) string {
	disk := s.DiskByID(id)
	if disk == nil {
		return "disk"
	}
	number := 0
	for i := range s.Disks {
		if s.Disks[i].ID == id {
			break
		}
		if s.Disks[i].Node == disk.Node {
			number++
		}
	}
	name := fmt.Sprintf("disk%d", number)
	if n := s.NodeByID(disk.Node); n != nil && len(s.Authority.SealedKey) > 0 {
		name = n.Name + "/" + name
	}
	return name
}
