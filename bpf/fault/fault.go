package fault

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"blockd.dev/bpf"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Direction says which way a datagram passes the interface.
type Direction uint8

// The directions, as the kernel of the interface's own side sees them.
const (
	Arriving Direction = iota
	Leaving
)

// String returns the direction's name.
func (d Direction) String() string {
	if d == Arriving {
		return "arriving"
	}
	return "leaving"
}

// Config says where to act, and on what.
type Config struct {
	// Interface is the index of the interface, in the network namespace of the
	// calling thread. Required.
	Interface int
	// Port is the UDP destination port of the datagrams to damage; 0 is every
	// port.
	Port uint16
	// Seed decides which datagrams suffer.
	Seed uint64
}

// Match says which datagrams a rule is for. Of several rules that match one,
// that with both addresses set counts, then with the destination, then with
// the source, then with neither.
type Match struct {
	Direction           Direction
	Source, Destination netip.Addr // the zero Addr is any
}

// Rates says how often a datagram suffers what: 0 is never, 1 is always.
type Rates struct {
	Drop, Corrupt, Duplicate, Delay float64
	// A delay is at least DelayMin, and below DelayMax, if that is more.
	DelayMin, DelayMax time.Duration
}

// Counts is what happened to the datagrams of one rule.
type Counts struct {
	Seen       uint64 // all
	Dropped    uint64
	Corrupted  uint64
	Duplicated uint64
	Delayed    uint64
	Overrun    uint64 // lost, since too many were late at the same time
}

// Fault is what acts on one interface. Its methods may be called from any
// goroutine until Close.
type Fault struct {
	config  Config
	objects faultObjects
	links   []link.Link
	late    *lateFrames
}

// Load begins to act on the interface: without rules, nothing happens to any
// datagram. Errors: bpf.ErrUnsupported before Linux 6.6, bpf.ErrPermission.
func Load(c Config) (f *Fault, err error) {
	if c.Interface <= 0 {
		return nil, fmt.Errorf("fault: Config.Interface is %d; want the index of an interface", c.Interface)
	}
	for _, feature := range bpf.Features() {
		if feature.Name == bpf.FeatureTrafficControl && feature.Err != nil {
			return nil, fmt.Errorf("fault: %w", feature.Err)
		}
	}
	f = &Fault{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			f = nil
		}
	}()
	spec, err := loadFault()
	if err != nil {
		return f, fmt.Errorf("fault: %w", err)
	}
	if err := spec.Variables[faultVarClusterPort].Set([2]byte{byte(c.Port >> 8), byte(c.Port)}); err != nil {
		return f, fmt.Errorf("fault: %w", err)
	}
	if err := spec.LoadAndAssign(&f.objects, nil); err != nil {
		f.objects = faultObjects{}
		return f, fmt.Errorf("fault: load: %w", err)
	}
	if f.late, err = openLate(f.objects.Late, c.Interface); err != nil {
		return f, err
	}
	for _, place := range []struct {
		program *ebpf.Program
		attach  ebpf.AttachType
	}{
		{f.objects.FaultArriving, ebpf.AttachTCXIngress},
		{f.objects.FaultLeaving, ebpf.AttachTCXEgress},
	} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: c.Interface, Program: place.program, Attach: place.attach})
		if err != nil {
			return f, fmt.Errorf("fault: attach to interface %d: %w", c.Interface, err)
		}
		f.links = append(f.links, l)
	}
	return f, nil
}

// Set has the datagrams of m suffer at rates r from now on, counting on where
// an earlier rule for m stopped.
func (f *Fault) Set(m Match, r Rates) error {
	rule, err := r.rule(m, f.config.Seed)
	if err != nil {
		return err
	}
	key, err := m.key()
	if err != nil {
		return err
	}
	err = f.objects.Counters.Update(key, faultRuleCounters{}, ebpf.UpdateNoExist)
	if err == nil || errors.Is(err, ebpf.ErrKeyExist) {
		err = f.objects.Rules.Put(key, rule)
	}
	if err != nil {
		return fmt.Errorf("fault: rule for %+v: %w", m, err)
	}
	return nil
}

