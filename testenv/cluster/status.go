package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Status is how a cluster is.
type Status struct {
	Dir       string       `json:"dir"`
	Prefix    string       `json:"prefix"`
	BinDir    string       `json:"bin"`
	Formed    bool         `json:"formed"`           // the nodes are one cluster
	Bundle    string       `json:"bundle,omitempty"` // file with the administrator's certificate, key and authority
	Nodes     []NodeStatus `json:"nodes"`
	Host      Place        `json:"host"`
	Wires     []Wire       `json:"wires"`
	CarrierUp bool         `json:"carrier_up"` // the process that sends late frames runs
	Bandwidth int64        `json:"bandwidth"`  // limit of what each place gets, bits a second; 0: none
}

// NodeStatus is how a node is.
type NodeStatus struct {
	Place
	State      string   `json:"state"` // running, paused or gone
	DataDir    string   `json:"data"`
	SocketPath string   `json:"socket"`
	LogPath    string   `json:"log"`
	DiskFaults []string `json:"disk_faults,omitempty"`
	DiskFull   bool     `json:"disk_full"`
}

// Status tells how the cluster is.
func (c *Cluster) Status() (st Status, err error) {
	err = c.update(func(s *state) (err error) {
		st = Status{Dir: c.dir, Prefix: s.Prefix, BinDir: s.Config.BinDir, Formed: s.Formed, Host: *s.Places[len(s.Places)-1]}
		if s.Formed {
			st.Bundle = filepath.Join(c.dir, bundleFile)
		}
		carrier, err := s.Carrier.State()
		if err != nil {
			return err
		}
		st.CarrierUp = carrier != "gone"
		for _, p := range s.nodes() {
			n, err := p.status()
			if err != nil {
				return err
			}
			st.Nodes = append(st.Nodes, n)
		}
		if st.Wires, err = s.wires(); err != nil {
			return err
		}
		st.Bandwidth, err = s.bandwidth()
		return err
	})
	return st, err
}

func (p *Place) status() (n NodeStatus, err error) {
	n = NodeStatus{Place: *p, DataDir: p.Data(), SocketPath: p.Socket(), LogPath: p.Log()}
	if n.State, err = p.Process.State(); err != nil {
		return n, err
	}
	files, err := filepath.Glob(p.diskFaults() + "*") // the node's, and those of single disks
	if err != nil {
		return n, err
	}
	for _, file := range files {
		rules, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
		disk := strings.TrimPrefix(strings.TrimPrefix(file, p.diskFaults()), ".")
		for line := range strings.Lines(string(rules)) {
			n.DiskFaults = append(n.DiskFaults, strings.TrimSpace(disk+" "+strings.TrimSpace(line)))
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.fs(), &st); err != nil {
		return n, err
	}
	n.DiskFull = st.Bfree == 0
	return n, nil
}
