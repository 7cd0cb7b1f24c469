package scsi

import (
	"errors"

	"blockd.dev/blockdev"
)

// deviceSense says what a failed request means to a host; busy asks for BUSY
// status instead.
func (lu *LU) deviceSense(err error, writing bool) (s sense, busy bool) {
	var e *blockdev.Error
	var offset uint64
	hasOffset := errors.As(err, &e) && e.Offset >= 0
	if hasOffset {
		offset = uint64(e.Offset)
	}
	switch {
	case errors.Is(err, blockdev.ErrBusy):
		return sense{}, true
	case errors.Is(err, blockdev.ErrMedium):
		s = sense{key: keyMediumError, asc: ascUnreadable}
		if writing {
			// No INFORMATION: Linux takes the blocks before it as written, and a
			// device promises nothing about the rest of a write that failed.
			s.asc = ascWriteError
		} else if hasOffset {
			s = s.withInfo(offset >> lu.shift)
		}
	case errors.Is(err, blockdev.ErrNoSpace):
		s = sense{key: keyDataProtect, asc: ascSpaceAllocationFailed}
	case errors.Is(err, blockdev.ErrReadOnly):
		s = sense{key: keyDataProtect, asc: ascWriteProtected}
	case errors.Is(err, blockdev.ErrOutOfRange):
		s = illegal(ascLBAOutOfRange) // the device shrank under the command
	case errors.Is(err, blockdev.ErrFenced):
		s = sense{key: keyNotReady, asc: ascStandby}
	case errors.Is(err, blockdev.ErrGone):
		s = sense{key: keyNotReady, asc: ascManualIntervention}
	default:
		s = sense{key: keyHardwareError, asc: ascInternalFailure}
	}
	return s, false
}

// failIO ends t with what err of its device means.
func (t *Task) failIO(err error) {
	st := &t.state
	lu := st.itl.lu
	if errors.Is(err, blockdev.ErrMiscompare) {
		s := sense{key: keyMiscompare, asc: ascMiscompareVerify}
		var e *blockdev.Error
		if errors.As(err, &e) {
			// The device counts from its start, SBC-4 from the start of the
			// Data-Out buffer.
			s = s.withInfo(uint64(max(e.Offset-st.offset, 0)))
		}
		t.fail(s)
		return
	}
	s, busy := lu.deviceSense(err, st.req.Op != blockdev.OpRead)
	switch {
	case busy && st.itl.refuses(st.cmd.accessOf(&st.cdb)):
		t.fail(st.itl.refuse())
		return
	case busy:
		t.failStatus(StatusBusy)
		return
	}
	poisoned := errors.Is(err, blockdev.ErrPoisoned) // a host asked for that
	if !poisoned && s.key == keyMediumError || s.key == keyHardwareError {
		lu.target.event(Event{Kind: EventDeviceError, Unit: lu.id, Nexus: st.nexus.id, Text: err.Error()})
	}
	t.fail(s)
}

func isMiscompare(err error) bool { return errors.Is(err, blockdev.ErrMiscompare) }
