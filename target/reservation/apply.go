package reservation

import "slices"

// Apply returns the state after c and what else c does. s is not changed; it
// is returned itself when c changes nothing, which is so for every status but
// StatusOK. c and its slices are not retained.
func (s *State) Apply(c *Command) (*State, Result) {
	if c.Op != OpLegacyReset && !c.From.Valid() {
		return s, Result{Status: StatusInvalidCommand}
	}
	switch c.Op {
	case OpLegacyReserve, OpLegacyRelease, OpLegacyReset, OpNexusLoss:
		return s.applyLegacy(c)
	}
	// SPC-2 5.5.1: while a RESERVE is in force every persistent reservation
	// command conflicts, whoever sends it.
	if !s.Legacy.IsZero() {
		return s, Result{Status: StatusConflict}
	}
	e := edit{prev: s, next: *s, from: c.From}
	switch c.Op {
	case OpRegister, OpRegisterIgnore:
		e.register(c)
	case OpHostRegister, OpHostUnregister, OpHostReplace:
		e.hostRegister(c)
	case OpMove, OpReserve, OpRelease, OpClear, OpPreempt, OpPreemptAndAbort:
		// SPC-5 "Reservation keys": but for registering, the sender must be
		// registered with the key that it gives, whatever else it asks for.
		if key, ok := s.Key(c.From); !ok || key != c.Key {
			return s, Result{Status: StatusConflict}
		}
		switch c.Op {
		case OpMove:
			e.move(c)
		case OpReserve:
			e.reserve(c)
		case OpRelease:
			e.release(c)
		case OpClear:
			e.clear()
		case OpPreempt, OpPreemptAndAbort:
			e.preempt(c)
		}
	default:
		return s, Result{Status: StatusInvalidCommand}
	}
	if e.result.Status != StatusOK {
		return s, Result{Status: e.result.Status}
	}
	// SPC-5 "READ KEYS": every successful command that may change
	// registrations counts, RESERVE and RELEASE do not.
	if c.Op != OpReserve && c.Op != OpRelease {
		e.next.Generation++
	}
	if e.next.Equal(s) {
		return s, e.result
	}
	return &e.next, e.result
}

// applyLegacy does SPC-2 RESERVE and RELEASE with the exceptions of SPC-5
// "Exceptions to SPC-2 RESERVE and RELEASE behavior" (CRH=1).
func (s *State) applyLegacy(c *Command) (*State, Result) {
	next := *s
	switch c.Op {
	case OpLegacyReset:
		next.Legacy = Identity{}
	case OpNexusLoss:
		if s.Legacy == c.From {
			next.Legacy = Identity{}
		}
	case OpLegacyReserve, OpLegacyRelease:
		if s.Holds(c.From) || s.Type.shared() && s.Find(c.From) >= 0 {
			return s, Result{} // good, and nothing changes
		}
		if len(s.Registrants) > 0 {
			return s, Result{Status: StatusConflict}
		}
		if c.Op == OpLegacyReserve {
			if !s.Legacy.IsZero() && s.Legacy != c.From {
				return s, Result{Status: StatusConflict}
			}
			next.Legacy = c.From
		} else if s.Legacy == c.From {
			next.Legacy = Identity{} // a release by another is good and does nothing
		}
	}
	if next.Legacy == s.Legacy {
		return s, Result{}
	}
	return &next, Result{}
}

// edit is a State on its way to the next one. Its methods set result.Status
// and stop at the first failure; the caller then drops next.
type edit struct {
	prev   *State // as it was before the command
	next   State
	from   Identity
	owned  bool // next.Registrants is ours to change
	result Result
}

func (e *edit) fail(s Status) { e.result.Status = s }

// own makes next.Registrants private before its first change.
func (e *edit) own() {
	if !e.owned {
		e.next.Registrants = slices.Clone(e.next.Registrants)
		e.owned = true
	}
}

// put registers id with key, or changes its key. It reports false when the
// table is full.
func (e *edit) put(id Identity, key uint64) bool {
	e.own()
	if i := e.next.Find(id); i >= 0 {
		e.next.Registrants[i].Key = key
		return true
	}
	if len(e.next.Registrants) >= MaxRegistrants {
		e.fail(StatusNoResources)
		return false
	}
	e.next.Registrants = append(e.next.Registrants, Registrant{ID: id, Key: key})
	return true
}

