//go:build !linux

package node

import "syscall"

// dieWithParent is left to the context where the kernel has no such thing.
func dieWithParent() *syscall.SysProcAttr { return nil }
