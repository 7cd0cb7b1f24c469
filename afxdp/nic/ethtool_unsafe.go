package nic

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flagRXVLAN is ETH_FLAG_RXVLAN of linux/ethtool.h: tags are taken off frames.
const flagRXVLAN = 1 << 8

// ethtoolSocket is what the ioctls go through; any socket does.
func ethtoolSocket() (int, error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}

func closeSocket(fd int) { unix.Close(fd) }

// ifreq is struct ifreq of linux/if.h with a pointer in its union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// ethtool runs one command, whose structure p points to and begins with its
// number.
func ethtool(fd int, name string, p unsafe.Pointer) syscall.Errno {
	if len(name) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	ifr := ifreq{data: p}
	copy(ifr.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(p)
	return errno
}

func driver(fd int, name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// channels is how many receive queues are in use, 0 when the driver doesn't tell.
func channels(fd int, name string) int {
	var c struct { // struct ethtool_channels
		cmd                                         uint32
		maxRX, maxTX, maxOther, maxCombined         uint32
		rxCount, txCount, otherCount, combinedCount uint32
	}
	c.cmd = unix.ETHTOOL_GCHANNELS
	if ethtool(fd, name, unsafe.Pointer(&c)) != 0 {
		return 0
	}
	return int(c.rxCount + c.combinedCount)
}

// flags are the old feature flags, which all kernels have.
func flags(fd int, name string) uint32 {
	v := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GFLAGS} // struct ethtool_value
	if ethtool(fd, name, unsafe.Pointer(&v)) != 0 {
		return 0
	}
	return v.data
}

// indirection is the RSS table: which queue each bucket of the hash goes to.
func indirection(fd int, name string) []uint32 {
	const entriesMax = 1 << 16
	// struct ethtool_rxfh_indir: command, size, entries. A size of 0 asks for it.
	size := [2]uint32{unix.ETHTOOL_GRXFHINDIR, 0}
	if ethtool(fd, name, unsafe.Pointer(&size)) != 0 || size[1] == 0 || size[1] > entriesMax {
		return nil
	}
	table := make([]uint32, 2+size[1])
	table[0], table[1] = unix.ETHTOOL_GRXFHINDIR, size[1]
	if ethtool(fd, name, unsafe.Pointer(&table[0])) != 0 {
		return nil
	}
	return table[2:]
}
