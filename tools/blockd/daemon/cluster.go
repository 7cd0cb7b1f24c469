package daemon

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/group"
)

// silentAfter is how long the leader may not have heard a member that counts as up.
const silentAfter = 3 * time.Second

// cluster is the group of nodes as this one sees it.
func (d *Daemon) cluster() *blockdv1.Cluster {
	s, st := d.catalog.State(), d.plane.group.Stats()
	out := &blockdv1.Cluster{Name: s.Authority.ClusterName, Id: d.plane.self.Cluster, Leader: d.leaderName(), Term: st.Term, Revision: s.Revision,
		FormatVersion: st.Gate, FormatVersionSupported: catalog.CommandVersion, Incarnation: st.Incarnation}
	voters, up := 0, 0
	for i := range s.Nodes {
		m := d.member(&s.Nodes[i], &st)
		out.Members = append(out.Members, m)
		if m.Suffrage == "voter" {
			voters++
			if m.State == "up" {
				up++
			}
		}
	}
	out.State, out.Reason = d.clusterState(&st, voters, up)
	return out
}

// clusterState sums the members up.
func (d *Daemon) clusterState(st *group.Stats, voters, up int) (state, reason string) {
	_, leads := d.plane.group.Leads()
	switch {
	case st.Err != nil:
		return "stuck", fmt.Sprintf("node %s has stopped: %v", d.nodeName(), st.Err)
	case st.Leader.ID == "":
		return "stuck", "this node knows no leader: a majority of the voters must be up and reach each other"
	case leads && up < voters:
		return "degraded", fmt.Sprintf("%d of %d voters are up", up, voters)
	}
	return "healthy", ""
}

// member is a node with what the group knows of it.
func (d *Daemon) member(n *catalog.Node, st *group.Stats) *blockdv1.Member {
	id := n.ID.String()
	out := &blockdv1.Member{Name: n.Name, Id: id, Address: n.Address, Suffrage: "none", State: "joining", Labels: labelMap(n.Labels),
		Roles: n.Roles, Version: n.Release, Leader: st.Leader.ID == id, Service: string(n.State)}
	i := slices.IndexFunc(st.Members, func(m group.MemberStats) bool { return m.ID == id })
	if i < 0 {
		out.Reason = "it was let in, and has not become a member yet"
		return out
	}
	m := &st.Members[i]
	out.Address, out.Suffrage, out.AppliedIndex, out.LastHeard = m.Address, "nonvoter", m.Applied, timeText(m.Heard)
	if m.Voter {
		out.Suffrage = "voter"
	}
	_, leads := d.plane.group.Leads()
	switch {
	case id == st.Node:
		out.State, out.AppliedIndex = "up", st.Applied
	case !leads && out.Leader:
		out.State = "up"
	case !leads:
		out.State, out.Reason = "unknown", "only the leader knows; ask it: "+cmp.Or(d.leaderName(), "there is none now")
	case time.Since(m.Heard) < silentAfter:
		out.State = "up"
	case m.Heard.IsZero():
		out.State, out.Reason = "down", "it has not answered since this leader was elected"
	default:
		out.State, out.Reason = "down", fmt.Sprintf("silent for %v", time.Since(m.Heard).Round(time.Second))
	}
	return out
}

// leaderName is the leader's name, its id while the catalog does not know that,
// or "".
func (d *Daemon) leaderName() string {
	return d.nodeNamed(d.plane.group.Leader().ID)
}

// parseID reads a node's id as the group spells it; zero for nobody.
func parseID(text string) (id catalog.ID) {
	if b, err := hex.DecodeString(text); err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

func labelMap(list []catalog.Label) map[string]string {
	out := map[string]string{}
	for _, l := range list {
		out[l.Key] = l.Value
	}
	return out
}
