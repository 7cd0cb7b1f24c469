package vm

import (
	"fmt"
	"strings"
)

// File descriptors that QEMU inherits: the first of exec.Cmd.ExtraFiles is 3.
const (
	controlFD = 3
	outputFD  = 4
)

// qemuArgs is the command line of the guest.
//
// The processor is an old one by intent: QEMU 7.2 emulates CMPXCHG16B wrongly
// (guests crash after minutes of load, or corrupt their memory, which looks
// like the target's fault), so no model that has it will do. One thread, since
// thread=multi is no faster here and has crashed.
//
// With one processor, preempt=none matters: nvme_tcp's worker runs at the
// highest priority and spins while a submitter that it has preempted holds the
// queue's send mutex, for three quarters of the time that fio wrote with two jobs.
//
// On a busy host the kernel measures the rate of its processor's clock wrongly, by
// the PIT by a factor of 13 once, and time flies until every timeout fires. So
// there is no PIT, which leaves the better measure by the HPET, and nothing calls
// that clock reliable: the kernel compares it with the HPET and drops it.
func qemuArgs(c Config, k kernel, initrd string) []string {
	args := []string{
		"qemu-system-x86_64",
		"-machine", "q35,usb=off,vmport=off,pit=off", "-accel", "tcg,thread=single",
		"-cpu", "Nehalem,-cx16,+rdrand", "-smp", fmt.Sprint(c.Processors), "-m", fmt.Sprintf("%dM", c.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", k.image, "-initrd", initrd,
		"-append", strings.Join(append([]string{"console=ttyS0 panic=-1 oops=panic loglevel=6 net.ifnames=0 mitigations=off preempt=none random.trust_cpu=on"}, c.KernelArgs...), " "),
		"-serial", "stdio",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=control,fd=%d", controlFD),
		"-device", "virtserialport,chardev=control,name=control",
		"-chardev", fmt.Sprintf("socket,id=output,fd=%d", outputFD),
		"-device", "virtserialport,chardev=output,name=output",
	}
	for n := range c.Cards {
		var forwards strings.Builder
		if n == 0 {
			for _, f := range c.Forwards {
				fmt.Fprintf(&forwards, ",hostfwd=tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort)
			}
		}
		args = append(args,
			"-netdev", fmt.Sprintf("user,id=net%d,net=10.0.%d.0/24,ipv6-net=fec%d::/64%s", n, 2+n, n, forwards.String()),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,romfile=", n))
	}
	return args
}
