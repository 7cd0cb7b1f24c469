package nvmetcp_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/pdu"
)

// FuzzConnection feeds a whole connection what a host might send, cut into
// two writes: the server neither crashes, nor keeps a buffer, nor stops
// serving others.
func FuzzConnection(f *testing.F) {
	l := &pdu.Layout{}
	ic := (&pdu.IC{}).Append(nil)
	var write pdu.CapsuleCmd
	write.SQE[0], write.SQE[1], write.SQE[4], write.SQE[39] = nvme.OpWrite, 0x40, 1, 0x5a
	write.SQE[33] = 0x10
	var set pdu.CapsuleCmd
	set.SQE[0], set.SQE[1], set.SQE[4], set.SQE[44], set.SQE[48], set.SQE[50] = nvme.OpFabrics, 0x40, nvme.FabricsPropertySet, 0x14, 1, 0x46
	connected := append(bytes.Clone(ic), connectCapsule(31)...)
	f.Add(ic, uint16(9))
	f.Add(connected, uint16(130))
	f.Add(set.Append(bytes.Clone(connected), l, 0), uint16(1300))
	f.Add(write.Append(bytes.Clone(connected), l, 0), uint16(1240))
	f.Add((&pdu.Data{FromHost: true, Last: true, TTag: 1, Length: 16}).Append(bytes.Clone(connected), l), uint16(70))
	f.Add((&pdu.TermReq{FromHost: true, Culprit: ic}).Append(bytes.Clone(connected)), uint16(3))
	b := newBed(f, nvmetcp.Limits{InitSeconds: 1, HandshakeSeconds: 1, StallSeconds: 1}, nil)
	count := 0
	f.Fuzz(func(t *testing.T, p []byte, cut uint16) {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		n := min(int(cut), len(p))
		_, _ = c.Write(p[:n])
		_, _ = c.Write(p[n:])
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("the connection outlives its host's last word")
			}
		}
		if count++; count%200 == 0 {
			mine := *b
			mine.TB = t
			mine.works()
		}
	})
}
