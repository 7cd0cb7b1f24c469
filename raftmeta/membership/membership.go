package membership

import (
	"fmt"
	"slices"
	"time"

	"blockd.dev/internal/clock"
)

// State is what a node is to the cluster.
type State uint8

// The states.
const (
	Joining  State = iota // known, and never heard of
	Up                    // heard of, and takes part
	Suspect               // not heard of for a while; nothing is taken from it yet
	Down                  // dead for all that the cluster can see
	Held                  // alive again, after going down too often
	Draining              // alive, and being emptied by an administrator
	Left                  // removed; never comes back under this name
)

// String is the word for it.
func (s State) String() string {
	return [...]string{"joining", "up", "suspect", "down", "held", "draining", "left"}[min(s, Left)]
}

// Config is the patience of the cluster. Zero fields mean the defaults.
type Config struct {
	// Every is how often nodes send heartbeats. Default 250 ms.
	Every time.Duration
	// SuspectAfter and DownAfter count from the last heartbeat. Defaults 1.5 s
	// and 10 s, which is 6 and 40 heartbeats. With 30% loss six in a row are
	// lost once in 1372, and twenty once in 3e10. So a node that most others
	// hear is suspect only after half of DownAfter.
	SuspectAfter, DownAfter time.Duration
	// OpinionsLast is how long what a peer said counts. Default 2 s.
	OpinionsLast time.Duration
	// HoldMin, HoldMax and FlapMemory bound how long a flapping node is held.
	// Defaults 30 s, 30 min and 1 h.
	HoldMin, HoldMax, FlapMemory time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.Every, 250*time.Millisecond)
	set(&c.SuspectAfter, 6*c.Every)
	set(&c.DownAfter, 40*c.Every)
	set(&c.OpinionsLast, 8*c.Every)
	set(&c.HoldMin, 30*time.Second)
	set(&c.HoldMax, 30*time.Minute)
	set(&c.FlapMemory, time.Hour)
	return c
}

// Validate names the first field that is out of range.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Every < 0 || c.SuspectAfter < 2*c.Every:
		return fmt.Errorf("membership: SuspectAfter is %s; it must be at least two heartbeats of %s", c.SuspectAfter, c.Every)
	case c.DownAfter < 2*c.SuspectAfter:
		return fmt.Errorf("membership: DownAfter is %s; it must be at least twice SuspectAfter, %s", c.DownAfter, c.SuspectAfter)
	case c.OpinionsLast < c.Every:
		return fmt.Errorf("membership: OpinionsLast is %s; it must be at least one heartbeat, %s", c.OpinionsLast, c.Every)
	case c.HoldMin < 0 || c.HoldMax < c.HoldMin || c.FlapMemory < 0:
		return fmt.Errorf("membership: HoldMin %s, HoldMax %s, FlapMemory %s; they must not be negative, HoldMax not below HoldMin", c.HoldMin, c.HoldMax, c.FlapMemory)
	}
	return nil
}

// Transition is a change of a node's state.
type Transition struct {
	Node     string
	From, To State
	Reason   string // in words, for people
}

// Opinion is what a peer last saw of a node.
type Opinion uint8

// The opinions.
const (
	Hears  Opinion = iota + 1 // heard of it lately
	Silent                    // hears nothing
	Died                      // its process closed or refused the connection
)

// Table is what the leader knows of all nodes.
type Table struct {
	cfg   Config
	start clock.Mono // nobody is blamed for silence before
	last  clock.Mono // Tick
	nodes map[string]*node
	names []string // sorted: transitions come in an order that repeats
}

type node struct {
	state    State
	drain    bool       // an administrator's wish, which outlives being down
	heard    clock.Mono // the last heartbeat at the leader; 0: none in this term
	hearsay  clock.Mono // when a peer last said that it hears it
	process  uint64     // the newest incarnation that was heard of
	died     bool       // the leader's own connection to that incarnation died
	rtt      time.Duration
	opinions map[string]opinion // by peer
	downs    []clock.Mono       // when it went down lately
	holdTill clock.Mono
}

type opinion struct {
	what    Opinion
	process uint64 // the incarnation that Died is about
	at      clock.Mono
}

