// Package nvme is the NVMe command set: an NVM subsystem with its
// namespaces, the discovery subsystem beside it, and the controllers and
// queues through which hosts use them (NVMe Base 2.0, NVM Command Set 1.0).
// It knows no transport: package nvmetcp feeds it submission queue entries and
// sends what it answers.
//
// The life of an association, by who calls what:
//
//	transport                          this package
//	Subsystem.Connect(qid 0)    ->     a Controller and its admin Queue
//	Subsystem.Connect(qid n)    ->     an I/O Queue of that controller
//	Queue.Prepare(c)            ->     decodes; says how much data moves
//	  (moves the host's data)
//	Queue.Execute(c)            ->     c.Done, once, from any goroutine
//	Queue.Disconnect()          ->     the queue is gone; with qid 0 all are
//	                            <-     Closed: drop this connection
//	Subsystem.Tick(now)         ->     keep-alive
//
// Locks. Subsystem.mu guards who is there: namespaces, controllers. A
// Controller's mu guards its features, events and queues. A Queue's mu guards
// the list of its commands. They are taken in this order, and none is held
// while Done, Closed or a device is called. The I/O path takes only its own
// queue's, twice.
//
// The package starts a goroutine only for commands that may wait for storage
// by a blocking call (reservations, write protection), and to tell a host that
// another preempted it and to end its commands. A read or write of a device
// that does nothing takes some 0.2 us and allocates nothing (BenchmarkRead4K).
//
// Invariants:
//
//  1. Every command that Prepare accepted ends by exactly one Done or Cancel.
//  2. A command is in its queue's list from Prepare until right before Done,
//     so that PREEMPT AND ABORT finds whatever was allowed before it.
//  3. What Identify and the log pages advertise is made from the tables that
//     dispatch commands, features and log pages.
//  4. No status that may pass by itself carries Do Not Retry.
package nvme
