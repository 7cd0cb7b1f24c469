package fault

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
)

// Clock starts what happens later.
type Clock interface {
	// AfterFunc calls f in its own goroutine, or that of the test, after d.
	AfterFunc(d time.Duration, f func())
}

// wallClock is time itself.
type wallClock struct{}

func (wallClock) AfterFunc(d time.Duration, f func()) { time.AfterFunc(d, f) }

// Device passes requests to the device below, as far as its rules let it. It
// implements blockdev.Device; Mapper and Provisioner too, and where the
// device below does not, it answers that everything is allocated.
type Device struct {
	below     blockdev.Device
	clock     Clock
	watchers  blockdev.Watchers
	stopWatch func()

	active atomic.Bool // there are rules, or the device is gone

	mu    sync.Mutex
	rules []*Active
	gone  bool
	hung  []*blockdev.Request
}

// Active is a rule in force.
type Active struct {
	d     *Device
	rule  Rule
	asked int64 // requests that it is about; guarded by Device.mu
	hits  int64 // strikes; guarded by Device.mu
}

// Rule is the rule as it was added.
func (a *Active) Rule() Rule { return a.rule }

// Hits is how often the rule struck.
func (a *Active) Hits() int64 {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return a.hits
}

// Asked is how many requests the rule was about, struck or not.
func (a *Active) Asked() int64 {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return a.asked
}

// Remove ends the rule; what it holds back or delays is not affected.
func (a *Active) Remove() {
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = slices.DeleteFunc(d.rules, func(e *Active) bool { return e == a })
	d.active.Store(d.gone || len(d.rules) > 0)
}

// New wraps below. clock is for delays; nil means real time.
func New(below blockdev.Device, clock Clock) *Device {
	if clock == nil {
		clock = wallClock{}
	}
	d := &Device{below: below, clock: clock}
	d.stopWatch = below.Watch(d.watchers.Notify)
	return d
}

// Close stops passing on the change notices of the device below, which stays
// open. Requests that hang are failed with ErrGone.
func (d *Device) Close() error {
	d.stopWatch()
	d.Fail(blockdev.ErrGone)
	return nil
}

// Add puts a rule in force, after those that are. It panics when the rule is
// not valid; Parse gives none such.
func (d *Device) Add(r Rule) *Active {
	if err := r.Validate(); err != nil {
		panic("fault: " + r.String() + ": " + err.Error())
	}
	a := &Active{d: d, rule: r}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = append(d.rules, a)
	d.active.Store(true)
	return a
}

// AddText parses one rule and puts it in force.
func (d *Device) AddText(line string) (*Active, error) {
	r, err := Parse(line)
	if err != nil {
		return nil, err
	}
	return d.Add(r), nil
}

// Clear removes every rule. Hung requests stay hung, a gone device gone.
func (d *Device) Clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = nil
	d.active.Store(d.gone)
}

// Hung is how many requests hang.
func (d *Device) Hung() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.hung)
}

// Resume submits the requests that hang to the device below.
func (d *Device) Resume() {
	if hung := d.takeHung(); len(hung) > 0 {
		d.below.Submit(hung)
	}
}

// Fail ends the requests that hang with an error of the given kind.
func (d *Device) Fail(kind error) {
	for _, r := range d.takeHung() {
		blockdev.Complete(r, blockdev.NewError(kind, r, -1, nil))
	}
}

func (d *Device) takeHung() []*blockdev.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	hung := d.hung
	d.hung = nil
	return hung
}

// Vanish does what a rule of kind gone does.
func (d *Device) Vanish() {
	d.mu.Lock()
	was := d.gone
	d.gone = true
	d.active.Store(true)
	d.mu.Unlock()
	if !was {
		d.watchers.Notify(blockdev.ChangeGone)
	}
}

// Restore brings a gone device back.
func (d *Device) Restore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = false
	d.active.Store(len(d.rules) > 0)
}

// Geometry is that of the device below, but that nothing is lent: rules change
// the data of reads.
func (d *Device) Geometry() blockdev.Geometry {
	g := d.below.Geometry()
	g.Lends = false
	return g
}

// Watch reports the changes of the device below, and ChangeGone.
func (d *Device) Watch(fn func(blockdev.Change)) (stop func()) { return d.watchers.Add(fn) }

// NextMapped asks the device below.
func (d *Device) NextMapped(offset, limit int64) (mapped bool, runBytes int64, err error) {
	if m, ok := d.below.(blockdev.Mapper); ok {
		return m.NextMapped(offset, limit)
	}
	return true, min(limit, d.Geometry().SizeBytes-offset), nil
}

// Provisioning asks the device below.
func (d *Device) Provisioning() (usedBytes, availableBytes int64) {
	if p, ok := d.below.(blockdev.Provisioner); ok {
		return p.Provisioning()
	}
	return d.Geometry().SizeBytes, 0
}

// Submit passes the batch on, less what the rules strike.
func (d *Device) Submit(batch []*blockdev.Request) {
	if !d.active.Load() {
		d.below.Submit(batch)
		return
	}
	var pass []*blockdev.Request
	for _, r := range batch {
		hit, chance := d.judge(r)
		if hit == nil {
			pass = append(pass, r)
			continue
		}
		// What came before goes first.
		if len(pass) > 0 {
			d.below.Submit(pass)
			pass = pass[:0]
		}
		d.strike(r, hit, chance)
	}
	if len(pass) > 0 {
		d.below.Submit(pass)
	}
}

var goneRule = Rule{Kind: KindError, Err: blockdev.ErrGone}

// judge finds the rule that strikes r, or nil, and a number by chance. What
// the device below would refuse anyway is no matter for rules.
func (d *Device) judge(r *blockdev.Request) (hit *Rule, chance uint64) {
	valid := blockdev.Validate(d.below.Geometry(), r) == nil
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return &goneRule, 0
	}
	if !valid {
		return nil, 0
	}
	for _, a := range d.rules {
		if !a.rule.touches(r) {
			continue
		}
		a.asked++
		chance = mix(a.rule.Seed ^ mix(uint64(a.asked)))
		switch {
		case a.rule.Nth != 0 && a.asked != a.rule.Nth,
			a.rule.Times != 0 && a.hits >= a.rule.Times,
			a.rule.P != 0 && float64(mix(chance)>>11)/(1<<53) >= a.rule.P:
			continue
		}
		a.hits++
		if a.rule.Kind == KindHang {
			d.hung = append(d.hung, r)
		}
		return &a.rule, chance
	}
	return nil, 0
}

// mix is the finaliser of splitmix64: every bit of x moves every bit of the
// result.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}
