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

func viewMapping(m *blockdv1.Mapping) mappingView {
	return mappingView{m.GetVolume(), m.GetHost(), m.GetLun()}
}

func mappingViews(list []*blockdv1.Mapping) []mappingView { return views(list, viewMapping) }

var mappingColumns = []column[mappingView]{
	{"VOLUME", func(m mappingView) string { return m.Volume }, plain},
	{"HOST", func(m mappingView) string { return m.Host }, plain},
	{"LUN", func(m mappingView) string { return fmt.Sprint(m.LUN) }, fixed},
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
	Node       string        `json:"node"`
	Epoch      uint64        `json:"epoch"`
	MovingTo   string        `json:"moving_to,omitempty"`
	Replicas   []replicaView `json:"replicas"`
	Limits     limitsView    `json:"limits"`
	Unsure     int64         `json:"unsure_bytes,omitempty"`
}

type replicaView struct {
	Disk   string `json:"disk"`
	Number uint32 `json:"number"`
	Node   string `json:"node"`
	State  string `json:"state"`
	// While it is brought back.
	Resync *resyncView `json:"resync,omitempty"`
	// Since its machine went down.
	Unproven    bool   `json:"unproven,omitempty"`
	Awaited     bool   `json:"awaited,omitempty"`
	LostRegions int64  `json:"lost_regions,omitempty"`
	LostWrites  uint64 `json:"lost_writes,omitempty"`
	// Of a slow or full disk.
	Obstacle *obstacleView `json:"obstacle,omitempty"`
}

type obstacleView struct {
	What     string  `json:"what"`
	Now      bool    `json:"now"`
	Times    uint64  `json:"times"`
	Since    string  `json:"since"`
	TookMS   float64 `json:"took_ms,omitempty"`
	OthersMS float64 `json:"others_ms,omitempty"`
	Again    string  `json:"again,omitempty"`
}

type resyncView struct {
	Since        string `json:"since"`
	RegionsTotal int64  `json:"regions_total"`
	RegionsLeft  int64  `json:"regions_left"`
	BytesTotal   int64  `json:"bytes_total"`
	BytesLeft    int64  `json:"bytes_left"`
	BytesPerSec  int64  `json:"bytes_per_second"`
	EstimatedEnd string `json:"estimated_end"`
}

func viewReplica(r *blockdv1.Replica) replicaView {
	v := replicaView{r.GetDisk(), r.GetNumber(), r.GetNode(), r.GetState(), nil, r.GetUnproven(), r.GetAwaited(), r.GetLostRegions(), r.GetLostWrites(), nil}
	if x := r.GetResync(); x != nil {
		v.Resync = &resyncView{x.GetSince(), x.GetRegionsTotal(), x.GetRegionsLeft(), x.GetBytesTotal(), x.GetBytesLeft(), x.GetBytesPerSecond(), x.GetEstimatedEnd()}
	}
	if b := r.GetObstacle(); b != nil {
		v.Obstacle = &obstacleView{b.GetWhat(), b.GetNow(), b.GetTimes(), b.GetSince(), b.GetTookMs(), b.GetOthersMs(), b.GetAgain()}
	}
	return v
}

// String is what there is to say of it while it is so.
func (b *obstacleView) String() string {
	text := b.What
	switch b.What {
	case "slow":
		text += fmt.Sprintf(": hosts' writes took %s there", stageMillis(b.TookMS))
		if b.OthersMS > 0 {
			text += fmt.Sprintf(", %s at most elsewhere", stageMillis(b.OthersMS))
		}
	case "hung", "silent":
		text += fmt.Sprintf(": no answer for %s", stageMillis(b.TookMS))
	case "full":
		text += ": no space for what it is to have"
	}
	text += ", since " + shortTime(b.Since)
	if b.Again != "" {
		text += ", tried again at " + shortTime(b.Again)
	}
	return text
}

// doubt is what there is to say of a copy whose machine went down, or "".
func (r *replicaView) doubt() string {
	var words []string
	if r.Unproven {
		words = append(words, "is unproven: its machine went down, and it is yet to be held against other copies")
	}
	if r.Awaited {
		words = append(words, "is awaited: others may have lost what it can tell")
	}
	if r.LostRegions > 0 {
		words = append(words, fmt.Sprintf("had lost %d regions that it had said to be durable", r.LostRegions))
	}
	if r.LostWrites > 0 {
		words = append(words, fmt.Sprintf("came back without about %d writes that it had said to be durable", r.LostWrites))
	}
	return strings.Join(words, "; it ")
}

