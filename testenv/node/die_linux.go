package node

import "syscall"

// dieWithParent has the kernel stop blockd when this process dies, even by
// SIGKILL, so that no test leaves one behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