// Clear ends what Set began; the counts stay. It is no error when there was no
// rule.
func (f *Fault) Clear(m Match) error {
	key, err := m.key()
	if err != nil {
		return err
	}
	if err := f.objects.Rules.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("fault: clear %+v: %w", m, err)
	}
	return nil
}

// Counts tells what happened to the datagrams of m; zeroes when there never was
// a rule for just that.
func (f *Fault) Counts(m Match) (Counts, error) {
	key, err := m.key()
	if err != nil {
		return Counts{}, err
	}
	var c faultRuleCounters
	if err := f.objects.Counters.Lookup(key, &c); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return Counts{}, fmt.Errorf("fault: counts of %+v: %w", m, err)
	}
	return Counts{Seen: c.Seen, Dropped: c.Dropped, Corrupted: c.Corrupted, Duplicated: c.Duplicated, Delayed: c.Delayed, Overrun: c.Overrun}, nil
}

// Close ends all faults. Frames that are late at that time are lost.
func (f *Fault) Close() error {
	var errs []error
	for _, l := range f.links {
		errs = append(errs, l.Close())
	}
	f.links = nil
	if f.late != nil {
		errs = append(errs, f.late.close())
		f.late = nil
	}
	if f.objects.Rules != nil {
		errs = append(errs, f.objects.Close())
		f.objects = faultObjects{}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fault: close: %w", err)
	}
	return nil
}

// ruleKey is struct rule_key of fault.c.
type ruleKey struct {
	Source, Destination [16]byte
	Direction           uint64
}

func (m Match) key() (ruleKey, error) {
	if m.Direction > Leaving {
		return ruleKey{}, fmt.Errorf("fault: there is no direction %d", m.Direction)
	}
	k := ruleKey{Direction: uint64(m.Direction)}
	if m.Source.IsValid() {
		k.Source = m.Source.As16()
	}
	if m.Destination.IsValid() {
		k.Destination = m.Destination.As16()
	}
	return k, nil
}

// rule turns rates into what the program reads.
func (r Rates) rule(m Match, seed uint64) (faultRule, error) {
	rule := faultRule{Seed: m.seed(seed)}
	for _, c := range []struct {
		name string
		rate float64
		to   *uint64
	}{
		{"Drop", r.Drop, &rule.Drop},
		{"Corrupt", r.Corrupt, &rule.Corrupt},
		{"Duplicate", r.Duplicate, &rule.Duplicate},
		{"Delay", r.Delay, &rule.Delay},
	} {
		if !(c.rate >= 0 && c.rate <= 1) { // NaN is neither
			return rule, fmt.Errorf("fault: Rates.%s is %v; want 0 to 1", c.name, c.rate)
		}
		*c.to = uint64(math.Round(c.rate * (1 << 32)))
	}
	if r.DelayMin < 0 || r.DelayMax > time.Hour || r.DelayMin > time.Hour {
		return rule, fmt.Errorf("fault: Rates.DelayMin is %v, DelayMax %v; want 0 to 1h", r.DelayMin, r.DelayMax)
	}
	if r.Delay > 0 && m.Direction == Arriving {
		return rule, errors.New("fault: Rates.Delay is for what leaves the interface; load a Fault at the interface where it leaves from next")
	}
	rule.DelayMinNs = uint64(r.DelayMin)
	rule.DelaySpreadNs = uint64(max(0, r.DelayMax-r.DelayMin))
	return rule, nil
}

// seed gives each rule a sequence of its own.
func (m Match) seed(seed uint64) uint64 {
	k, err := m.key()
	if err != nil {
		return seed
	}
	for _, b := range append(append(k.Source[:], k.Destination[:]...), byte(k.Direction)) {
		seed = mix(seed + uint64(b) + golden)
	}
	return seed
}

// golden is the step of SplitMix64.
const golden = 0x9e3779b97f4a7c15

// mix is SplitMix64's output function, as in fault.c.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
