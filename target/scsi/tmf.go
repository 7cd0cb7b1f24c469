package scsi

// TaskManagement performs a task management function for this nexus. lun is
// the LUN field, big-endian as in Task. ref is the task that TMFAbortTask
// names: it must not have been Reset; nil means the transport knows of none.
// done is called exactly once, from any goroutine and possibly before
// TaskManagement returns, after every task that was aborted while it ran has
// had its Done. Tasks that the transport had prepared and not executed are
// dropped at once and end silently, without effect, in Execute.
func (n *Nexus) TaskManagement(fn TMF, lun uint64, ref *Task, done func(TMFResult)) {
	switch fn {
	case TMFTargetWarmReset:
		n.resetTarget(uaBusReset, done)
		return
	case TMFTargetColdReset:
		n.resetTarget(uaPowerOn, done)
		return
	case TMFAbortTask, TMFAbortTaskSet, TMFClearTaskSet, TMFLUNReset:
	case TMFClearACA:
		done(TMFNotSupported) // NORMACA is 0 in the standard INQUIRY data
		return
	default:
		done(TMFNotSupported)
		return
	}
	number, wellKnown, ok := parseLUN(lun)
	var i *itl
	if ok && !wellKnown {
		i = n.view.Load().at(number)
	}
	if i == nil {
		done(TMFLUNDoesNotExist)
		return
	}
	w := newAbortWait(func() { done(TMFComplete) })
	switch fn {
	case TMFAbortTask:
		if ref == nil || i.set.abort(func(t *Task) bool { return t == ref }, abortSilent, w) == 0 {
			done(TMFTaskDoesNotExist)
			return
		}
	case TMFAbortTaskSet, TMFClearTaskSet:
		// The task sets are per nexus (TST=001b), so both name the same tasks.
		i.set.abort(nil, abortSilent, w)
	case TMFLUNReset:
		i.lu.reset(n, uaDeviceReset, w)
	}
	w.release()
}

// resetTarget resets every unit that the nexus sees: a host has no say over
// the units of others.
func (n *Nexus) resetTarget(ua attention, done func(TMFResult)) {
	w := newAbortWait(func() { done(TMFComplete) })
	reset := make(map[*LU]bool)
	for _, i := range n.itls() {
		if !reset[i.lu] {
			reset[i.lu] = true
			i.lu.reset(n, ua, w)
		}
	}
	w.release()
}
