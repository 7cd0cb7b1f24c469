package cluster

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SetClock sets the clocks of nodes that run, so far ahead of the machine's, or behind it, by whole seconds. Only
// the wall clock is set, as date(1) does it; that which measures times goes on. A node that is started has the
// machine's clock.
//
// The kernel has one wall clock for all. A process reads it by a function that the kernel maps into
// it (vdso(7)), which is replaced by one that adds something.
func (c *Cluster) SetClock(ahead time.Duration, names ...string) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("cluster: clocks can be set on amd64 only, and this is %s", runtime.GOARCH)
	}
	return c.eachNode(names, func(p *Place) error {
		if err := p.Process.setClock(ahead); err != nil {
			return fmt.Errorf("cluster: the clock of %s: %w", p.Name, err)
		}
		return nil
	})
}

// shiftedClock is clock_gettime(edi, rsi), where the seconds of the wall clock (0) are shifted by the number that
// follows it.
var shiftedClock = []byte{
	0xb8, 0xe4, 0, 0, 0, //          mov eax, 228 (clock_gettime)
	0x0f, 0x05, //                   syscall
	0x85, 0xff, //                   test edi, edi
	0x75, 0x0a, //                   jne ret
	0x48, 0x8b, 0x0d, 6, 0, 0, 0, // mov rcx, [rip+6]
	0x48, 0x01, 0x0e, //             add [rsi], rcx
	0xc3,       //                   ret
	0x90, 0x90, //                   the number is aligned: it is read and written as one
}

// setClock changes the number, and before that, for the first time, the function.
func (p Process) setClock(ahead time.Duration) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = mem.Close() }() // it writes at once
	at, err := clockFunction(p.PID, mem)
	if err != nil {
		return err
	}
	number := binary.LittleEndian.AppendUint64(nil, uint64(int64(ahead/time.Second)))
	now := make([]byte, len(shiftedClock))
	if _, err := mem.ReadAt(now, at); err != nil {
		return err
	}
	if bytes.Equal(now, shiftedClock) {
		_, err = mem.WriteAt(number, at+int64(len(shiftedClock)))
		return err
	}
	return p.patch(mem, at, slices.Concat(shiftedClock, number))
}

// clockFunction is where the process has clock_gettime.
func clockFunction(pid int, mem *os.File) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		image := make([]byte, to-from)
		if _, err := mem.ReadAt(image, from); err != nil {
			return 0, err
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := f.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(shiftedClock))+8 && s.Value%8 == 0 {
				return from + int64(s.Value), nil
			}
		}
	}
	return 0, errors.New("it does not read the clock by the function of vdso(7), or that is too short")
}

// patch replaces code of the process while none of its threads is in it.
func (p Process) patch(mem *os.File, at int64, code []byte) (err error) {
	for range 100 {
		if err := p.pause(); err != nil {
			return err
		}
		within, err := p.within(at, int64(len(code)))
		if err == nil && !within {
			_, err = mem.WriteAt(code, at)
		}
		err = errors.Join(err, p.signal(syscall.SIGCONT))
		if err != nil || !within {
			return err
		}
	}
	return errors.New("its threads look at the clock all the time")
}

// within tells whether a thread of the process, which is paused, is in a piece of code.
func (p Process) within(at, size int64) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", p.PID))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return false, err
		}
		fields := strings.Fields(string(text)) // the last is the program counter
		if len(fields) < 3 {
			return true, nil // "running": it has not stopped yet
		}
		pc, err := strconv.ParseInt(fields[len(fields)-1], 0, 64)
		if err != nil {
			return false, fmt.Errorf("%s: %w", thread, err)
		}
		if pc >= at && pc < at+size {
			return true, nil
		}
	}
	return false, nil
}
