package scsi

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
)

const (
	tRead  = "28 00 00 00 00 00 00 00 01 00"
	tWrite = "2a 00 00 00 00 00 00 00 01 00"
	tTUR   = "00 00 00 00 00 00"
)

// hang makes requests of the kind wait for release.
func (b *bed) hang(op string) {
	b.tb.Helper()
	if _, err := b.faults.AddText(op + " hang"); err != nil {
		b.tb.Fatal(err)
	}
}

func (b *bed) release() {
	b.faults.Clear()
	b.faults.Resume()
}

func (b *bed) simple(n *Nexus, cdb string) *call {
	return b.start(n, 0, AttrSimple, fromHex(cdb), fill(bedBlock, 1))
}

// tmf starts a function; the channel gets its result.
func tmf(n *Nexus, fn TMF, ref *Task) chan TMFResult {
	done := make(chan TMFResult, 1)
	n.TaskManagement(fn, 0, ref, func(r TMFResult) { done <- r })
	return done
}

func pending(c chan TMFResult) bool { return len(c) == 0 }

// A task that the device works on ends first, silently, then the function that
// aborted it (SAM-5 §7.2); it has no second end.
func TestAbortTaskWaitsForTheDevice(t *testing.T) {
	b := newBed(t)
	b.hang("write")
	c := b.simple(b.nexus, tWrite)
	done := tmf(b.nexus, TMFAbortTask, c.Task)
	if c.finished() || !pending(done) {
		t.Fatal("the device still has the task's buffers")
	}
	second := tmf(b.nexus, TMFAbortTaskSet, nil)
	b.release()
	if r := c.wait(); !r.silent {
		t.Error("an aborted task must end silently")
	}
	if r := <-done; r != TMFComplete {
		t.Errorf("ABORT TASK: %d", r)
	}
	if r := <-second; r != TMFComplete {
		t.Errorf("ABORT TASK SET: %d", r)
	}
	if r := <-tmf(b.nexus, TMFAbortTask, c.Task); r != TMFTaskDoesNotExist {
		t.Errorf("ABORT TASK of an ended task: %d", r)
	}
	if r := <-tmf(b.nexus, TMFAbortTask, nil); r != TMFTaskDoesNotExist {
		t.Errorf("ABORT TASK of no task: %d", r)
	}
}

// Functions that need no task.
func TestTaskManagementRefusals(t *testing.T) {
	b := newBed(t)
	for fn, want := range map[TMF]TMFResult{TMFClearACA: TMFNotSupported, TMF(99): TMFNotSupported, TMFAbortTaskSet: TMFComplete, TMFClearTaskSet: TMFComplete} {
		if r := <-tmf(b.nexus, fn, nil); r != want {
			t.Errorf("function %d: %d, want %d", fn, r, want)
		}
	}
	done := make(chan TMFResult, 1)
	b.nexus.TaskManagement(TMFLUNReset, 9<<48, nil, func(r TMFResult) { done <- r })
	if r := <-done; r != TMFLUNDoesNotExist {
		t.Errorf("LUN RESET of LUN 9: %d", r)
	}
}

// LUN RESET ends the tasks of all nexuses, with TASK ABORTED for those of
// others when TAS=1, puts mode parameters back, and leaves unit attentions.
func TestLUNReset(t *testing.T) {
	for name, tas := range map[string]bool{"TAS=0": false, "TAS=1": true} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			other := b.attach("iqn.host-b")
			if tas {
				b.want("00", "15 10 00 00 10 00", fromHex("00000000 0a0a 22 10 00 40 0000 0000 0000")...)
				b.start(other, 0, AttrSimple, fromHex(tTUR), nil).wait() // the mode change
			}
			b.hang("read")
			mine, theirs := b.simple(b.nexus, tRead), b.simple(other, tRead)
			ordered := b.start(other, 0, AttrOrdered, fromHex(tTUR), nil)
			done := tmf(b.nexus, TMFLUNReset, nil)
			if !pending(done) {
				t.Fatal("the reset is over while the device has tasks")
			}
			if r := ordered.wait(); r.silent == tas || tas && r.status != StatusTaskAborted {
				t.Errorf("a waiting task of another: %+v", r)
			}
			b.release()
			if r := mine.wait(); !r.silent {
				t.Errorf("own task: %+v", r)
			}
			if r := theirs.wait(); r.silent == tas || r.status != StatusTaskAborted {
				t.Errorf("task of another: %+v", r)
			}
			if r := <-done; r != TMFComplete {
				t.Errorf("LUN RESET: %d", r)
			}
			b.want("02/6/2903", tTUR)
			if r := b.start(other, 0, AttrSimple, fromHex(tTUR), nil).wait(); r.String() != "02/6/2903" {
				t.Errorf("the other host: %v", r)
			}
			if r := b.want("00", "1a 08 0a 00 ff 00"); r.data[4+5]&0x40 != 0 {
				t.Error("TAS survived the reset")
			}
		})
	}
}

