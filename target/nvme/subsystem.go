package nvme

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// Subsystem is an NVM subsystem and the discovery subsystem that tells of it.
// All methods may be called from any goroutine.
type Subsystem struct {
	deps Deps
	conf atomic.Pointer[snapshot]

	configure sync.Mutex // one Configure at a time
	leaving   atomic.Bool

	failed            [statusCodes]atomic.Uint64 // commands by Status.Code, but success
	told              [eventKinds]atomic.Uint64  // asynchronous events
	keepAliveTimeouts atomic.Uint64
	spare             atomic.Pointer[spare]
	ending            ending

	mu struct {
		sync.Mutex
		namespaces  map[VolumeID]*namespace
		controllers map[uint16]*Controller
		nextID      uint16
		closed      bool
		past        counters // of controllers that are gone
	}
}

// snapshot is an immutable configuration.
type snapshot struct {
	Config
	anaGroups  []uint32 // ids in use, sorted
	hosts      map[string]bool
	generation uint64 // of the discovery log page (GENCTR)
	anaChanges uint64 // Change Count of the ANA log page
}

// cntlidLast is the largest controller id there is.
const cntlidLast = 0xffef

// NewSubsystem makes a Subsystem. It fails when cfg does not pass Validate or
// the reservations of a volume can't be loaded.
func NewSubsystem(cfg Config, deps Deps) (*Subsystem, error) {
	if deps.Arena == nil {
		return nil, errors.New("nvme: NewSubsystem needs an arena")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Reservations == nil {
		deps.Reservations = &reservation.Memory{}
	}
	s := &Subsystem{deps: deps}
	s.spare.Store(&spare{percent: 100})
	s.mu.namespaces = make(map[VolumeID]*namespace)
	s.mu.controllers = make(map[uint16]*Controller)
	if err := s.Configure(cfg); err != nil {
		return nil, err
	}
	// A host that reconnects after a restart of this node still knows the ids from
	// before for those of its paths that are not back yet, and refuses a new path
	// with one of them. So each start begins somewhere else.
	conf := s.conf.Load()
	s.mu.nextID = conf.ControllerIDMin + uint16(rand.IntN(int(conf.ControllerIDMax-conf.ControllerIDMin)+1))
	return s, nil
}

func newSnapshot(cfg Config, old *snapshot) *snapshot {
	s := &snapshot{Config: cfg}
	s.Model = cmp.Or(cfg.Model, "blockd")
	s.Firmware = cmp.Or(cfg.Firmware, "1")
	s.MaxIOQueues = cmp.Or(cfg.MaxIOQueues, 128)
	s.MaxQueueEntries = cmp.Or(cfg.MaxQueueEntries, 1024)
	s.MaxControllers = cmp.Or(cfg.MaxControllers, 1024)
	s.ControllerIDMin = cmp.Or(cfg.ControllerIDMin, 1)
	s.ControllerIDMax = cmp.Or(cfg.ControllerIDMax, cntlidLast)
	s.Namespaces = slices.Clone(cfg.Namespaces)
	s.AnyView = maps.Clone(cfg.AnyView)
	s.Views = make(map[string]View, len(cfg.Views))
	for who, v := range cfg.Views {
		s.Views[who] = maps.Clone(v)
	}
	s.ANAGroups = slices.Clone(cfg.ANAGroups)
	for i := range s.ANAGroups {
		s.ANAGroups[i].Ports = maps.Clone(s.ANAGroups[i].Ports)
		s.anaGroups = append(s.anaGroups, s.ANAGroups[i].ID)
	}
	for state := access.Optimized; state.Valid(); state++ {
		id := groupOfAccess(state)
		if !slices.ContainsFunc(s.ANAGroups, func(g ANAGroup) bool { return g.ID == id }) {
			s.ANAGroups = append(s.ANAGroups, ANAGroup{ID: id, State: anaOfAccess(state)})
			s.anaGroups = append(s.anaGroups, id)
		}
	}
	for i := range s.Namespaces {
		n := &s.Namespaces[i]
		n.ANAGroup = cmp.Or(n.ANAGroup, groupOfAccess(n.Access))
		s.anaGroups = append(s.anaGroups, n.ANAGroup)
	}
	slices.Sort(s.anaGroups)
	s.anaGroups = slices.Compact(s.anaGroups)
	s.Ports = slices.Clone(cfg.Ports)
	s.DiscoveryPorts = slices.Clone(cfg.DiscoveryPorts)
	s.Referrals = slices.Clone(cfg.Referrals)
	s.hosts = make(map[string]bool, len(cfg.Hosts))
	for _, h := range cfg.Hosts {
		s.hosts[h] = true
	}
	s.generation, s.anaChanges = 1, 1
	if old != nil {
		s.generation, s.anaChanges = old.generation, old.anaChanges
	}
	return s
}

// allowed reports whether the host may connect to the NVM subsystem.
func (s *snapshot) allowed(hostNQN string) bool {
	return len(s.AnyView) > 0 || len(s.Views[hostNQN]) > 0 || s.hosts[hostNQN]
}

// groupOfAccess is the ANA group of an access state.
func groupOfAccess(s access.State) uint32 { return uint32(s) + 1 }

func anaOfAccess(s access.State) ANAState {
	switch s {
	case access.NonOptimized:
		return ANANonOptimized
	case access.Inaccessible:
		return ANAInaccessible
	case access.Transition:
		return ANAChange
	default:
		return ANAOptimized
	}
}

// anaState is the state of a group through a port.
func (s *snapshot) anaState(group uint32, port uint16) ANAState {
	for i := range s.ANAGroups {
		if g := &s.ANAGroups[i]; g.ID == group {
			if st, ok := g.Ports[port]; ok && st != 0 {
				return st
			}
			return cmp.Or(g.State, ANAOptimized)
		}
	}
	return ANAOptimized
}

// errHostRemoved ends the connections of hosts that may not connect any more.
var errHostRemoved = errors.New("nvme: the host is not allowed any more")

// Configure replaces the configuration and tells hosts of the differences by
// asynchronous events. Controllers of hosts that see nothing any more, and are
// not in Hosts, end. On error the old configuration stays.
func (s *Subsystem) Configure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	s.configure.Lock()
	defer s.configure.Unlock()
	return s.configureLocked(cfg)
}

