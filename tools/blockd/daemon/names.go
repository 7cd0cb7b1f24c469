package daemon

import "blockd.dev/raftmeta/catalog"

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
