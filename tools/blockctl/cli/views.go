package cli

import (
	"fmt"
	"strings"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// The structs below are what -o json and yaml print. Names are only ever added.

type mappingView struct {
	Volume string `json:"volume"`
	Host   string `json:"host"`
	LUN    uint32 `json:"lun"`
}

func mappingViews(list []*blockdv1.Mapping) []mappingView {
	out := make([]mappingView, 0, len(list))
	for _, m := range list {
		out = append(out, mappingView{m.GetVolume(), m.GetHost(), m.GetLun()})
	}
	return out
}

type volumeView struct {
	Name       string        `json:"name"`
	ID         string        `json:"id"`
	SizeBytes  int64         `json:"size_bytes"`
	UsedBytes  int64         `json:"used_bytes"`
	BlockSize  int32         `json:"block_size"`
	IQN        string        `json:"iqn"`
	LUN        uint32        `json:"lun"`
	NQN        string        `json:"nqn"`
	NSID       uint32        `json:"nsid"`
	UUID       string        `json:"uuid"`
	Pool       string        `json:"pool"`
	State      string        `json:"state"`
	Reason     string        `json:"reason,omitempty"`
	Created    string        `json:"created"`
	Mappings   []mappingView `json:"mappings"`
	Protection string        `json:"protection"`
	Access     string        `json:"access"`
}

func viewVolume(v *blockdv1.Volume) volumeView {
	return volumeView{v.GetName(), v.GetId(), v.GetSizeBytes(), v.GetUsedBytes(), v.GetBlockSize(), v.GetIqn(), v.GetLun(),
		v.GetNqn(), v.GetNsid(), v.GetUuid(), v.GetPool(), v.GetState(), v.GetReason(), v.GetCreated(), mappingViews(v.GetMappings()),
		v.GetProtection(), v.GetAccess()}
}

func hostsOf(list []mappingView) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%s:%d", m.Host, m.LUN))
	}
	return strings.Join(out, ",")
}

func volumeTable(list []volumeView) rows {
	t := rows{{"NAME", "STATE", "SIZE", "USED", "BLOCK", "LUN", "POOL", "MAPPED TO"}}
	for _, v := range list {
		t = append(t, []string{v.Name, v.State, units.FormatBytes(v.SizeBytes), units.FormatBytes(v.UsedBytes),
			fmt.Sprint(v.BlockSize), fmt.Sprint(v.LUN), v.Pool, hostsOf(v.Mappings)})
	}
	return t
}

func volumeDetail(v volumeView) rows {
	t := rows{{"name", v.Name}, {"id", v.ID}, {"state", v.State}}
	if v.Reason != "" {
		t = append(t, []string{"reason", v.Reason})
	}
	return append(t, []string{"size", units.FormatBytes(v.SizeBytes)}, []string{"used", units.FormatBytes(v.UsedBytes)},
		[]string{"block size", fmt.Sprint(v.BlockSize)}, []string{"pool", v.Pool},
		[]string{"protection", v.Protection}, []string{"access", v.Access}, []string{"iqn", v.IQN},
		[]string{"lun", fmt.Sprint(v.LUN)}, []string{"nqn", v.NQN}, []string{"nsid", fmt.Sprint(v.NSID)},
		[]string{"uuid", v.UUID}, []string{"mapped to", hostsOf(v.Mappings)}, []string{"created", v.Created})
}

type poolView struct {
	Name             string `json:"name"`
	ID               string `json:"id"`
	Media            string `json:"media"`
	Replicas         uint32 `json:"replicas"`
	Volumes          uint32 `json:"volumes"`
	ProvisionedBytes int64  `json:"provisioned_bytes"`
	UsedBytes        int64  `json:"used_bytes"`
	CapacityBytes    int64  `json:"capacity_bytes"`
	Created          string `json:"created"`
}

func viewPool(p *blockdv1.Pool) poolView {
	return poolView{p.GetName(), p.GetId(), p.GetMedia(), p.GetReplicas(), p.GetVolumes(), p.GetProvisionedBytes(),
		p.GetUsedBytes(), p.GetCapacityBytes(), p.GetCreated()}
}

// capacity is empty for a pool that has none of its own.
func capacity(n int64) string {
	if n == 0 {
		return ""
	}
	return units.FormatBytes(n)
}

func poolTable(list []poolView) rows {
	t := rows{{"NAME", "MEDIA", "REPLICAS", "VOLUMES", "PROVISIONED", "USED", "CAPACITY"}}
	for _, p := range list {
		t = append(t, []string{p.Name, p.Media, fmt.Sprint(p.Replicas), fmt.Sprint(p.Volumes),
			units.FormatBytes(p.ProvisionedBytes), units.FormatBytes(p.UsedBytes), capacity(p.CapacityBytes)})
	}
	return t
}

type hostView struct {
	Name           string        `json:"name"`
	ID             string        `json:"id"`
	IQN            string        `json:"iqn"`
	NQN            string        `json:"nqn"`
	ChapUser       string        `json:"chap_user"`
	MutualChapUser string        `json:"mutual_chap_user"`
	Sessions       uint32        `json:"sessions"`
	Created        string        `json:"created"`
	Mappings       []mappingView `json:"mappings"`
	DHChap         string        `json:"dhchap"` // no, yes or mutual
}