// New begins at the reading now, for example when a leader is elected. It has
// heard of nobody, and gives everybody the time from now on.
func New(cfg Config, now clock.Mono) *Table {
	return &Table{cfg: cfg.withDefaults(), start: now, nodes: map[string]*node{}}
}

// Add makes a node known, in the state that the log has for it.
func (t *Table) Add(name string, s State) {
	if _, ok := t.nodes[name]; !ok {
		i, _ := slices.BinarySearch(t.names, name)
		t.names = slices.Insert(t.names, i, name)
	}
	n := &node{state: s, drain: s == Draining, opinions: map[string]opinion{}}
	if s == Held { // its history was the last leader's; hold it as for the first time
		n.holdTill = t.start.Add(t.cfg.HoldMin)
	}
	t.nodes[name] = n
}

// State returns the state of a node; Left for one that is not known.
func (t *Table) State(name string) State {
	if n := t.nodes[name]; n != nil {
		return n.state
	}
	return Left
}

// RTT returns the smoothed round trip of a node's heartbeats; 0: unknown.
func (t *Table) RTT(name string) time.Duration {
	if n := t.nodes[name]; n != nil {
		return n.rtt
	}
	return 0
}

// Heard returns when a node was last heard, by the leader or, as they said, by a peer: no
// earlier than the term, and the end of the leader's last pause; 0 for one that is not known.
func (t *Table) Heard(name string) clock.Mono {
	if n := t.nodes[name]; n != nil {
		return max(n.heard, n.hearsay, t.start)
	}
	return 0
}

// Heartbeat takes a heartbeat that arrived from a node, with the incarnation of
// its process, which grows with each start, and the round trip that it
// measured, or 0.
func (t *Table) Heartbeat(now clock.Mono, name string, incarnation uint64, rtt time.Duration) {
	n := t.nodes[name]
	if n == nil || incarnation < n.process {
		return // late, from a process that is gone
	}
	n.heard, n.process, n.died = now, incarnation, false
	switch {
	case rtt <= 0:
	case n.rtt == 0:
		n.rtt = rtt
	default:
		n.rtt += (rtt - n.rtt) / 8 // as TCP smooths it (RFC 6298 §2)
	}
}

// ConnectionDied takes the end of the leader's own connection to a node's process.
func (t *Table) ConnectionDied(name string, incarnation uint64) {
	if n := t.nodes[name]; n != nil && incarnation >= n.process {
		n.process, n.died = incarnation, true
	}
}

// Report takes what a peer says of a node's process of an incarnation, usually
// with the peer's heartbeat. That an earlier process Died is no news.
func (t *Table) Report(now clock.Mono, peer, name string, incarnation uint64, what Opinion) {
	if n := t.nodes[name]; n != nil && peer != name && t.nodes[peer] != nil {
		n.opinions[peer] = opinion{what, incarnation, now}
		if what == Hears {
			n.hearsay = now
		}
	}
}

// Drain sets or ends the wish to empty a node. A hold ends with it.
func (t *Table) Drain(name string, on bool) []Transition {
	n := t.nodes[name]
	if n == nil || n.state == Left {
		return nil
	}
	n.drain = on
	switch {
	case on && (n.state == Up || n.state == Suspect || n.state == Held):
		return t.move(nil, name, Draining, "an administrator drains it")
	case !on && (n.state == Draining || n.state == Held):
		n.downs = nil
		return t.move(nil, name, Up, "an administrator resumed it")
	}
	return nil
}

// Remove ends a node for ever.
func (t *Table) Remove(name string) []Transition {
	if t.State(name) == Left {
		return nil
	}
	return t.move(nil, name, Left, "an administrator removed it")
}

// Tick looks at all nodes and returns what changed, by name. Call it every
// heartbeat, and at once after ConnectionDied or a Report of Died. After a
// pause of the leader itself everybody has their time again.
func (t *Table) Tick(now clock.Mono) []Transition {
	if t.last != 0 && now.Sub(t.last) >= t.cfg.SuspectAfter {
		t.start = now
	}
	t.last = now
	var out []Transition
	for _, name := range t.names {
		if n := t.nodes[name]; n.state != Left {
			out = t.look(out, now, name, n)
		}
	}
	return out
}

