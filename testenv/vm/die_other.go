//go:build !linux

package vm

import "syscall"

// dieWithParent is left to the context where the kernel has no such thing.
func dieWithParent() *syscall.SysProcAttr { return nil }