func viewHost(h *blockdv1.Host) hostView {
	return hostView{h.GetName(), h.GetId(), h.GetIqn(), h.GetNqn(), h.GetChapUser(), h.GetMutualChapUser(), h.GetSessions(),
		h.GetCreated(), mappingViews(h.GetMappings()), dhchapOf(h)}
}

func dhchapOf(h *blockdv1.Host) string {
	switch {
	case h.GetDhchapController():
		return "mutual"
	case h.GetDhchap():
		return "yes"
	}
	return "no"
}

func (h hostView) chap() string {
	switch {
	case h.MutualChapUser != "":
		return "mutual"
	case h.ChapUser != "":
		return "yes"
	}
	return "no"
}

func volumesOf(list []mappingView) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%s:%d", m.Volume, m.LUN))
	}
	return strings.Join(out, ",")
}

func hostTable(list []hostView) rows {
	t := rows{{"NAME", "IQN", "NQN", "CHAP", "SESSIONS", "VOLUMES"}}
	for _, h := range list {
		t = append(t, []string{h.Name, h.IQN, h.NQN, h.chap(), fmt.Sprint(h.Sessions), volumesOf(h.Mappings)})
	}
	return t
}

func hostDetail(h hostView) rows {
	return rows{{"name", h.Name}, {"id", h.ID}, {"iqn", h.IQN}, {"nqn", h.NQN}, {"chap user", h.ChapUser},
		{"mutual chap user", h.MutualChapUser}, {"dhchap", h.DHChap}, {"sessions", fmt.Sprint(h.Sessions)}, {"volumes", volumesOf(h.Mappings)},
		{"created", h.Created}}
}

type nodeView struct {
	Name         string   `json:"name"`
	ClusterID    string   `json:"cluster_id"`
	State        string   `json:"state"`
	Roles        []string `json:"roles"`
	Version      string   `json:"version"`
	Started      string   `json:"started"`
	ISCSIPortals []string `json:"iscsi_portals"`
	API          string   `json:"api"`
	IQN          string   `json:"iqn"`
	NQN          string   `json:"nqn"`
	Media        string   `json:"media"`
}

func viewNode(n *blockdv1.Node) nodeView {
	v := nodeView{n.GetName(), n.GetId(), n.GetState(), n.GetRoles(), n.GetVersion(), n.GetStarted(), n.GetIscsiPortals(),
		n.GetApiAddress(), n.GetIqn(), n.GetNqn(), n.GetMedia()}
	if v.ISCSIPortals == nil {
		v.ISCSIPortals = []string{}
	}
	return v
}

type scrubView struct {
	Running      bool   `json:"running"`
	Bytes        int64  `json:"bytes"`
	Errors       uint64 `json:"errors"`
	Rounds       uint64 `json:"rounds"`
	LastFinished string `json:"last_finished"`
	LastError    string `json:"last_error"`
}

type diskView struct {
	Name               string    `json:"name"`
	Path               string    `json:"path"`
	UUID               string    `json:"uuid"`
	State              string    `json:"state"`
	Reason             string    `json:"reason,omitempty"`
	Driver             string    `json:"driver"`
	Direct             bool      `json:"direct"`
	DriverReason       string    `json:"driver_reason,omitempty"`
	CapacityBytes      int64     `json:"capacity_bytes"`
	UsedBytes          int64     `json:"used_bytes"`
	LogBytes           int64     `json:"log_bytes"`
	LogUsedBytes       int64     `json:"log_used_bytes"`
	WriteAmplification float64   `json:"write_amplification"`
	Checkpoints        uint64    `json:"checkpoints"`
	Scrub              scrubView `json:"scrub"`
}

func viewDisk(d *blockdv1.Disk) diskView {
	s := d.GetScrub()
	return diskView{d.GetName(), d.GetPath(), d.GetUuid(), d.GetState(), d.GetReason(), d.GetDriver(), d.GetDirect(),
		d.GetDriverReason(), d.GetCapacityBytes(), d.GetUsedBytes(), d.GetLogBytes(), d.GetLogUsedBytes(),
		d.GetWriteAmplification(), d.GetCheckpoints(),
		scrubView{s.GetRunning(), s.GetBytes(), s.GetErrors(), s.GetRounds(), s.GetLastFinished(), s.GetLastError()}}
}

type sessionView struct {
	ID         string            `json:"id"`
	Protocol   string            `json:"protocol"`
	Initiator  string            `json:"initiator"`
	Host       string            `json:"host"`
	Remote     string            `json:"remote"`
	Local      string            `json:"local"`
	Since      string            `json:"since"`
	InFlight   uint32            `json:"in_flight"`
	Parameters map[string]string `json:"parameters"`
}

type eventView struct {
	Sequence uint64 `json:"sequence"`
	Time     string `json:"time"`
	Level    string `json:"level"`
	Kind     string `json:"kind"`
	Subject  string `json:"subject"`
	Message  string `json:"message"`
}

type auditView struct {
	Revision uint64 `json:"revision"`
	Time     string `json:"time"`
	Actor    string `json:"actor"`
	Action   string `json:"action"`
	Subject  string `json:"subject"`
	Detail   string `json:"detail"`
}

type findingView struct {
	Level   string `json:"level"`
	Subject string `json:"subject"`
	Message string `json:"message"`
	Advice  string `json:"advice,omitempty"`
}
