package scsi

// A target that can't serve a unit while another may, since it is cut off from that, has BUSY for what
// hosts ask for. Linux sends a command that was answered so again by the same path, whatever other paths there
// are. So hosts that have one are sent there: what they ask for ends like what comes by a path that was
// withdrawn (withdraw.go), which is for the path what a failure is.
//
// Unlike there the path stays up for those who look after it: TEST UNIT READY and REPORT TARGET PORT
// GROUPS say what they say otherwise. A host takes the path up again at its next look, and is sent away again if it
// uses it; so it has its paths in the right order when the unit is served again or the others prove
// dead. multipathd does not ask a path that is down for its priority: with the one that it
// had before, the optimized path's, the path came back into use beside the next owner's in the middle of a cut,
// and what went by it stayed there.

// Divert sends initiators away from the units that match names with them: commands that read or write are
// refused, until Readmit, those among them that the device has not begun and would hold back for longer.
// One that the device begins to hold back later needs another call. It returns how many units were not
// diverted before: a unit once for each session.
func (t *Target) Divert(match func(initiator string, unit UnitID) bool) (count int) {
	for _, i := range t.itls() {
		if !match(i.nexus.id.InitiatorName, i.lu.id) {
			continue
		}
		if !i.diverted.Swap(true) {
			count++
		}
		i.set.takeBack()
	}
	return count
}

// Readmit has all initiators served again.
func (t *Target) Readmit() {
	for _, i := range t.itls() {
		i.diverted.Store(false)
	}
}

// itls are all I_T_L nexuses of this moment.
func (t *Target) itls() (out []*itl) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.mu.nexuses {
		out = append(out, n.itls()...)
	}
	return out
}

// refuses reports whether the initiator has to take another path for commands of class a.
func (i *itl) refuses(a accessClass) bool {
	return i.withdrawn.Load() || i.diverted.Load() && (a == accessRead || a == accessWrite)
}
