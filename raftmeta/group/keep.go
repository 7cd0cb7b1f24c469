package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// keepEvery is how often keep looks around without having been woken; what
// it finds then are members that came or went silent. A node that is alone only looks when woken.
const keepEvery = 500 * time.Millisecond

// contacts is when members were heard last, by the leader.
type contacts struct {
	mu    sync.Mutex
	term  uint64 // of the leader; it knows nothing from before
	since time.Time
	last  map[string]contact
	busy  map[string]bool // are being asked: one question at a time
}

type contact struct {
	when   time.Time
	status memberStatus
}

// keep does what a member has to do by itself. It does one thing after
// another, each bounded in time, and a thing that fails is tried again.
func (g *Group) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.kick:
		case <-timer.C:
		case <-g.ctx.Done():
			return
		}
		again := g.attend()
		switch {
		case again:
			timer.Reset(retryEvery)
		case g.alone() && len(g.machine.members()) <= 1:
			timer.Stop()
		default:
			timer.Reset(keepEvery)
		}
	}
}

// attend does what there is to do; again asks for another turn soon.
func (g *Group) attend() (again bool) {
	ctx, cancel := context.WithTimeout(g.ctx, g.patience())
	defer cancel()
	g.mu.Lock()
	g.errand = cancel
	g.mu.Unlock()
	if g.raft.State() == raft.Leader {
		if g.office.Load() == nil {
			return g.takeOffice(ctx) != nil
		}
		return g.govern(ctx)
	}
	return g.announce(ctx) != nil
}

// interrupt ends the turn of keep: this node has become leader, or no longer
// is, so what it was doing is not what it has to do now. Without this, a new leader
// could wait for the answer to a question that only a leader could answer.
func (g *Group) interrupt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.errand != nil {
		g.errand()
	}
}

func (g *Group) self() Member {
	return Member{ID: g.cfg.NodeID, Address: g.cfg.Address, MaxVersion: g.machine.version}
}

// takeOffice is a leader's first entry. When it is applied here, so is
// everything before it.
func (g *Group) takeOffice(ctx context.Context) error {
	self := g.self()
	o, err := g.append(ctx, &envelope{kind: kindGroup, version: 1, request: NewRequestID(), command: (&order{TakeOffice: &self}).encode()})
	if err == nil && o.Code != codeOK {
		// Its own binary is too old, or it was removed: it can't be leader.
		err = o.Code.err(g.cfg.NodeID, string(o.Data))
		if o.Code == codeTooOld || o.Code == codeRemoved {
			g.halt(err)
		}
	}
	return err
}

// announce tells the group what this member is now, if that has changed.
func (g *Group) announce(ctx context.Context) error {
	if g.Leader().ID == "" {
		g.seek(ctx)
		return nil
	}
	self := g.self()
	known, ok := g.machine.member(self.ID)
	if !ok || known == self {
		return nil
	}
	_, err := g.order(ctx, order{Announce: &self})
	if errors.Is(err, ErrTooOld) {
		g.halt(err)
	}
	return err
}

// seek is for a member that hears from no leader. Perhaps there is none. But
// perhaps the leader doesn't know its new address, or it was removed while it
// was down; then the others say so, and would not come by themselves.
func (g *Group) seek(ctx context.Context) {
	self := g.self()
	ask, payload := methodStatus, []byte(nil)
	var others []raft.Server
	for _, s := range g.servers() {
		if string(s.ID) != self.ID {
			others = append(others, s)
		} else if s.Address != g.stream.addr {
			ask, payload = methodJoin, self.encode()
		}
	}
	for _, s := range others {
		id, address := splitRaftAddress(s.Address)
		switch _, _, err := g.call(ctx, id, address, ask, payload); {
		case errors.Is(err, ErrRemoved), errors.Is(err, ErrTooOld), errors.Is(err, ErrIncarnation):
			g.halt(err)
			return
		case err == nil && ask == methodJoin:
			return
		}
	}
}

// govern is one turn of the leader's work.
func (g *Group) govern(ctx context.Context) (again bool) {
	if v := g.machine.openable(); v > g.machine.gate() {
		if _, err := g.order(ctx, order{Open: &orderOpen{v}}); err != nil {
			return true
		}
	}
	if err := g.compareHashes(ctx); err != nil {
		return true
	}
	if !g.cfg.secure() {
		return false
	}
	changed, err := g.arrange(ctx)
	return changed || err != nil
}

