// Package vm runs a script in a virtual machine, so that a real kernel's
// initiators can be pointed at a target on this host.
//
// The machine boots a Debian cloud kernel, which is downloaded and unpacked
// but never installed, with an initial RAM filesystem built from the programs
// installed here: busybox, open-iscsi, nvme-cli, multipath-tools, fio,
// e2fsprogs, xfsprogs, sg3-utils, util-linux, udev and kmod. It has no disk.
// QEMU emulates the processor (TCG): that is slow, a few thousand I/Os per
// second, and works wherever QEMU does.
//
// The guest reaches this host's 127.0.0.1 under two addresses: 10.0.2.2 (and
// 10.0.3.2, 10.0.4.2 ... by its further network cards), and 127.0.0.1 itself,
// since the guest routes 127.0.0.0/8 to its host. So a portal address that the
// target reports in discovery works as reported. ::1 is fec0::2.
//
// Inside, the command `host WORDS...` sends the words to Config.OnCall and
// waits for its answer; that is how a script has the target killed, resized or
// configured at the right moment.
//
// A run fails when the script does, when it takes too long, and when the
// guest's kernel complained on its console (BUG, WARNING, hung task, panic).
//
// Run starts goroutines to pump the machine's three byte streams (console,
// script output, control) and one that waits for QEMU; all have ended when Run
// returns, and so has QEMU.
package vm
