package wire

import (
	"fmt"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
	"blockd.dev/replication/wire/recovery"
)

// PathsMax is how many paths a connection can have: PathID is below it.
const PathsMax = recovery.PathsMax

// Figures of paths.
const (
	challengeTries = 4
	// firstTimeout is waited for an acknowledgement when no round trip was
	// measured: much for a network, little for a person.
	firstTimeout = 10 * time.Millisecond
	// troubleTimeouts is after how many overdue acknowledgements in a row other
	// paths are tried, and short packets in place of long ones.
	troubleTimeouts = 2
	// probeStep ends the search for the longest datagram, in bytes.
	probeStep     = 32
	probeAttempts = 3
	// largeLostMax is how many long packets in a row are lost before the path
	// is taken for a black hole.
	largeLostMax = 8
	// researchAfter is when to search again after a black hole.
	researchAfter = 5 * time.Second
)

// path is one way to the peer.
type path struct {
	known  bool // AddPath was called
	gone   bool // PathDown was called
	valid  bool // the peer has answered through it
	rtt    recovery.RTT
	window recovery.Window
	pacer  recovery.Pacer

	// The longest datagram: datagram is known to pass, tooLong known not to.
	datagram, tooLong int
	limit             int // of the links at both ends
	probing           int // length of the probe under way; 0 for none
	probeTries        int
	probeAfter        clock.Mono
	largeLost         int    // packets that not every path carries, lost in a row
	largeAcked        uint64 // the newest of them that arrived

	ping      bool // send a ping
	challenge uint64
	tries     int        // challenges left to send
	tryAt     clock.Mono // when to send the next
	answer    uint64     // a challenge of the peer to be answered
	answerDue bool
	lastAcked clock.Mono // newest news that packets get through
}

// AddPath makes path known, with the longest datagram in bytes that its link
// can send. It is probed, and used when it answers and the one in use fails.
// A path that is known already is taken as usable again. Errors: path is not
// below PathsMax, or the length is out of range.
func (c *Conn) AddPath(now clock.Mono, path PathID, datagramMax int) error {
	c.advance(now)
	if path >= PathsMax {
		return errPath
	}
	if datagramMax < packet.DatagramMin || datagramMax > packet.DatagramMax {
		return fmt.Errorf("wire: longest datagram of path %d is %d bytes, must be %d to %d",
			path, datagramMax, packet.DatagramMin, packet.DatagramMax)
	}
	p := &c.paths[path]
	if p.known && !p.gone {
		return nil
	}
	c.usePath(path, datagramMax)
	if c.state == up || c.state == draining {
		p.limit = min(p.limit, int(c.params.DatagramMax))
		p.startChallenge(c.now)
		if !c.paths[c.active].usable() {
			c.moveTo(path)
		}
	}
	return nil
}

func (c *Conn) usePath(id PathID, datagramMax int) {
	c.paths[id] = path{
		known: true, limit: datagramMax, tooLong: packet.DatagramMax + 1,
		datagram: packet.DatagramMin, window: recovery.NewWindow(packet.DatagramMin),
	}
}

func (p *path) startChallenge(now clock.Mono) {
	p.challenge, p.tries, p.tryAt = 0, challengeTries, now
}

func (p *path) usable() bool { return p.known && !p.gone }

// PathDown tells that path can't be used: its link is gone. What was sent
// there is sent again elsewhere. AddPath brings it back.
func (c *Conn) PathDown(now clock.Mono, path PathID) {
	c.advance(now)
	if path >= PathsMax || !c.paths[path].usable() {
		return
	}
	c.paths[path].gone = true
	if c.state != up && c.state != draining {
		return
	}
	if path == c.active {
		if other, ok := c.otherPath(); ok {
			c.moveTo(other)
			return
		}
	}
	c.ledger.LosePath(uint8(path), c)
}

// otherPath returns the best path beside the active one: one that has
// answered, the latest heard of first.
func (c *Conn) otherPath() (best PathID, ok bool) {
	for i := range c.paths {
		p := &c.paths[i]
		if PathID(i) == c.active || !p.usable() {
			continue
		}
		b := &c.paths[best]
		if !ok || p.valid && !b.valid || p.valid == b.valid && p.lastAcked > b.lastAcked {
			best, ok = PathID(i), true
		}
	}
	return best, ok
}

