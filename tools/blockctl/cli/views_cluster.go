package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

type nodeView struct {
	Name               string      `json:"name"`
	ClusterID          string      `json:"cluster_id"`
	State              string      `json:"state"`
	Roles              []string    `json:"roles"`
	Version            string      `json:"version"`
	Started            string      `json:"started"`
	ISCSIPortals       []string    `json:"iscsi_portals"`
	API                string      `json:"api"`
	IQN                string      `json:"iqn"`
	NQN                string      `json:"nqn"`
	Media              string      `json:"media"`
	CertificateExpires string      `json:"certificate_expires,omitempty"`
	Member             *memberView `json:"member,omitempty"`
}

func viewNode(n *blockdv1.Node) nodeView {
	v := nodeView{Name: n.GetName(), ClusterID: n.GetId(), State: n.GetState(), Roles: n.GetRoles(), Version: n.GetVersion(), Started: n.GetStarted(),
		ISCSIPortals: n.GetIscsiPortals(), API: n.GetApiAddress(), IQN: n.GetIqn(), NQN: n.GetNqn(), Media: n.GetMedia(), CertificateExpires: n.GetCertificateExpires()}
	if v.ISCSIPortals == nil {
		v.ISCSIPortals = []string{}
	}
	return v
}

// member is what the cluster knows of n, nothing if that is not much.
func (n nodeView) member() memberView {
	if n.Member == nil {
		return memberView{}
	}
	return *n.Member
}

// state is what the node says of itself, and beside it what the cluster says
// where it is not the same good news.
func (n nodeView) state() string {
	m := n.member()
	if m.State != "" && m.State != "up" && m.State != n.State {
		return m.State
	}
	if m.Service != "" && m.Service != "active" {
		return m.Service
	}
	return n.State
}

var nodeColumns = []column[nodeView]{
	{"NAME", func(n nodeView) string { return n.Name }, plain},
	{"STATE", nodeView.state, plain},
	{"RAFT", func(n nodeView) string { return n.member().raft() }, plain},
	{"ROLES", func(n nodeView) string { return strings.Join(n.Roles, ",") }, plain},
	{"API", func(n nodeView) string { return n.API }, plain},
	{"VERSION", func(n nodeView) string { return n.Version }, plain},
	{"LABELS", func(n nodeView) string { return labelsText(n.member().Labels) }, plain},
	{"ISCSI", func(n nodeView) string { return strings.Join(n.ISCSIPortals, ",") }, wide},
	{"STARTED", func(n nodeView) string { return shortTime(n.Started) }, wide},
	{"ID", func(n nodeView) string { return n.member().ID }, wide},
	{"LAST HEARD", func(n nodeView) string { return shortTime(n.member().LastHeard) }, wide},
	{"CERTIFICATE EXPIRES", func(n nodeView) string { return shortTime(n.CertificateExpires) }, wide},
	{"REASON", func(n nodeView) string { return n.member().Reason }, wide},
}

func nodeDetail(n nodeView) rows {
	t := rows{{"name", n.Name}, {"state", n.state()}, {"roles", strings.Join(n.Roles, ",")}, {"version", n.Version}, {"started", n.Started},
		{"api", n.API}, {"iscsi portals", strings.Join(n.ISCSIPortals, ",")}, {"iqn", n.IQN}, {"nqn", n.NQN}, {"media", n.Media}}
	if n.CertificateExpires != "" {
		t = append(t, []string{"certificate expires", n.CertificateExpires})
	}
	if n.Member == nil {
		return t
	}
	return append(t, memberDetail(*n.Member)[2:]...)
}

type memberView struct {
	Name         string            `json:"name"`
	ID           string            `json:"id"`
	API          string            `json:"api"`
	Suffrage     string            `json:"suffrage"`
	Leader       bool              `json:"leader"`
	State        string            `json:"state"`
	Reason       string            `json:"reason,omitempty"`
	Labels       map[string]string `json:"labels"`
	Roles        []string          `json:"roles"`
	Version      string            `json:"version"`
	LastHeard    string            `json:"last_heard"`
	AppliedIndex uint64            `json:"applied_index"`
	VolumesOwned uint32            `json:"volumes_owned"`
	Service      string            `json:"service"`
}

func viewMember(m *blockdv1.Member) memberView {
	v := memberView{m.GetName(), m.GetId(), m.GetAddress(), m.GetSuffrage(), m.GetLeader(), m.GetState(), m.GetReason(), m.GetLabels(),
		m.GetRoles(), m.GetVersion(), m.GetLastHeard(), m.GetAppliedIndex(), m.GetVolumesOwned(), m.GetService()}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	if v.Roles == nil {
		v.Roles = []string{}
	}
	return v
}

// raft is what the member does in the Raft group.
func (m memberView) raft() string {
	if m.Leader {
		return "leader"
	}
	return m.Suffrage
}

var memberColumns = []column[memberView]{
	{"NODE", func(m memberView) string { return m.Name }, plain},
	{"STATE", func(m memberView) string { return m.State }, plain},
	{"RAFT", memberView.raft, plain},
	{"API", func(m memberView) string { return m.API }, plain},
	{"APPLIED", func(m memberView) string { return fmt.Sprint(m.AppliedIndex) }, fixed},
	{"LABELS", func(m memberView) string { return labelsText(m.Labels) }, plain},
	{"REASON", func(m memberView) string { return m.Reason }, text},
	{"VERSION", func(m memberView) string { return m.Version }, wide},
	{"ID", func(m memberView) string { return m.ID }, wide},
	{"LAST HEARD", func(m memberView) string { return shortTime(m.LastHeard) }, wide},
}

// memberDetail begins with the name and the state.
func memberDetail(m memberView) rows {
	t := rows{{"name", m.Name}, {"state", m.State}, {"raft", m.raft()}, {"id", m.ID}, {"member at", m.API}, {"labels", labelsText(m.Labels)},
		{"last heard", m.LastHeard}, {"applied", fmt.Sprint(m.AppliedIndex)}}
	if m.Service != "" && m.Service != "active" {
		t = append(t, []string{"service", m.Service})
	}
	if m.Reason != "" {
		t = append(t, []string{"reason", m.Reason})
	}
	return t
}

type clusterView struct {
	Name                   string       `json:"name"`
	ID                     string       `json:"id"`
	State                  string       `json:"state"`
	Reason                 string       `json:"reason,omitempty"`
	Leader                 string       `json:"leader"`
	Term                   uint64       `json:"term"`
	Revision               uint64       `json:"revision"`
	FormatVersion          uint32       `json:"format_version"`
	FormatVersionSupported uint32       `json:"format_version_supported"`
	Incarnation            uint32       `json:"incarnation"`
	Members                []memberView `json:"members"`
}

func viewCluster(c *blockdv1.Cluster) clusterView {
	return clusterView{c.GetName(), c.GetId(), c.GetState(), c.GetReason(), c.GetLeader(), c.GetTerm(), c.GetRevision(),
		c.GetFormatVersion(), c.GetFormatVersionSupported(), c.GetIncarnation(), views(c.GetMembers(), viewMember)}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
