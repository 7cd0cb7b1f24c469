package cli

import (
	"fmt"
	"strings"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

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
	Node               string    `json:"node"`
	Service            string    `json:"service"`
	Extents            uint32    `json:"extents"`
}

func viewDisk(d *blockdv1.Disk) diskView {
	s := d.GetScrub()
	return diskView{d.GetName(), d.GetPath(), d.GetUuid(), d.GetState(), d.GetReason(), d.GetDriver(), d.GetDirect(),
		d.GetDriverReason(), d.GetCapacityBytes(), d.GetUsedBytes(), d.GetLogBytes(), d.GetLogUsedBytes(),
		d.GetWriteAmplification(), d.GetCheckpoints(),
		scrubView{s.GetRunning(), s.GetBytes(), s.GetErrors(), s.GetRounds(), s.GetLastFinished(), s.GetLastError()}, d.GetNode(), d.GetService(), d.GetExtents()}
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
	Source   string `json:"source"`            // where the actor was
	Refused  string `json:"refused,omitempty"` // why nothing was changed
}

type findingView struct {
	Level   string `json:"level"`
	Subject string `json:"subject"`
	Message string `json:"message"`
	Advice  string `json:"advice,omitempty"`
}

// state is what the disk does, and where it does well, what an administrator wants of it.
func (d diskView) state() string {
	if d.State == "online" && d.Service != "" && d.Service != "active" {
		return d.Service
	}
	return d.State
}

var diskColumns = []column[diskView]{
	{"NAME", func(d diskView) string { return d.Name }, plain},
	{"PATH", func(d diskView) string { return d.Path }, plain},
	{"STATE", diskView.state, plain},
	{"DRIVER", func(d diskView) string { return d.Driver }, plain},
	{"EXTENTS", func(d diskView) string { return fmt.Sprint(d.Extents) }, wide},
	{"USED", func(d diskView) string { return units.FormatBytes(d.UsedBytes) }, fixed},
	{"CAPACITY", func(d diskView) string { return units.FormatBytes(d.CapacityBytes) }, fixed},
	{"WRITE AMP", func(d diskView) string { return fmt.Sprintf("%.2f", d.WriteAmplification) }, wide},
	{"LAST SCRUB", func(d diskView) string { return shortTime(d.Scrub.LastFinished) }, fixed},
	{"UUID", func(d diskView) string { return d.UUID }, wide},
	{"SCRUB ERRORS", func(d diskView) string { return fmt.Sprint(d.Scrub.Errors) }, wide},
	{"REASON", func(d diskView) string { return d.Reason }, wide},
}

func viewSession(s *blockdv1.Session) sessionView {
	return sessionView{s.GetId(), s.GetProtocol(), s.GetInitiator(), s.GetHost(), s.GetRemoteAddress(), s.GetLocalAddress(),
		s.GetSince(), s.GetCommands(), s.GetParameters()}
}

var sessionColumns = []column[sessionView]{
	{"ID", func(s sessionView) string { return s.ID }, plain},
	{"PROTOCOL", func(s sessionView) string { return s.Protocol }, plain},
	{"INITIATOR", func(s sessionView) string { return s.Initiator }, plain},
	{"HOST", func(s sessionView) string { return s.Host }, plain},
	{"REMOTE", func(s sessionView) string { return s.Remote }, plain},
	{"LOCAL", func(s sessionView) string { return s.Local }, wide},
	{"SINCE", func(s sessionView) string { return shortTime(s.Since) }, fixed},
	{"COMMANDS", func(s sessionView) string { return fmt.Sprint(s.InFlight) }, wide},
}

func viewEvent(e *blockdv1.Event) eventView {
	return eventView{e.GetSequence(), e.GetTime(), e.GetLevel(), e.GetKind(), e.GetSubject(), e.GetMessage()}
}

var eventColumns = []column[eventView]{
	{"TIME", func(e eventView) string { return shortTime(e.Time) }, fixed},
	{"LEVEL", func(e eventView) string { return e.Level }, plain},
	{"KIND", func(e eventView) string { return e.Kind }, plain},
	{"SUBJECT", func(e eventView) string { return e.Subject }, plain},
	{"MESSAGE", func(e eventView) string { return e.Message }, text},
	{"SEQUENCE", func(e eventView) string { return fmt.Sprint(e.Sequence) }, wide},
}

func viewAudit(e *blockdv1.AuditEntry) auditView {
	return auditView{e.GetRevision(), e.GetTime(), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(), e.GetSource(), e.GetRefused()}
}

// detail says first that nothing was changed, where that is so.
func (e auditView) detail() string {
	if e.Refused == "" {
		return e.Detail
	}
	return strings.TrimSpace("refused: " + e.Refused + " " + e.Detail)
}

var auditColumns = []column[auditView]{
	{"REVISION", func(e auditView) string { return fmt.Sprint(e.Revision) }, fixed},
	{"TIME", func(e auditView) string { return shortTime(e.Time) }, fixed},
	{"ACTOR", func(e auditView) string { return e.Actor }, plain},
	{"ACTION", func(e auditView) string { return e.Action }, plain},
	{"SUBJECT", func(e auditView) string { return e.Subject }, plain},
	{"DETAIL", auditView.detail, text},
	{"SOURCE", func(e auditView) string { return e.Source }, wide},
}

func viewFinding(f *blockdv1.Finding) findingView {
	return findingView{f.GetLevel(), f.GetSubject(), f.GetMessage(), f.GetAdvice()}
}

var findingColumns = []column[findingView]{
	{"LEVEL", func(f findingView) string { return f.Level }, plain},
	{"PART", func(f findingView) string { return f.Subject }, plain},
	{"FINDING", func(f findingView) string { return f.Message }, text},
	{"ADVICE", func(f findingView) string { return f.Advice }, text},
}