// moveTo makes path the preferred one, and sends there what is under way on
// the others.
func (c *Conn) moveTo(path PathID) {
	old := c.active
	c.paths[old].valid = false // until it answers again
	c.active = path
	c.timeouts, c.probes, c.asked = 0, 0, c.now
	c.stats.PathChanges++
	c.ledger.LosePath(uint8(old), c)
	c.paths[path].ping = true
	c.paceTime = clock.Never
	c.events.push(Event{Kind: EventPath, Path: path})
}

// SetPathMTU tells the longest datagram in bytes that path's link can send
// now. Longer ones than known to pass are found out by probing, up to this.
func (c *Conn) SetPathMTU(now clock.Mono, path PathID, datagramMax int) {
	c.advance(now)
	if path >= PathsMax || !c.paths[path].known {
		return
	}
	p := &c.paths[path]
	p.limit = min(max(datagramMax, packet.DatagramMin), packet.DatagramMax)
	if c.params.DatagramMax > 0 {
		p.limit = min(p.limit, int(c.params.DatagramMax))
	}
	p.tooLong = packet.DatagramMax + 1
	p.probing, p.probeTries = 0, 0
	p.setDatagram(min(p.datagram, p.limit))
}

func (p *path) setDatagram(n int) {
	p.datagram = n
	p.window.SetDatagram(n)
}

// probeLength is which length of datagram to try next on the active path; 0
// for none. First the longest, which is most often right; then by halves.
func (p *path) probeLength(now clock.Mono) int {
	top := min(p.limit, p.tooLong-1)
	if p.probing != 0 || top <= p.datagram || now < p.probeAfter {
		return 0
	}
	if p.tooLong > p.limit {
		return top
	}
	if top-p.datagram < probeStep {
		return 0
	}
	return p.datagram + (top-p.datagram+1)/2
}

func (p *path) probeAcked(n int) {
	if n > p.datagram {
		p.setDatagram(n)
	}
	p.probing, p.probeTries = 0, 0
}

func (p *path) probeLost(n int) {
	if n != p.probing {
		return
	}
	p.probing = 0
	if p.probeTries++; p.probeTries >= probeAttempts {
		p.tooLong, p.probeTries = min(p.tooLong, n), 0
	}
}

// onLargeLost notes that a packet was lost that not every path carries, while
// none of those sent after it arrived. When it happens too often, the path has
// become a black hole for them.
func (c *Conn) onLargeLost(p *path) {
	if p.largeLost++; p.largeLost >= largeLostMax && p.datagram > packet.DatagramMin {
		p.largeLost = 0
		p.tooLong = packet.DatagramMax + 1
		p.probing, p.probeTries = 0, 0
		p.probeAfter = c.now.Add(researchAfter)
		p.setDatagram(packet.DatagramMin)
		c.stats.BlackHoles++
	}
}

// challengeOthers asks on every path but the active one whether it works.
func (c *Conn) challengeOthers() {
	for i := range c.paths {
		if p := &c.paths[i]; PathID(i) != c.active && p.usable() && p.tries == 0 {
			p.startChallenge(c.now)
			p.tries = 2
		}
	}
}

// pathTimer is when a challenge is due.
func (c *Conn) pathTimer() clock.Mono {
	at := clock.Never
	for i := range c.paths {
		if p := &c.paths[i]; p.tries > 0 && p.usable() {
			at = min(at, p.tryAt)
		}
	}
	return at
}

// onChallenge answers on every path: the peer has trouble to hear us, or has a
// new path. What works for us is not known either then, so that is tested.
func (c *Conn) onChallenge(from PathID, value uint64) {
	for i := range c.paths {
		if p := &c.paths[i]; p.usable() && (p.valid || PathID(i) == from) {
			p.answer, p.answerDue = value, true
		}
	}
	if from != c.active && !c.ledger.WaitingOn(uint8(c.active)) {
		c.paths[c.active].ping = true
	}
}

// onResponse notes that the path works on which the challenge went out.
func (c *Conn) onResponse(value uint64) {
	for i := range c.paths {
		p := &c.paths[i]
		if p.usable() && p.challenge == value && value != 0 {
			p.valid, p.tries, p.challenge = true, 0, 0
			p.lastAcked = c.now
			c.maybeMove()
		}
	}
}

// maybeMove leaves the active path when acknowledgements are overdue there and
// another path has proved itself since.
func (c *Conn) maybeMove() {
	if c.timeouts < troubleTimeouts {
		return
	}
	other, ok := c.otherPath()
	if ok && c.paths[other].valid && c.paths[other].lastAcked > max(c.paths[c.active].lastAcked, c.troubleSince) {
		c.moveTo(other)
	}
}