func (r *resyncView) String() string {
	text := fmt.Sprintf("%s of %s are left", units.FormatBytes(r.BytesLeft), units.FormatBytes(r.BytesTotal))
	if r.BytesPerSec > 0 {
		text += fmt.Sprintf(", at %s/s", units.FormatBytes(r.BytesPerSec))
	}
	if r.EstimatedEnd != "" {
		text += ", until about " + shortTime(r.EstimatedEnd)
	}
	return text
}

// inSync is how many copies are good, of how many.
func (v volumeView) inSync() string {
	good := 0
	for _, r := range v.Replicas {
		if r.State == "in-sync" {
			good++
		}
	}
	if len(v.Replicas) == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", good, len(v.Replicas))
}

func viewVolume(v *blockdv1.Volume) volumeView {
	return volumeView{v.GetName(), v.GetId(), v.GetSizeBytes(), v.GetUsedBytes(), v.GetBlockSize(), v.GetIqn(), v.GetLun(),
		v.GetNqn(), v.GetNsid(), v.GetUuid(), v.GetPool(), v.GetState(), v.GetReason(), v.GetCreated(), mappingViews(v.GetMappings()),
		v.GetProtection(), v.GetAccess(), v.GetNode(), v.GetEpoch(), v.GetMovingTo(), views(v.GetReplicas(), viewReplica), viewLimits(v.GetLimits()), v.GetUnsureBytes()}
}

func hostsOf(list []mappingView) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%s:%d", m.Host, m.LUN))
	}
	return strings.Join(out, ",")
}

var volumeColumns = []column[volumeView]{
	{"NAME", func(v volumeView) string { return v.Name }, plain},
	{"STATE", func(v volumeView) string { return v.State }, plain},
	{"SIZE", func(v volumeView) string { return units.FormatBytes(v.SizeBytes) }, fixed},
	{"USED", func(v volumeView) string { return units.FormatBytes(v.UsedBytes) }, fixed},
	{"BLOCK", func(v volumeView) string { return fmt.Sprint(v.BlockSize) }, fixed},
	{"LUN", func(v volumeView) string { return fmt.Sprint(v.LUN) }, fixed},
	{"POOL", func(v volumeView) string { return v.Pool }, plain},
	{"MAPPED TO", func(v volumeView) string { return hostsOf(v.Mappings) }, plain},
	{"NSID", func(v volumeView) string { return fmt.Sprint(v.NSID) }, wide},
	{"NODE", func(v volumeView) string { return v.Node }, wide},
	{"IN SYNC", volumeView.inSync, wide},
	{"EPOCH", func(v volumeView) string { return fmt.Sprint(v.Epoch) }, wide},
	{"PROTECTION", func(v volumeView) string { return v.Protection }, wide},
	{"LIMITS", func(v volumeView) string { return v.Limits.String() }, wide},
	{"ACCESS", func(v volumeView) string { return v.Access }, wide},
	{"UUID", func(v volumeView) string { return v.UUID }, wide},
	{"CREATED", func(v volumeView) string { return shortTime(v.Created) }, wide},
	{"REASON", func(v volumeView) string { return v.Reason }, wide},
}

