package scsi

import (
	"testing"
)

// FuzzDeviceServer gives any CDB, LUN, attribute and data to the device
// server. Nothing may panic, every command ends exactly once, and no answer is
// longer than the CDB asked for (call.wait checks it).
func FuzzDeviceServer(f *testing.F) {
	for _, c := range table {
		cdb := append([]byte(nil), c.usage...)
		f.Add(uint64(0), byte(AttrSimple), cdb, make([]byte, 64))
		for i := 2; i < len(cdb); i++ {
			cdb[i] = 0
		}
		cdb[len(cdb)-2] = 32
		f.Add(uint64(0), byte(AttrOrdered), cdb, make([]byte, 64))
	}
	p := copyList(1, 0, 0, 100, 4)
	f.Add(uint64(0), byte(AttrSimple), append(fromHex("83 00 00 00 00 00 00 00 00 00 00 00 00"), byte(len(p)), 0, 0), p)
	f.Add(uint64(0), byte(AttrSimple), fromHex("42 00 00 00 00 00 00 00 18 00"), fromHex("0016 0010 00000000 0000000000000008 00000008 00000000"))
	f.Add(uint64(0), byte(AttrSimple), fromHex("15 10 00 00 10 00"), fromHex("00000000 0a0a 26 10 00 00 0000 0000 0000"))
	f.Add(uint64(0), byte(AttrSimple), fromHex("a4 0a 00 00 00 00 00 00 00 08 00 00"), fromHex("00000000 02 00 0001"))
	f.Add(uint64(wlunReportLUNs)<<48, byte(AttrSimple), fromHex("12 01 83 00 ff 00"), []byte{})
	f.Add(uint64(1)<<48, byte(AttrHeadOfQueue), fromHex("12 00 00 00 ff 00"), []byte{})

	b := newBed(f)
	f.Fuzz(func(t *testing.T, lun uint64, attr byte, cdb, data []byte) {
		b.tb = t
		if len(data) > 1<<16 {
			return
		}
		b.start(b.nexus, lun, TaskAttr(attr), cdb, data).wait()
		// What the command changed must not stop the next.
		for _, i := range b.nexus.itls() {
			i.lu.mode.reset(i.lu)
			i.lu.stopped.Store(false)
			i.ua.drop(^attention(0))
			i.lu.reservationsReset()
		}
		b.start(b.nexus, 0, AttrSimple, fromHex("a4 0a 00 00 00 00 00 00 00 08 00 00"), fromHex("00000000 00 00 0001")).wait()
	})
}