// arrange makes one change of who is in the library's configuration, or none
// when it is as it should be.
func (g *Group) arrange(ctx context.Context) (changed bool, err error) {
	members, servers := g.machine.members(), g.servers()
	server := func(id string) *raft.Server {
		i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
		if i < 0 {
			return nil
		}
		return &servers[i]
	}
	for _, m := range members {
		address := raftAddress(m.ID, m.Address)
		switch s := server(m.ID); {
		case s == nil:
			return true, g.change("listens to the log", m.ID, g.raft.AddNonvoter(raft.ServerID(m.ID), address, 0, g.patience()))
		case s.Address != address && s.Suffrage == raft.Voter:
			return true, g.change("moved to "+m.Address, m.ID, g.raft.AddVoter(s.ID, address, 0, g.patience()))
		case s.Address != address:
			return true, g.change("moved to "+m.Address, m.ID, g.raft.AddNonvoter(s.ID, address, 0, g.patience()))
		}
	}
	if len(servers) > 1 {
		g.ask(ctx, members)
	}
	candidates := g.candidates(members, servers)
	should := ChooseVoters(candidates, g.cfg.Voters)
	next := nextVoterChange(candidates, should)
	if next.promote != "" {
		// The library lets a node vote only for who is a voter by what that
		// node itself has read, so a second promotion right behind the first
		// could leave nobody who can win. Let the first arrive.
		if !g.arrived(members) {
			return true, nil
		}
		s := server(next.promote)
		return true, g.change("votes", next.promote, g.raft.AddVoter(s.ID, s.Address, 0, g.patience()))
	}
	for _, s := range servers {
		id := string(s.ID)
		if slices.ContainsFunc(members, func(m Member) bool { return m.ID == id }) {
			continue
		}
		if id == g.cfg.NodeID {
			return true, g.leaderTransfer(ctx, "") // the next leader removes this one
		}
		return true, g.change("left the log", id, g.raft.RemoveServer(s.ID, 0, g.patience()))
	}
	if next.demote != "" {
		return true, g.change("votes no more", next.demote, g.raft.DemoteVoter(raft.ServerID(next.demote), 0, g.patience()))
	}
	return false, nil
}

// change waits for a change of the configuration that was asked for.
func (g *Group) change(what, id string, f raft.IndexFuture) error {
	if err := g.begin(); err != nil {
		return err
	}
	defer g.pending.Done()
	if err := f.Error(); err != nil {
		return err
	}
	g.arranged = f.Index()
	g.cfg.Events(Event{Kind: EventMember, Node: id, Index: f.Index(), Text: what})
	return nil
}

// arrived tells whether every member that answers has the last change of the configuration.
func (g *Group) arrived(members []Member) bool {
	for _, m := range members {
		if k, heard := g.contact.get(m.ID); heard && time.Since(k.when) < 3*keepEvery && k.status.Applied < g.arranged {
			return false
		}
	}
	return true
}

// ask asks every other member how it is, and waits a moment for the answers. One that
// takes longer, as on a machine with too much to do, is counted when it comes: given up, it would have
// to begin again with the connection each time, and would never get further.
func (g *Group) ask(ctx context.Context, members []Member) {
	g.contact.begin(g.office.Load())
	answered, asked := make(chan struct{}, len(members)), 0
	for _, m := range members {
		if m.ID == g.cfg.NodeID || !g.contact.asks(m.ID) {
			continue
		}
		if g.begin() != nil {
			return // it has halted
		}
		asked++
		go func() {
			defer g.pending.Done()
			g.askOne(m)
			g.contact.asked(m.ID)
			answered <- struct{}{}
		}()
	}
	timer := time.NewTimer(g.cfg.Heartbeat)
	defer timer.Stop()
	for range asked {
		select {
		case <-answered:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) askOne(m Member) {
	ctx, cancel := context.WithTimeout(g.ctx, g.patience())
	defer cancel()
	answer, _, err := g.call(ctx, m.ID, m.Address, methodStatus, nil)
	var s memberStatus
	if err == nil && json.Unmarshal(answer, &s) == nil {
		g.contact.heard(m.ID, s)
	}
}

// asks reports whether nobody is asking a member, and notes that the caller does.
func (c *contacts) asks(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[id] {
		return false
	}
	if c.busy == nil {
		c.busy = make(map[string]bool)
	}
	c.busy[id] = true
	return true
}

func (c *contacts) asked(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, id)
}

func (c *contacts) begin(o *office) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o != nil && c.term != o.term {
		c.term, c.since, c.last = o.term, time.Now(), make(map[string]contact)
	}
}