// drop removes the registrations that match, without any consequence.
func (e *edit) drop(match func(Registrant) bool) {
	e.own()
	e.next.Registrants = slices.DeleteFunc(e.next.Registrants, match)
}

// notify tells every present registrant but the sender.
func (e *edit) notify(n Notice) {
	for _, r := range e.next.Registrants {
		if r.ID != e.from {
			e.result.Events = append(e.result.Events, Event{To: r.ID, Notice: n})
		}
	}
}

// vacate ends the reservation.
func (e *edit) vacate() { e.next.Type, e.next.Holder = TypeNone, Identity{} }

// unregister removes id and, when that leaves the reservation without a
// holder, the reservation. Registrants-only types then tell the others
// (SPC-5 "Unregistering").
func (e *edit) unregister(id Identity) {
	held := e.next.Holds(id)
	e.drop(func(r Registrant) bool { return r.ID == id })
	if !held || e.next.Type.AllRegistrants() && len(e.next.Registrants) > 0 {
		return
	}
	if e.next.Type.RegistrantsOnly() {
		e.notify(ReservationsReleased)
	}
	e.vacate()
}

func (e *edit) setPersist(p Persist) {
	if p != PersistKeep {
		e.next.Persist = p == PersistOn
	}
}

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-5
// "Registering").
func (e *edit) register(c *Command) {
	present, registered := e.next.Key(c.From)
	if c.Op == OpRegister {
		if present != c.Key { // an unregistered nexus gives zero
			e.fail(StatusConflict)
			return
		}
		// SPEC_I_PT is for a first registration only.
		if c.SpecifyInitiators && (registered || c.NewKey == 0) {
			e.fail(StatusInvalidCommand)
			return
		}
	}
	ports := c.Ports
	if len(ports) == 0 {
		ports = []uint16{c.From.Port}
	}
	if !slices.Contains(ports, c.From.Port) {
		e.fail(StatusInvalidCommand)
		return
	}
	for _, port := range ports {
		id := c.From
		id.Port = port
		// ALL_TG_PT registers as if the request had come through each port. A
		// port where the initiator is not registered yet joins in, whatever key
		// it gave for the others; one where it has another key conflicts.
		key, ok := e.next.Key(id)
		if c.Op == OpRegister && ok && key != c.Key {
			e.fail(StatusConflict)
			return
		}
		if c.NewKey == 0 {
			if ok {
				e.unregister(id)
			}
		} else if !e.put(id, c.NewKey) {
			return
		}
	}
	if c.Op == OpRegister && c.SpecifyInitiators && !e.registerOthers(c, ports) {
		return
	}
	// A port that went together with the holder's is told nothing.
	e.result.Events = slices.DeleteFunc(e.result.Events, func(ev Event) bool { return e.next.Find(ev.To) < 0 })
	e.setPersist(c.Persist)
}

// registerOthers registers the initiator ports of SPEC_I_PT: all or none. One
// that was registered before the command makes it fail; one that is named
// twice, or is the sender, does not.
func (e *edit) registerOthers(c *Command, ports []uint16) bool {
	for _, id := range c.Initiators {
		for _, port := range ports {
			id.Port = port
			if !id.Valid() {
				e.fail(StatusInvalidParameter)
				return false
			}
			if e.prev.Find(id) >= 0 {
				e.fail(StatusInvalidCommand)
				return false
			}
			if !e.put(id, c.NewKey) {
				return false
			}
		}
	}
	return true
}

// hostRegister is the NVMe Reservation Register command.
func (e *edit) hostRegister(c *Command) {
	present, registered := e.next.Key(c.From)
	switch c.Op {
	case OpHostRegister:
		if c.NewKey == 0 {
			e.fail(StatusInvalidParameter)
			return
		}
		if registered && present != c.NewKey {
			e.fail(StatusConflict)
			return
		}
		if !e.put(c.From, c.NewKey) {
			return
		}
	case OpHostReplace:
		if c.NewKey == 0 {
			e.fail(StatusInvalidParameter)
			return
		}
		if !c.IgnoreKey && (!registered || present != c.Key) {
			e.fail(StatusConflict)
			return
		}
		if !e.put(c.From, c.NewKey) {
			return
		}
	case OpHostUnregister:
		if !registered || !c.IgnoreKey && present != c.Key {
			e.fail(StatusConflict)
			return
		}
		e.unregister(c.From)
	}
	e.setPersist(c.Persist)
}

