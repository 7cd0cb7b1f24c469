package control

import (
	"fmt"

	"connectrpc.com/connect"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/pki"
)

// Need is the least that a caller must be.
type Need uint8

// The needs, from the least to the most. Each caller may do what a lesser one
// may, but for NeedLocal, since an administrator elsewhere is not on this
// machine, and NeedNode.
const (
	NeedNothing  Need = iota + 1 // the request carries a credential of its own
	NeedViewer                   // looks; so may the other nodes
	NeedOperator                 // volumes, hosts, mappings, jobs, drains
	NeedAdmin                    // pools, nodes, tokens, certificates, backups
	NeedLocal                    // comes through the socket in the data directory
	NeedNode                     // another node, which speaks for itself; no person's certificate is one
)

// String says who is needed, in the words of an error message.
func (n Need) String() string {
	switch n {
	case NeedNothing:
		return "anybody"
	case NeedViewer:
		return "a viewer"
	case NeedOperator:
		return "an operator"
	case NeedAdmin:
		return "an administrator"
	case NeedLocal:
		return "somebody on the node's own machine, through control.sock in its data directory"
	case NeedNode:
		return "a node of the cluster"
	}
	return fmt.Sprintf("need %d", uint8(n))
}

// Needs has every method of the control API.
var Needs = map[string]Need{
	blockdv1connect.VolumeServiceCreateVolumeProcedure:    NeedOperator,
	blockdv1connect.VolumeServiceListVolumesProcedure:     NeedViewer,
	blockdv1connect.VolumeServiceGetVolumeProcedure:       NeedViewer,
	blockdv1connect.VolumeServiceResizeVolumeProcedure:    NeedOperator,
	blockdv1connect.VolumeServiceProtectVolumeProcedure:   NeedOperator,
	blockdv1connect.VolumeServiceSetVolumeLimitsProcedure: NeedOperator,
	blockdv1connect.VolumeServiceDeleteVolumeProcedure:    NeedOperator,
	blockdv1connect.VolumeServiceTrustVolumeProcedure:     NeedAdmin,

	blockdv1connect.VolumeServiceGetVolumeLatencyProcedure: NeedViewer,
	blockdv1connect.ExplainServiceExplainVolumeProcedure:   NeedViewer,

	blockdv1connect.LeaseServiceListLeasesProcedure: NeedViewer,
	blockdv1connect.LeaseServiceMoveLeaseProcedure:  NeedOperator,

	blockdv1connect.JobServiceListJobsProcedure:  NeedViewer,
	blockdv1connect.JobServiceGetJobProcedure:    NeedViewer,
	blockdv1connect.JobServicePauseJobProcedure:  NeedOperator,
	blockdv1connect.JobServiceResumeJobProcedure: NeedOperator,
	blockdv1connect.JobServiceCancelJobProcedure: NeedOperator,
	blockdv1connect.JobServiceRebalanceProcedure: NeedOperator,

	blockdv1connect.PoolServiceCreatePoolProcedure: NeedAdmin,
	blockdv1connect.PoolServiceListPoolsProcedure:  NeedViewer,
	blockdv1connect.PoolServiceGetPoolProcedure:    NeedViewer,

	blockdv1connect.HostServiceCreateHostProcedure: NeedOperator,
	blockdv1connect.HostServiceListHostsProcedure:  NeedViewer,
	blockdv1connect.HostServiceGetHostProcedure:    NeedViewer,
	blockdv1connect.HostServiceUpdateHostProcedure: NeedOperator,
	blockdv1connect.HostServiceDeleteHostProcedure: NeedOperator,

	blockdv1connect.MappingServiceMapVolumeProcedure:    NeedOperator,
	blockdv1connect.MappingServiceUnmapVolumeProcedure:  NeedOperator,
	blockdv1connect.MappingServiceListMappingsProcedure: NeedViewer,

	blockdv1connect.NodeServiceListNodesProcedure:    NeedViewer,
	blockdv1connect.NodeServiceListDisksProcedure:    NeedViewer,
	blockdv1connect.NodeServiceListSessionsProcedure: NeedViewer,
	blockdv1connect.NodeServiceDiagnoseProcedure:     NeedViewer,

	blockdv1connect.EventServiceWatchEventsProcedure: NeedViewer,
	blockdv1connect.EventServiceListAuditProcedure:   NeedViewer,

	blockdv1connect.ClusterServiceInitClusterProcedure:            NeedLocal,
	blockdv1connect.ClusterServiceGetClusterProcedure:             NeedViewer,
	blockdv1connect.ClusterServiceCreateJoinTokenProcedure:        NeedAdmin,
	blockdv1connect.ClusterServiceJoinClusterProcedure:            NeedLocal,
	blockdv1connect.ClusterServiceAdmitNodeProcedure:              NeedNothing,
	blockdv1connect.ClusterServiceIssueClientCertificateProcedure: NeedAdmin,
	blockdv1connect.ClusterServiceTransferLeadershipProcedure:     NeedAdmin,
	blockdv1connect.ClusterServiceBackupMetaProcedure:             NeedAdmin,

	blockdv1connect.MembershipServiceSetNodeLabelsProcedure: NeedAdmin,
	blockdv1connect.MembershipServiceRemoveNodeProcedure:    NeedAdmin,
	blockdv1connect.MembershipServiceDrainNodeProcedure:     NeedOperator,
	blockdv1connect.MembershipServiceResumeNodeProcedure:    NeedOperator,
	blockdv1connect.MembershipServiceDrainDiskProcedure:     NeedOperator,
	blockdv1connect.MembershipServiceResumeDiskProcedure:    NeedOperator,
	blockdv1connect.MembershipServiceRemoveDiskProcedure:    NeedAdmin,

	blockdv1connect.PulseServicePulseProcedure:             NeedNode,
	blockdv1connect.PeerServiceEnforceReservationProcedure: NeedNode,
	blockdv1connect.PeerServiceFindPathsProcedure:          NeedNode,
	blockdv1connect.PeerServiceTrustCopiesProcedure:        NeedNode,
}

// allows reports whether c is what n asks for.
func (n Need) allows(c Caller) bool {
	switch n {
	case NeedNothing:
		return true
	case NeedViewer:
		return c.Role >= pki.RoleViewer || c.Node != ""
	case NeedOperator:
		return c.Role >= pki.RoleOperator
	case NeedAdmin:
		return c.Role >= pki.RoleAdmin
	case NeedLocal:
		return c.Local
	case NeedNode:
		return c.Node != ""
	}
	return false
}

// check returns why c may not do what, or nil.
func (n Need) check(c Caller, what string) error {
	switch {
	case n == 0:
		return connect.NewError(connect.CodeUnimplemented, fmt.Errorf("%s is not known to this node; upgrade it", what))
	case n.allows(c):
		return nil
	case n == NeedLocal:
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s is for %v; use --api unix:DATA/control.sock there", what, n))
	case n == NeedNode:
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s is for %v, which calls it by itself", what, n))
	case c.Role == pki.RoleNone && c.Node == "":
		return connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("%s needs the certificate of %v, and none was shown; name yours with --cert", what, n))
	}
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s needs %v, and %s is %v; ask an administrator for a certificate with that role (blockctl cert issue)", what, n, c.Actor, c.Role))
}
