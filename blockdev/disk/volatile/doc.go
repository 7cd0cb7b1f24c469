// Package volatile puts a write cache in front of any disk.Disk that ends with the
// process: kill -9 is then what a power cut is to a disk with a volatile cache.
// What was written and not synced is lost, but for single sectors that had
// reached the disk already.
package volatile
