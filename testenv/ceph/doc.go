// Package ceph runs a small Ceph cluster on this machine, as a peer for
// benchmarks: a monitor, OSDs with BlueStore on files, and a pool with RBD
// images, which fio loads by librbd.
//
// All of it is below one directory and listens on the loopback only; its
// processes are children of the caller and end with Down. It needs no root, and
// touches neither /etc/ceph nor a Ceph that the machine may run.
//
// What is left out for the benefit of Ceph's figures: the manager, which no I/O
// needs and which takes processor time; authentication; and librbd's cache,
// which acknowledges writes before any OSD has them (with it, what is measured at
// depth 1 is the client's memory).
//
// A goroutine per process waits for its end.
package ceph
