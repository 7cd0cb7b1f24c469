package scsi

import (
	"encoding/binary"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/target/identity"
)

// copyCommands are EXTENDED COPY and its results (SPC-4 §6.4, §6.19 to §6.22),
// in their one-byte list identifier forms, for copies between units that the
// host sees through the same nexus.
var copyCommands = []command{
	{name: "EXTENDED COPY (LID1)", cdb: "83 00 00 00 00 00 00 00 00 00 ff ff ff ff 00 00", access: accessWrite, flags: flagMedium,
		prepare: prepareCopy, execute: extendedCopy},
	{name: "RECEIVE COPY STATUS (LID1)", cdb: "84 00 ff 00 00 00 00 00 00 00 ff ff ff ff 00 00", access: accessStatus,
		prepare: prepareCopyResult, execute: copyStatus},
	{name: "RECEIVE COPY OPERATING PARAMETERS", cdb: "84 03 00 00 00 00 00 00 00 00 ff ff ff ff 00 00", ignored: "00 00 ff 00 00 00 00 00 00 00 00 00 00 00 00 00", access: accessStatus,
		prepare: func(t *Task) sense { return t.wantIn(be32(t.state.cdb[10:])) }, execute: copyParameters},
	{name: "RECEIVE COPY FAILURE DETAILS (LID1)", cdb: "84 04 ff 00 00 00 00 00 00 00 ff ff ff ff 00 00", access: accessStatus,
		prepare: prepareCopyResult, execute: copyFailure},
}

// What RECEIVE COPY OPERATING PARAMETERS says and EXTENDED COPY enforces.
const (
	copyTargetsMax     = 16
	copySegmentsMax    = 64
	copyTargetBytes    = 32
	copySegmentBytes   = 28
	copyDescriptorsMax = copyTargetsMax*copyTargetBytes + copySegmentsMax*copySegmentBytes
	copySegmentMax     = 256 << 20 // bytes per segment
	copyHeaderBytes    = 16

	copyTypeBlockToBlock   = 0x02
	copyTypeIdentification = 0xe4
)

// copyResult is what is held about one list identifier.
type copyResult struct {
	inProgress bool
	failed     bool
	segments   uint16
	bytes      uint64
	sense      sense
}

// copyResults are the results of one I_T_L nexus by list identifier.
type copyResults struct {
	mu   sync.Mutex
	byID map[byte]*copyResult
}

// begin notes that a copy starts; false when one with this id is under way.
func (c *copyResults) begin(id byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.byID[id]; r != nil && r.inProgress {
		return false
	}
	if c.byID == nil {
		c.byID = make(map[byte]*copyResult)
	}
	c.byID[id] = &copyResult{inProgress: true}
	return true
}

func (c *copyResults) set(id byte, r *copyResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r == nil {
		delete(c.byID, id)
		return
	}
	c.byID[id] = r
}

func (c *copyResults) get(id byte) (copyResult, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.byID[id]
	if r == nil {
		return copyResult{}, false
	}
	return *r, true
}

// copyJob is an EXTENDED COPY under way.
type copyJob struct {
	itl      *itl
	listID   byte
	hold     bool // keep the result
	tracked  bool // listID is in itl.copies
	segments []copySegment
	at       int    // segment
	within   int64  // bytes of it that are done
	bytes    uint64 // of all
}

type copySegment struct {
	from, to       *LU
	fromOff, toOff int64
	length         int64
	problem        sense // found when the list was read, reported when it is its turn
}

func prepareCopy(t *Task) sense {
	return t.wantOut(be32(t.state.cdb[10:]), copyHeaderBytes+copyDescriptorsMax+0xffff)
}

func extendedCopy(t *Task) {
	if t.Length == 0 {
		t.good()
		return
	}
	p := t.parameters()
	if len(p) < t.Length || len(p) < copyHeaderBytes {
		t.fail(illegal(ascParameterListLength))
		return
	}
	job, s := parseCopy(t, p)
	if !s.ok() {
		t.fail(s)
		return
	}
	if job.tracked && !t.state.itl.copies.begin(job.listID) {
		t.fail(illegal(ascOperationInProgress))
		return
	}
	w := &work{t: t, copy: job}
	if !t.state.nexus.target.deps.Arena.GetSG(chunkMax, &w.buf) {
		if job.tracked {
			t.state.itl.copies.set(job.listID, nil)
		}
		t.failStatus(StatusBusy)
		return
	}
	t.state.work = w
	w.run(copyStep)
}