// A task that the transport still holds when it is aborted has no effect when
// its data comes, and doesn't hold up the function.
func TestAbortBeforeTheDataCame(t *testing.T) {
	b := newBed(t)
	c := b.prepare(b.nexus, 0, AttrSimple, fromHex(tWrite), fill(bedBlock, 1))
	d := b.prepare(b.nexus, 0, AttrSimple, fromHex(tWrite), fill(bedBlock, 1))
	if r := <-tmf(b.nexus, TMFAbortTaskSet, nil); r != TMFComplete {
		t.Errorf("ABORT TASK SET: %d", r)
	}
	b.nexus.Execute(c.Task)
	if r := c.wait(); !r.silent {
		t.Errorf("got %+v", r)
	}
	b.nexus.Cancel(d.Task)
	d.sg.Release()
	if b.blocksAt(0, 1)[0] != 0 {
		t.Error("an aborted WRITE wrote")
	}
}

// A nexus that is lost takes its tasks with it; new ones find no unit.
func TestNexusLoss(t *testing.T) {
	b := newBed(t)
	n := b.attach("iqn.host-b")
	b.hang("read")
	c := b.simple(n, tRead)
	late := b.prepare(n, 0, AttrSimple, fromHex(tWrite), fill(bedBlock, 1))
	n.Detach()
	n.Detach()
	b.release()
	if r := c.wait(); !r.silent {
		t.Errorf("got %+v", r)
	}
	n.Execute(late.Task)
	if r := late.wait(); !r.silent {
		t.Errorf("late task: %+v", r)
	}
	if r := b.simple(n, tTUR).wait(); r.String() != "02/5/2500" {
		t.Errorf("after the loss: %v", r)
	}
	b.want("00", tTUR)
}

// ORDERED waits for what is older and holds up what is younger; HEAD OF QUEUE
// passes everything (SAM-5 §8.6).
func TestTaskAttributes(t *testing.T) {
	b := newBed(t)
	b.hang("write")
	first := b.simple(b.nexus, tWrite)
	ordered := b.start(b.nexus, 0, AttrOrdered, fromHex(tRead), nil)
	behind := b.simple(b.nexus, tRead)
	if ordered.finished() || behind.finished() {
		t.Fatal("an ORDERED task did not wait, or a younger one passed it")
	}
	if r := b.start(b.nexus, 0, AttrHeadOfQueue, fromHex(tRead), nil).wait(); r.String() != "00" {
		t.Errorf("HEAD OF QUEUE: %v", r)
	}
	other := b.attach("iqn.host-b")
	if r := b.simple(other, tRead).wait(); r.String() != "00" {
		t.Errorf("the task set of another nexus: %v", r)
	}
	b.release()
	for _, c := range []*call{first, ordered, behind} {
		if r := c.wait(); r.String() != "00" {
			t.Errorf("got %v", r)
		}
	}

	// An ORDERED task waits for a WRITE whose data is still to come; when that
	// is given up, it starts.
	open := b.prepare(b.nexus, 0, AttrSimple, fromHex(tWrite), fill(bedBlock, 1))
	ordered = b.start(b.nexus, 0, AttrOrdered, fromHex(tRead), nil)
	if ordered.finished() {
		t.Error("an ORDERED task passed an older one without data")
	}
	b.nexus.Cancel(open.Task)
	open.sg.Release()
	if r := ordered.wait(); r.String() != "00" {
		t.Errorf("got %v", r)
	}
	if r := b.start(b.nexus, 0, AttrACA, fromHex(tTUR), nil).wait(); r.String() != "02/5/0e03" {
		t.Errorf("ACA attribute with NORMACA=0: %v", r)
	}
}

