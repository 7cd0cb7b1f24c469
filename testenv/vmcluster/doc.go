// Package vmcluster lets the Linux kernel's own initiators, in a VM, use a volume
// of three copies by all nodes of a real cluster: NVMe/TCP with native multipath,
// iSCSI with dm-multipath. Nodes are killed and restarted under a load that is
// verified. QEMU runs at the cluster's place for initiators, so that the guest
// reaches the nodes by their own addresses. Where the clock of nodes is set they run in the
// guest themselves. The tests have the build tag e2e; make test and make vm-cluster run them.
package vmcluster