// parseCopy reads the parameter list (SPC-4 §6.4.3): header, target
// descriptors, segment descriptors.
func parseCopy(t *Task, p []byte) (*copyJob, sense) {
	targets, segments := int(be16(p[2:])), int(be32(p[8:]))
	inline := be32(p[12:])
	usage := p[1] >> 3 & 3
	switch {
	case usage == 1, p[1]&0xc0 != 0:
		return nil, badParam(1)
	case usage == 3 && p[0] != 0:
		return nil, badParam(0)
	case segments > copyDescriptorsMax || targets+segments > copyDescriptorsMax:
		return nil, illegal(ascParameterListLength)
	case inline != 0:
		return nil, illegal(ascInlineDataTooLong)
	case copyHeaderBytes+targets+segments > len(p):
		return nil, illegal(ascParameterListLength)
	case targets%copyTargetBytes != 0:
		return nil, badParam(2)
	case targets/copyTargetBytes > copyTargetsMax:
		return nil, illegal(ascTooManyTargetDescriptors)
	}
	var units []*LU
	for at := copyHeaderBytes; at < copyHeaderBytes+targets; at += copyTargetBytes {
		lu, s := copyTarget(t.state.nexus, p[at:at+copyTargetBytes], at)
		if !s.ok() {
			return nil, s
		}
		units = append(units, lu)
	}
	job := &copyJob{itl: t.state.itl, listID: p[0], hold: usage == 0, tracked: usage != 3}
	first := copyHeaderBytes + targets
	list := p[first : first+segments]
	for at := 0; at < len(list); {
		if len(list)-at < 4 {
			return nil, illegal(ascParameterListLength)
		}
		d := list[at:]
		if d[0] != copyTypeBlockToBlock {
			return nil, illegal(ascUnsupportedSegmentDesc)
		}
		if len(d) < copySegmentBytes {
			return nil, illegal(ascParameterListLength)
		}
		if be16(d[2:]) != copySegmentBytes-4 {
			return nil, badParam(first + at + 2)
		}
		if len(job.segments) == copySegmentsMax {
			return nil, illegal(ascTooManySegments)
		}
		job.segments = append(job.segments, blockSegment(t.state.nexus, d[:copySegmentBytes], units))
		at += copySegmentBytes
	}
	return job, sense{}
}

// copyTarget finds the unit of an identification descriptor among those the
// nexus sees; nil when it is none of them.
func copyTarget(n *Nexus, d []byte, at int) (*LU, sense) {
	if d[0] != copyTypeIdentification {
		return nil, illegal(ascUnsupportedTargetDesc)
	}
	if d[1]&0x1f != deviceTypeDisk {
		return nil, badParam(at + 1)
	}
	length := int(d[7])
	if length > 20 {
		return nil, badParam(at + 7)
	}
	name := string(d[8 : 8+length])
	for _, i := range n.itls() {
		naa, uuid := identity.NAA(i.lu.id), identity.UUID(i.lu.id)
		var match bool
		switch d[5] & 0x3f {
		case assocUnit | designatorNAA:
			match = name == string(naa[:])
		case assocUnit | designatorUUID:
			match = name == "\x10\x00"+string(uuid[:])
		}
		if !match {
			continue
		}
		if be24(d[29:]) != uint32(i.lu.blockSize()) {
			return nil, badParam(at + 29)
		}
		return i.lu, sense{}
	}
	return nil, sense{}
}

// copyAborted is COPY ABORTED for segment number i.
func copyAborted(asc additional, i int) sense {
	return sense{key: keyCopyAborted, asc: asc, cmdInfo: uint64(i)}
}

// blockSegment reads a block device to block device segment (SPC-4 §6.4.6.3).
// Problems of a segment show when the copy reaches it.
func blockSegment(n *Nexus, d []byte, units []*LU) copySegment {
	src, dst := int(be16(d[4:])), int(be16(d[6:]))
	if src >= len(units) || dst >= len(units) {
		return copySegment{problem: copyAborted(ascCopyTargetUnreachable, 0)}
	}
	from, to := units[src], units[dst]
	if from == nil || to == nil {
		return copySegment{problem: copyAborted(ascUnreachableCopyTarget, 0)}
	}
	counted := from
	if d[1]&0x02 != 0 { // DC: the number counts blocks of the destination
		counted = to
	}
	s := copySegment{from: from, to: to, length: int64(be16(d[10:])) << counted.shift}
	fromLBA, toLBA := be64(d[12:]), be64(d[20:])
	fits := func(lu *LU, lba uint64) bool {
		capacity := lu.blocks()
		return s.length&int64(lu.blockSize()-1) == 0 && lba <= capacity && uint64(s.length)>>lu.shift <= capacity-lba
	}
	if !fits(from, fromLBA) || !fits(to, toLBA) {
		s.problem = copyAborted(ascNone, 0)
		return s
	}
	s.fromOff, s.toOff = int64(fromLBA<<from.shift), int64(toLBA<<to.shift)
	if bad := to.writable(); !bad.ok() || n.readySense(from) || n.readySense(to) || from.conflict(n, accessRead) || to.conflict(n, accessWrite) {
		s.problem = copyAborted(ascThirdPartyFailure, 0)
	}
	return s
}

// readySense reports whether the unit can't access its medium.
func (n *Nexus) readySense(lu *LU) bool { s := n.ready(lu); return !s.ok() }