// move is REGISTER AND MOVE (SPC-5 "Registering and moving the reservation").
func (e *edit) move(c *Command) {
	switch {
	case e.next.Type == TypeNone:
		e.fail(StatusInvalidCommand)
		return
	case e.next.Type.AllRegistrants() || e.next.Holder != c.From:
		e.fail(StatusConflict)
		return
	case c.NewKey == 0 || c.To == c.From || !c.To.Valid():
		e.fail(StatusInvalidParameter)
		return
	}
	if c.Unregister {
		e.drop(func(r Registrant) bool { return r.ID == c.From })
	}
	if !e.put(c.To, c.NewKey) {
		return
	}
	e.next.Holder = c.To
	e.setPersist(c.Persist)
}

// take makes the sender hold a reservation of type t.
func (e *edit) take(t Type) {
	e.next.Type, e.next.Holder = t, e.from
	if t.AllRegistrants() {
		e.next.Holder = Identity{}
	}
}

// reserve is RESERVE (SPC-5 "Reserving"); a holder may repeat what it has.
func (e *edit) reserve(c *Command) {
	switch {
	case !c.Type.Valid():
		e.fail(StatusInvalidCommand)
	case e.next.Type == TypeNone:
		e.take(c.Type)
	case !e.next.Holds(c.From) || e.next.Type != c.Type:
		e.fail(StatusConflict)
	}
}

// release is RELEASE (SPC-5 "Releasing"). A release by one who does not hold
// the reservation is good and does nothing.
func (e *edit) release(c *Command) {
	if !e.next.Holds(c.From) {
		return
	}
	if e.next.Type != c.Type {
		e.fail(StatusInvalidRelease)
		return
	}
	if e.next.Type.shared() {
		e.notify(ReservationsReleased)
	}
	e.vacate()
}

// clear is CLEAR (SPC-5 "Clearing").
func (e *edit) clear() {
	e.notify(ReservationsPreempted)
	e.next.Registrants, e.owned = nil, true
	e.vacate()
}

// preempt is PREEMPT and PREEMPT AND ABORT (SPC-5 "Preempting persistent
// reservations and registration handling"). Which registrations go, and
// whether the reservation does, hangs on the key named:
//
//	reservation            key named        removed              reservation
//	all registrants        zero             all but the sender   taken
//	all registrants        any other        those with the key   stays while a registrant does
//	other, or none         zero             refused
//	other                  the holder's     those but the sender taken
//	other, or none         any other        those with the key   stays
func (e *edit) preempt(c *Command) {
	all := e.next.Type.AllRegistrants()
	if c.NewKey == 0 && !all {
		e.fail(StatusInvalidParameter)
		return
	}
	take := c.NewKey == 0 || e.next.Type != TypeNone && !all && e.next.HolderKey() == c.NewKey
	if take && !c.Type.Valid() { // TYPE is ignored when nothing is taken
		e.fail(StatusInvalidCommand)
		return
	}

	var removed []Identity
	e.drop(func(r Registrant) bool {
		if c.NewKey != 0 && r.Key != c.NewKey || take && r.ID == c.From {
			return false
		}
		removed = append(removed, r.ID)
		return true
	})
	if len(removed) == 0 && !take {
		e.fail(StatusConflict) // nobody has that key
		return
	}
	for _, id := range removed {
		if id == c.From {
			continue
		}
		e.result.Events = append(e.result.Events, Event{To: id, Notice: RegistrationsPreempted})
		if c.Op == OpPreemptAndAbort {
			e.result.Aborts = append(e.result.Aborts, id)
		}
	}
	if take {
		if e.next.Type != c.Type {
			e.notify(ReservationsReleased)
		}
		e.take(c.Type)
	} else if len(e.next.Registrants) == 0 {
		e.vacate()
	}
}
