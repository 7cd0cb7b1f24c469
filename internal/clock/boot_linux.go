package clock

import "golang.org/x/sys/unix"

// Boot reads CLOCK_BOOTTIME, which also counts the time that the machine was
// suspended: what was promised until then is over when it wakes up.
type Boot struct{}

// Now returns the time since the machine started.
func (Boot) Now() Mono {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock: CLOCK_BOOTTIME: " + err.Error()) // there since Linux 2.6.39
	}
	return Mono(ts.Nano())
}