func (c *contacts) heard(id string, s memberStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil {
		c.last[id] = contact{time.Now(), s}
	}
}

// get returns when a member was heard last; one that never was counts from
// when this node became leader.
func (c *contacts) get(id string) (contact, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.last[id]; ok {
		return k, true
	}
	return contact{when: c.since}, false
}

// caughtUp is how many entries a member may be behind and still become a voter.
const caughtUp = 512

func (g *Group) candidates(members []Member, servers []raft.Server) []Candidate {
	index, _ := g.machine.position()
	list := make([]Candidate, 0, len(members))
	for _, m := range members {
		c := Candidate{ID: m.ID, Domains: g.cfg.Domains(m.ID), Leader: m.ID == g.cfg.NodeID}
		for _, s := range servers {
			c.Voter = c.Voter || string(s.ID) == m.ID && s.Suffrage == raft.Voter
		}
		if c.Leader {
			c.Alive, c.Ready = true, true
		} else {
			k, heard := g.contact.get(m.ID)
			c.Alive = time.Since(k.when) < g.cfg.ReplaceAfter
			c.Ready = heard && time.Since(k.when) < 3*keepEvery && k.status.Applied+caughtUp >= index
		}
		list = append(list, c)
	}
	return list
}

// Join makes this node a member, by asking the members at addresses (id to
// HOST:PORT) until one has got it done or ctx ends. It is for a node that Open has opened
// with an empty folder; one that is a member already finds nothing to do.
func (g *Group) Join(ctx context.Context, addresses map[string]string) error {
	payload := g.self().encode()
	last := errors.New("no addresses to ask")
	for {
		for id, address := range addresses {
			answer, _, err := g.call(ctx, id, address, methodJoin, payload)
			if err == nil {
				o, err := decodeOutcome(answer)
				if err != nil {
					return err
				}
				return g.Wait(ctx, o.Index)
			}
			last = err
			for _, final := range []error{ErrRemoved, ErrTooOld, ErrRefused, ErrIncarnation} {
				if errors.Is(err, final) {
					return fmt.Errorf("joining the cluster: %w", err)
				}
			}
		}
		timer := time.NewTimer(retryEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-g.ctx.Done():
		}
		timer.Stop()
		if err := g.unusable(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("joining the cluster: %w: %w", ctx.Err(), last)
		}
	}
}

// Remove makes a node a member no more, for ever: its id does not come back,
// and members refuse its connections. It works while the node is dead. Who
// votes is arranged anew after that. The last member can't be removed.
func (g *Group) Remove(ctx context.Context, id string) error {
	_, err := g.order(ctx, order{Remove: &orderNode{id}})
	return err
}

// TransferLeadership hands leadership to the voter to, or with "" to the one
// whose log is longest, and returns when this is done. Any member may ask.
func (g *Group) TransferLeadership(ctx context.Context, to string) error {
	leader := g.Leader()
	if leader.ID == g.cfg.NodeID {
		return g.leaderTransfer(ctx, to)
	}
	if leader.ID == "" {
		return ErrNoLeader
	}
	_, _, err := g.call(ctx, leader.ID, leader.Address, methodTransfer, []byte(to))
	return err
}

func (g *Group) leaderTransfer(ctx context.Context, to string) error {
	if g.office.Load() == nil {
		return ErrNotLeader
	}
	var f func() raft.Future
	switch i := slices.IndexFunc(g.servers(), func(s raft.Server) bool { return string(s.ID) == to && s.Suffrage == raft.Voter }); {
	case to == g.cfg.NodeID:
		return nil
	case to == "" && g.alone():
		return fmt.Errorf("%w: there is no other voter to hand it to", ErrRefused)
	case to == "":
		f = g.raft.LeadershipTransfer
	case i < 0:
		return fmt.Errorf("%w: node %q does not vote", ErrRefused, to)
	default:
		s := g.servers()[i]
		f = func() raft.Future { return g.raft.LeadershipTransferToServer(s.ID, s.Address) }
	}
	if err := g.begin(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer g.pending.Done()
		done <- f().Error()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w: leadership was not handed over: %w", ErrRefused, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