func volumeDetail(v volumeView) rows {
	t := rows{{"name", v.Name}, {"id", v.ID}, {"state", v.State}}
	if v.Reason != "" {
		t = append(t, []string{"reason", v.Reason})
	}
	if v.Node != "" {
		t = append(t, []string{"node", v.Node})
	}
	if v.Epoch > 0 {
		t = append(t, []string{"epoch", fmt.Sprint(v.Epoch)})
	}
	if v.MovingTo != "" {
		t = append(t, []string{"moving to", v.MovingTo})
	}
	for _, r := range v.Replicas {
		t = append(t, []string{"copy", fmt.Sprintf("%s on node %s, disk %d (%s)", r.State, r.Node, r.Number, r.Disk)})
		if r.Resync != nil {
			t = append(t, []string{"resync", fmt.Sprintf("of disk %d: %v", r.Number, r.Resync)})
		}
		if r.Obstacle != nil && r.Obstacle.Now {
			t = append(t, []string{"obstacle", fmt.Sprintf("disk %d is %v", r.Number, r.Obstacle)})
		}
		if doubt := r.doubt(); doubt != "" {
			t = append(t, []string{"doubt", fmt.Sprintf("disk %d %s", r.Number, doubt)})
		}
	}
	return append(t, []string{"size", units.FormatBytes(v.SizeBytes)}, []string{"used", units.FormatBytes(v.UsedBytes)},
		[]string{"block size", fmt.Sprint(v.BlockSize)}, []string{"pool", v.Pool},
		[]string{"limits", v.Limits.String()}, []string{"protection", v.Protection}, []string{"access", v.Access}, []string{"iqn", v.IQN},
		[]string{"lun", fmt.Sprint(v.LUN)}, []string{"nqn", v.NQN}, []string{"nsid", fmt.Sprint(v.NSID)},
		[]string{"uuid", v.UUID}, []string{"mapped to", hostsOf(v.Mappings)}, []string{"created", v.Created})
}

type poolView struct {
	Name             string `json:"name"`
	ID               string `json:"id"`
	Media            string `json:"media"`
	Replicas         uint32 `json:"replicas"`
	MinInSync        uint32 `json:"min_in_sync"`
	Volumes          uint32 `json:"volumes"`
	ProvisionedBytes int64  `json:"provisioned_bytes"`
	UsedBytes        int64  `json:"used_bytes"`
	CapacityBytes    int64  `json:"capacity_bytes"`
	Created          string `json:"created"`
	Domain           string `json:"domain"`
}

func viewPool(p *blockdv1.Pool) poolView {
	return poolView{p.GetName(), p.GetId(), p.GetMedia(), p.GetReplicas(), p.GetMinInSync(), p.GetVolumes(), p.GetProvisionedBytes(),
		p.GetUsedBytes(), p.GetCapacityBytes(), p.GetCreated(), p.GetDomain()}
}

// capacity is empty for a pool that has none of its own.
func capacity(n int64) string {
	if n == 0 {
		return ""
	}
	return units.FormatBytes(n)
}

var poolColumns = []column[poolView]{
	{"NAME", func(p poolView) string { return p.Name }, plain},
	{"MEDIA", func(p poolView) string { return p.Media }, plain},
	{"REPLICAS", func(p poolView) string { return fmt.Sprint(p.Replicas) }, fixed},
	{"VOLUMES", func(p poolView) string { return fmt.Sprint(p.Volumes) }, fixed},
	{"PROVISIONED", func(p poolView) string { return units.FormatBytes(p.ProvisionedBytes) }, fixed},
	{"USED", func(p poolView) string { return units.FormatBytes(p.UsedBytes) }, fixed},
	{"CAPACITY", func(p poolView) string { return capacity(p.CapacityBytes) }, fixed},
	{"DOMAIN", func(p poolView) string { return p.Domain }, wide},
	{"MIN IN SYNC", func(p poolView) string { return fmt.Sprint(p.MinInSync) }, wide},
	{"ID", func(p poolView) string { return p.ID }, wide},
	{"CREATED", func(p poolView) string { return shortTime(p.Created) }, wide},
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

var hostColumns = []column[hostView]{
	{"NAME", func(h hostView) string { return h.Name }, plain},
	{"IQN", func(h hostView) string { return h.IQN }, plain},
	{"NQN", func(h hostView) string { return h.NQN }, plain},
	{"CHAP", hostView.chap, plain},
	{"SESSIONS", func(h hostView) string { return fmt.Sprint(h.Sessions) }, fixed},
	{"VOLUMES", func(h hostView) string { return volumesOf(h.Mappings) }, plain},
	{"DHCHAP", func(h hostView) string { return h.DHChap }, wide},
	{"ID", func(h hostView) string { return h.ID }, wide},
	{"CREATED", func(h hostView) string { return shortTime(h.Created) }, wide},
}

func hostDetail(h hostView) rows {
	return rows{{"name", h.Name}, {"id", h.ID}, {"iqn", h.IQN}, {"nqn", h.NQN}, {"chap user", h.ChapUser},
		{"mutual chap user", h.MutualChapUser}, {"dhchap", h.DHChap}, {"sessions", fmt.Sprint(h.Sessions)}, {"volumes", volumesOf(h.Mappings)},
		{"created", h.Created}}
}
