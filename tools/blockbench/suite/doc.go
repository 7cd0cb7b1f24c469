// Package suite measures blockd beside its peers in one run: the store
// against fio on a file of the same disk, the iSCSI target against tgt by
// clients that belong to neither. Machines differ and are noisy, so what
// counts is the ratio; rounds of blockd and of the peer alternate, and the
// ratio is that of their medians.
package suite
