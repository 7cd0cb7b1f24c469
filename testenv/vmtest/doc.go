// Package vmtest lets the Linux kernel's own iSCSI and NVMe/TCP initiators, in a VM, judge
// bin/blockd: each script of scripts/ is one test. The tests have the build tag
// e2e; make test and make vm run them.
package vmtest
