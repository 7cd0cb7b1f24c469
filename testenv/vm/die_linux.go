package vm

import "syscall"

// dieWithParent has the kernel stop QEMU when this process dies, even by
// SIGKILL, so that no run leaves a machine behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