// copyStep reads the next piece.
func copyStep(w *work) {
	job := w.copy
	if w.t.state.aborted.Load() {
		job.end(w, copyAborted(ascNone, job.at))
		return
	}
	for job.at < len(job.segments) && job.segments[job.at].problem.ok() && job.within == job.segments[job.at].length {
		job.at++
		job.within = 0
	}
	if job.at == len(job.segments) {
		job.end(w, sense{})
		return
	}
	s := &job.segments[job.at]
	if !s.problem.ok() {
		s.problem.cmdInfo = uint64(job.at)
		job.end(w, s.problem)
		return
	}
	if s.from.conflict(w.t.state.nexus, accessRead) {
		job.end(w, copyAborted(ascThirdPartyFailure, job.at))
		return
	}
	w.n = min(chunkMax, s.length-job.within)
	w.dev = s.from.device
	w.submitAny(blockdev.OpRead, s.fromOff+job.within, w.n, w.piece(w.n), copyWrite)
}

func copyWrite(w *work) {
	job := w.copy
	if w.err != nil {
		job.deviceFailed(w, job.segments[job.at].from)
		return
	}
	s := &job.segments[job.at]
	// A reservation may have come since the segment was read; a copy that is
	// long under way must not go on writing to a unit that its host is fenced
	// from.
	if s.to.conflict(w.t.state.nexus, accessWrite) {
		job.end(w, copyAborted(ascThirdPartyFailure, job.at))
		return
	}
	w.dev = s.to.device
	w.t.state.req.FUA = !s.to.mode.writeCache()
	w.submitAny(blockdev.OpWrite, s.toOff+job.within, w.n, w.piece(w.n), copyWritten)
}

func copyWritten(w *work) {
	job := w.copy
	if w.err != nil {
		job.deviceFailed(w, job.segments[job.at].to)
		return
	}
	job.within += w.n
	job.bytes += uint64(w.n)
	copyStep(w)
}

func (job *copyJob) deviceFailed(w *work, lu *LU) {
	lu.target.event(Event{Kind: EventDeviceError, Unit: lu.id, Text: "EXTENDED COPY: " + w.err.Error()})
	job.end(w, copyAborted(ascThirdPartyFailure, job.at))
}

// end notes the result, where it is to be held, and ends the task.
func (job *copyJob) end(w *work, s sense) {
	if job.tracked {
		var r *copyResult
		if job.hold {
			r = &copyResult{failed: !s.ok(), segments: uint16(job.at), bytes: job.bytes, sense: s}
		}
		job.itl.copies.set(job.listID, r)
	}
	if s.ok() {
		w.good()
		return
	}
	w.fail(s)
}

func prepareCopyResult(t *Task) sense {
	if _, ok := t.state.itl.copies.get(t.state.cdb[2]); !ok {
		return badCDBByte(2)
	}
	return t.wantIn(be32(t.state.cdb[10:]))
}

func copyStatus(t *Task) {
	r, _ := t.state.itl.copies.get(t.state.cdb[2])
	b := make([]byte, 12)
	binary.BigEndian.PutUint32(b, 8)
	switch {
	case r.inProgress:
	case r.failed:
		b[4] = 2
	default:
		b[4] = 1
	}
	binary.BigEndian.PutUint16(b[5:], r.segments)
	count, unit := r.bytes, byte(0)
	for count > 0xffffffff {
		count, unit = count>>10, unit+1 // KiB, MiB, ...
	}
	b[7] = unit
	binary.BigEndian.PutUint32(b[8:], uint32(count))
	t.reply(b)
}

func copyFailure(t *Task) {
	r, _ := t.state.itl.copies.get(t.state.cdb[2])
	if !r.failed {
		t.reply(make([]byte, 4)) // AVAILABLE DATA 0: nothing failed
		return
	}
	b := make([]byte, 60, 60+SenseMax)
	b[56] = byte(StatusCheckCondition)
	var sb [SenseMax]byte
	n := r.sense.encode(sb[:], t.state.itl.lu.mode.descriptorSense())
	binary.BigEndian.PutUint16(b[58:], uint16(n))
	b = append(b, sb[:n]...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.reply(b)
}

// copyParameters is SPC-4 §6.21.
func copyParameters(t *Task) {
	types := []byte{copyTypeBlockToBlock, copyTypeIdentification}
	b := make([]byte, 44, 44+len(types))
	b[4] = 0x01 // SNLID: list identifier usage 11b is supported
	binary.BigEndian.PutUint16(b[8:], copyTargetsMax)
	binary.BigEndian.PutUint16(b[10:], copySegmentsMax)
	binary.BigEndian.PutUint32(b[12:], copyDescriptorsMax)
	binary.BigEndian.PutUint32(b[16:], copySegmentMax)
	binary.BigEndian.PutUint16(b[34:], 0xff)
	b[36] = 0xff // concurrent copies: bounded by list identifiers
	b[37] = 9    // DATA SEGMENT GRANULARITY: 512 bytes
	b[43] = byte(len(types))
	b = append(b, types...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.reply(b)
}
