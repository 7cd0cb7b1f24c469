// Package kernels runs the tests of the packages that depend on the kernel's
// networking (bpf, bpf/fault, afxdp) under the kernels that Debian
// ships, in virtual machines: the oldest that users are likely to have, and a
// newer one. Their own `go test` only sees the kernel it happens to run on.
//
// It has only tests, behind the tag e2e.
package kernels
