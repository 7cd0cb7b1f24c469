// Package nvmehost is an NVMe/TCP host in the process: it connects to a
// subsystem with an admin queue and any number of I/O queues, and shows a
// namespace as a blockdev.Device, so that whatever drives a device can drive a
// target through its wire. It is for tests and load generators: a connection
// that fails stays failed and every request ends with blockdev.ErrGone.
//
// Each queue has one goroutine, its reader. Requests are encoded by whoever
// submits them, a batch goes out in one writev, and Done is called by the
// reader. Three more goroutines per Host answer asynchronous events, keep the
// association alive, and end it when the controller falls silent.
//
// In steady state a read or write of at most the controller's transfer limit
// does not allocate.
package nvmehost