func (t *Table) look(out []Transition, now clock.Mono, name string, n *node) []Transition {
	silence := now.Sub(max(n.heard, t.start))
	v := t.votes(now, name)
	heardByMost := 2*v.hear >= v.asked
	said := silence.Round(time.Millisecond)
	switch {
	case n.state != Down && n.state != Joining && 2*v.died > v.asked && (n.died || silence >= 2*t.cfg.Every):
		return t.down(out, now, name, fmt.Sprintf("its process ended: %d of %d nodes saw the connection die", v.died, v.asked))
	case n.heard > 0 && !n.died && silence < t.cfg.SuspectAfter:
		return t.alive(out, now, name)
	case n.state != Down && n.state != Joining && silence >= t.cfg.DownAfter && !heardByMost:
		return t.down(out, now, name, fmt.Sprintf("nothing heard for %s, and %d of %d nodes don't hear it", said, v.asked-v.hear, v.asked))
	case n.state != Up && n.state != Draining && n.state != Held:
		return out
	case silence >= t.cfg.DownAfter/2 && heardByMost:
		return t.move(out, name, Suspect, fmt.Sprintf("nothing heard for %s, though %d of %d nodes hear it: the way from it to the leader may be cut", said, v.hear, v.asked))
	case silence >= t.cfg.SuspectAfter && !heardByMost:
		return t.move(out, name, Suspect, fmt.Sprintf("nothing heard for %s, and %d of %d nodes don't hear it", said, v.asked-v.hear, v.asked))
	}
	return out
}

// votes is what those say who may speak of a node: the leader, and the peers
// that are alive for the leader and have reported lately.
type votes struct{ asked, hear, died int }

func (t *Table) votes(now clock.Mono, name string) votes {
	n := t.nodes[name]
	v := votes{asked: 1} // the leader
	switch {
	case n.died:
		v.died++
	case n.heard > 0 && now.Sub(n.heard) < t.cfg.SuspectAfter:
		v.hear++
	}
	for peer, o := range n.opinions {
		p := t.nodes[peer]
		if p.state == Left || p.heard == 0 || now.Sub(p.heard) >= t.cfg.SuspectAfter || now.Sub(o.at) > t.cfg.OpinionsLast {
			continue
		}
		v.asked++
		switch {
		case o.what == Hears:
			v.hear++
		case o.what == Died && o.process >= n.process:
			v.died++
		}
	}
	return v
}

func (t *Table) down(out []Transition, now clock.Mono, name, reason string) []Transition {
	n := t.nodes[name]
	n.downs = append(n.downs, now)
	return t.move(out, name, Down, reason)
}

// alive is what follows from a node being heard.
func (t *Table) alive(out []Transition, now clock.Mono, name string) []Transition {
	n := t.nodes[name]
	n.downs = slices.DeleteFunc(n.downs, func(at clock.Mono) bool { return now.Sub(at) > t.cfg.FlapMemory })
	switch n.state {
	case Down:
		hold := t.hold(len(n.downs))
		if n.drain || hold == 0 {
			return t.move(out, name, t.home(n), "it is heard again")
		}
		n.holdTill = now.Add(hold)
		return t.move(out, name, Held, fmt.Sprintf("it is heard again, but went down %d times within %s; it is held for %s, unless resumed", len(n.downs), t.cfg.FlapMemory, hold))
	case Held:
		if now >= n.holdTill {
			return t.move(out, name, t.home(n), "it was heard all through its hold")
		}
	case Suspect:
		if now < n.holdTill {
			return t.move(out, name, Held, "it is heard again, and its hold goes on")
		}
		return t.move(out, name, t.home(n), "it is heard again")
	case Joining:
		return t.move(out, name, t.home(n), "its first heartbeat arrived")
	case Up, Draining, Left:
	}
	return out
}

func (t *Table) home(n *node) State {
	if n.drain {
		return Draining
	}
	return Up
}

// hold is how long a node is held that has gone down so many times lately.
func (t *Table) hold(downs int) time.Duration {
	if downs < 2 {
		return 0
	}
	hold := t.cfg.HoldMin
	for range downs - 2 {
		if hold >= t.cfg.HoldMax/2 {
			return t.cfg.HoldMax
		}
		hold *= 2
	}
	return min(hold, t.cfg.HoldMax)
}

func (t *Table) move(out []Transition, name string, to State, reason string) []Transition {
	n := t.nodes[name]
	from := n.state
	n.state = to
	return append(out, Transition{name, from, to, reason})
}
