// Package uring is the kernel's io_uring by raw system calls: set-up, the two
// rings in shared memory, and the few operations that a disk needs. It knows
// nothing of disks and starts no goroutines.
//
// Two rings are shared with the kernel. We write SQEs and advance the
// submission tail; the kernel advances its head as Enter consumes them. The
// kernel writes CQEs and advances the completion tail; we advance its head as
// Reap takes them. All four indexes are free-running uint32 and are masked to
// index. Next, Publish and the submitting side of Enter are for one goroutine
// at a time; Reap and Ready for one goroutine at a time, which may be another;
// Enter itself may run on several threads at once.
//
// Requests finish in the context of the thread that submitted them (io_uring
// task work), so that the flags that need one submitting thread
// (SINGLE_ISSUER, DEFER_TASKRUN) are not used: goroutines move between threads.
// For the same reason COOP_TASKRUN is not: it would leave completions waiting
// for a thread that sits in user code.
//
// The layout is that of linux/io_uring.h; the manual pages io_uring_setup(2),
// io_uring_enter(2) and io_uring_register(2) define the behaviour.
package uring