// A command of many pieces stops between two when it is aborted.
func TestAbortStopsLongCommands(t *testing.T) {
	b := newBed(t)
	if err := b.ram.Resize(8 << 20); err != nil {
		t.Fatal(err)
	}
	b.want("02/6/2a09", tTUR)
	b.hang("read times=1")
	c := b.start(b.nexus, 0, AttrSimple, fromHex("2f 00 00 00 00 00 00 40 00 00"), nil) // 8 MiB
	if c.finished() {
		t.Fatal("the read did not hang")
	}
	done := tmf(b.nexus, TMFAbortTask, c.Task)
	asked, err := b.faults.AddText("read error=io")
	if err != nil {
		t.Fatal(err)
	}
	b.faults.Resume()
	if r := c.wait(); !r.silent {
		t.Errorf("got %+v", r)
	}
	<-done
	if asked.Asked() != 0 {
		t.Error("it read on after it was aborted")
	}
}

// ORWRITE takes in a write that comes between its read and its write.
func TestORWriteLosesNothing(t *testing.T) {
	b := newBed(t)
	b.hang("compare-and-write times=1")
	c := b.start(b.nexus, 0, AttrSimple, fromHex("8b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00"), fill(bedBlock, 0x01))
	if err := blockdev.WriteAt(b.ram, fill(bedBlock, 0x80), 0); err != nil {
		t.Fatal(err)
	}
	b.release()
	if r := c.wait(); r.String() != "00" {
		t.Errorf("got %v", r)
	}
	if got := b.blocksAt(0, 1)[0]; got != 0x81 {
		t.Errorf("the block holds %#x, want 0x81", got)
	}
}

// A device that hangs and then fails everything ends every task once.
func TestGoneDeviceEndsTasks(t *testing.T) {
	b := newBed(t)
	b.hang("any")
	var calls []*call
	for range 20 {
		calls = append(calls, b.simple(b.nexus, tRead))
	}
	b.faults.Fail(blockdev.ErrGone)
	for _, c := range calls {
		if r := c.wait(); r.String() != "02/2/0403" {
			t.Errorf("got %v", r)
		}
	}
}

// A unit that is taken out of the view ends its tasks with a status: the
// session goes on and its host waits for answers.
func TestUnmappedUnitEndsTasksWithStatus(t *testing.T) {
	b := newBed(t)
	b.hang("read")
	running := b.simple(b.nexus, tRead)
	waiting := b.start(b.nexus, 0, AttrOrdered, fromHex(tTUR), nil)
	open := b.prepare(b.nexus, 0, AttrSimple, fromHex(tWrite), fill(bedBlock, 1))
	cfg := b.config()
	cfg.AnyView = nil
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	b.nexus.Execute(open.Task)
	b.release()
	for _, c := range []*call{running, waiting, open} {
		if r := c.wait(); r.silent || r.status != StatusTaskAborted {
			t.Errorf("got %+v", r)
		}
	}
	if b.blocksAt(0, 1)[0] != 0 {
		t.Error("a WRITE to an unmapped unit wrote")
	}
}

// A target reset reaches the units that the nexus sees, and no others.
func TestTargetResetKeepsToTheView(t *testing.T) {
	b := newBed(t)
	hidden, err := ram.New(ram.Config{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	cfg := b.config()
	cfg.Units = append(cfg.Units, UnitConfig{ID: UnitID{7}, Device: hidden})
	cfg.Views = map[string]View{"iqn.host-b": {1: {7}}}
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	other := b.attach("iqn.host-b")
	if r := <-tmf(b.nexus, TMFTargetWarmReset, nil); r != TMFComplete {
		t.Fatalf("TARGET WARM RESET: %d", r)
	}
	b.want("02/6/2902", tTUR)
	if r := b.start(other, 0, AttrSimple, fromHex(tTUR), nil).wait(); r.String() != "02/6/2902" {
		t.Errorf("the shared unit: %v", r)
	}
	if r := b.start(other, 1<<48, AttrSimple, fromHex(tTUR), nil).wait(); r.String() != "00" {
		t.Errorf("the unit that only the other host sees: %v", r)
	}
	if r := <-tmf(b.nexus, TMFTargetColdReset, nil); r != TMFComplete {
		t.Fatalf("TARGET COLD RESET: %d", r)
	}
	b.want("02/6/2900", tTUR)
}
