package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HostName is the name of the place for initiators; it runs no blockd.
const HostName = "host"

const (
	switchName = "sw"
	stateFile  = "cluster.json"
	bundleFile = "admin.pem"
	hostNumber = 200 // of HostName; nodes count from 1
)

// state is what cluster.json holds. It is written before what it names is
// made, so that whatever there is can be found.
type state struct {
	Prefix     string
	MadeDir    bool // Dir was missing
	Config     Config
	Places     []*Place // the nodes in order, then host
	Carrier    Process  // sends late frames; zero until Delay
	Formed     bool     // the nodes were made one cluster
	CreatedUTC time.Time
}

// Place is a network namespace with an interface to the switch: a node, or
// where initiators are.
type Place struct {
	Name      string     `json:"name"`      // n1, n2, ..., host
	Number    int        `json:"number"`    // last byte of the MAC and IP addresses
	Namespace string     `json:"namespace"` // as `ip netns` shows it
	IPv4      netip.Addr `json:"ipv4"`
	IPv6      netip.Addr `json:"ipv6"`
	API       string     `json:"api,omitempty"`   // HOST:PORT of the control port
	ISCSI     []string   `json:"iscsi,omitempty"` // portals
	NVMe      []string   `json:"nvme,omitempty"`
	Discovery []string   `json:"discovery,omitempty"` // NVMe discovery controllers
	Dir       string     `json:"dir,omitempty"`       // DIR/n1
	Blockd    string     `json:"blockd,omitempty"`    // the program that it runs from its next start on
	Process   Process    `json:"process"`
}

// isNode tells a node from the initiators' place.
func (p *Place) isNode() bool { return p.Name != HostName }

// Data is the node's data directory.
func (p *Place) Data() string { return filepath.Join(p.fs(), "data") }

// Socket is the node's control socket.
func (p *Place) Socket() string { return filepath.Join(p.Data(), "control.sock") }

// Log is the file with what the node's blockd printed, over all restarts.
func (p *Place) Log() string { return filepath.Join(p.Dir, "log") }

func (p *Place) fs() string         { return filepath.Join(p.Dir, "fs") }
func (p *Place) diskFaults() string { return filepath.Join(p.Dir, "disk-faults") }

func (p *Place) disk(i int) string { return filepath.Join(p.fs(), fmt.Sprintf("disk%d", i)) }

// newState plans a cluster.
func newState(c Config, prefix string) *state {
	s := &state{Prefix: prefix, Config: c, CreatedUTC: time.Now().UTC()}
	for i := 1; i <= c.Nodes; i++ {
		p := s.place(fmt.Sprintf("n%d", i), i)
		p.Dir, p.Blockd = filepath.Join(c.Dir, p.Name), c.Blockd
		api := p.IPv4
		switch {
		case c.Standalone:
			api = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case c.IPv6:
			api = p.IPv6
		}
		p.API = netip.AddrPortFrom(api, 7480).String()
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			p.ISCSI = append(p.ISCSI, netip.AddrPortFrom(a, 3260).String())
			p.NVMe = append(p.NVMe, netip.AddrPortFrom(a, 4420).String())
			p.Discovery = append(p.Discovery, netip.AddrPortFrom(a, 8009).String())
		}
		s.Places = append(s.Places, p)
	}
	s.Places = append(s.Places, s.place(HostName, hostNumber))
	return s
}

func (s *state) place(name string, number int) *Place {
	return &Place{Name: name, Number: number, Namespace: s.namespace(name),
		IPv4: netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}),
		IPv6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(number)})}
}

func (s *state) namespace(name string) string { return s.Prefix + "-" + name }

func (s *state) nodes() []*Place { return s.Places[:len(s.Places)-1] }

// apis are the addresses of the nodes' control ports.
func (s *state) apis() (out []string) {
	for _, p := range s.nodes() {
		out = append(out, p.API)
	}
	return out
}

func (s *state) find(name string) (*Place, error) {
	var names []string
	for _, p := range s.Places {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return nil, fmt.Errorf("cluster: there is no %q; there are %s", name, strings.Join(names, ", "))
}

func (s *state) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.Config.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return os.Rename(path+".new", path)
}

// load reads the state of the cluster in dir. The error is fs.ErrNotExist when
// there is none.
func load(dir string) (*state, error) {
	path := filepath.Join(dir, stateFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster: there is none in %s: %w; bring one up, or say where it is with --dir", dir, err)
	}
	s := &state{}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %s: %w", path, err)
	}
	if s.Config.Dir != dir {
		return nil, fmt.Errorf("cluster: %s is of a cluster in %s; it can't be moved", path, s.Config.Dir)
	}
	return s, nil
}

// lock keeps other processes, and other Clusters in this one, from changing the
// cluster in dir until unlock.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: lock %s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}