// configureLocked is Configure. Called with configure.
func (s *Subsystem) configureLocked(cfg Config) error {
	old := s.conf.Load()
	if old != nil && old.NQN != cfg.NQN {
		return fmt.Errorf("nvme: the NQN of a subsystem cannot change, from %s to %s", old.NQN, cfg.NQN)
	}
	next := newSnapshot(cfg, old)
	if s.leaving.Load() {
		next.leave()
	}

	s.mu.Lock()
	before := s.mu.namespaces
	s.mu.Unlock()
	after := make(map[VolumeID]*namespace, len(next.Namespaces))
	var opened []*namespace
	for i := range next.Namespaces {
		n := &next.Namespaces[i]
		if ns := before[n.ID]; ns != nil && ns.device == n.Device {
			after[n.ID] = ns
			continue
		}
		ns, err := s.openNamespace(n)
		if err != nil {
			for _, o := range opened {
				o.close()
			}
			return fmt.Errorf("nvme: volume %x (%s): %w", n.ID, n.Name, err)
		}
		opened = append(opened, ns)
		after[n.ID] = ns
	}
	// Nothing fails from here on.
	for i := range next.Namespaces {
		n := &next.Namespaces[i]
		after[n.ID].conf.Store(n)
		after[n.ID].protect(n.Protect, nil)
	}
	if old != nil {
		if discoveryDiffers(old, next) {
			next.generation++
		}
		if anaDiffers(old, next) {
			next.anaChanges++
		}
	}
	s.mu.Lock()
	s.mu.namespaces = after
	s.conf.Store(next)
	controllers := slices.Collect(maps.Values(s.mu.controllers))
	s.mu.Unlock()
	for _, c := range controllers {
		c.reconfigure(old, next, after)
	}
	for id, ns := range before {
		if after[id] != ns {
			ns.close()
		}
	}
	return nil
}

// Close ends every controller and lets no host in any more. Commands that a
// device works on still complete.
func (s *Subsystem) Close() {
	s.mu.Lock()
	s.mu.closed = true
	controllers := slices.Collect(maps.Values(s.mu.controllers))
	namespaces := s.mu.namespaces
	s.mu.namespaces = make(map[VolumeID]*namespace)
	s.mu.Unlock()
	for _, c := range controllers {
		c.end(errClosed)
	}
	for _, ns := range namespaces {
		ns.close()
	}
}

var errClosed = errors.New("nvme: the subsystem is shut down")

// Tick ends the controllers whose keep-alive timeout has passed, and returns
// when to call it next, at the latest: a quarter of the shortest timeout, or
// one second when there is none.
func (s *Subsystem) Tick(now time.Time) (next time.Time) {
	next = now.Add(time.Second)
	for _, c := range s.controllerList() {
		due, err := c.tick(now)
		if err != nil {
			c.end(err)
			continue
		}
		if !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	return next
}

// StoodStill puts off the end of every keep-alive timeout by d: for so long the node
// took no commands, and those of its hosts are waiting.
func (s *Subsystem) StoodStill(d time.Duration) {
	for _, c := range s.controllerList() {
		c.mu.Lock()
		if !c.mu.deadline.IsZero() {
			c.mu.deadline = c.mu.deadline.Add(d)
		}
		c.mu.Unlock()
	}
}

// controllerList gives the controllers of this moment.
func (s *Subsystem) controllerList() []*Controller {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.mu.controllers))
}

// ControllerInfo is what Controllers tells of one.
type ControllerInfo struct {
	ID        uint16
	HostNQN   string
	HostID    [16]byte
	Discovery bool
	Port      uint16
	IOQueues  int
	KeepAlive time.Duration // 0: none
}

// Controllers lists the controllers that exist, by id.
func (s *Subsystem) Controllers() []ControllerInfo {
	controllers := s.controllerList()
	out := make([]ControllerInfo, 0, len(controllers))
	for _, c := range controllers {
		c.mu.Lock()
		out = append(out, ControllerInfo{ID: c.id, HostNQN: c.hostNQN, HostID: c.hostID, Discovery: c.discovery,
			Port: c.port, IOQueues: len(c.mu.queues), KeepAlive: c.mu.kato})
		c.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b ControllerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Drop ends the controllers that match accepts.
func (s *Subsystem) Drop(reason error, match func(ControllerInfo) bool) {
	for _, i := range s.Controllers() {
		if !match(i) {
			continue
		}
		s.mu.Lock()
		c := s.mu.controllers[i.ID]
		s.mu.Unlock()
		if c != nil && c.hostNQN == i.HostNQN {
			c.end(reason)
		}
	}
}

func (s *Subsystem) event(e Event) {
	if s.deps.Events != nil {
		s.deps.Events(e)
	}
}
