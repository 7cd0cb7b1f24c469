package xdplink

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"blockd.dev/afxdp/netlab"
)

// childVariable makes the test binary play a process with an open link, of the
// address that it holds.
const childVariable = "XDPLINK_TEST_CHILD"

// child opens a link, says so, and sleeps in Wait until it is killed.
func child() {
	l, err := Open(Config{Interface: "eth0", Port: port, Local: netip.MustParseAddr(os.Getenv(childVariable)), RxBuffers: 64, TxBuffers: 16})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	for err == nil {
		err = l.Wait(-1)
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestKilledProcessLeavesNothing: no program stays on the NIC, and the queue can
// be had again at once, by several processes in turn.
func TestKilledProcessLeavesNothing(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	for round := range 3 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childVariable+"="+lab.A.IPv4.String())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		// A process starts in the namespace of the thread that starts it.
		if err := lab.A.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "open\n" {
			t.Errorf("round %d: the process said %q, %v", round, line, err)
		}
		if !programAttached(t, lab.A) && line == "open\n" {
			t.Error("no program is attached while the link is open: this test can't see one")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed, as it says
		if programAttached(t, lab.A) {
			t.Errorf("round %d: the program of a killed process is still attached", round)
		}
	}
	// The kernel's worker is still busy with the last one's socket.
	openOn(t, lab.A, Config{RxBuffers: 64, TxBuffers: 16})
}

func programAttached(t *testing.T, h *netlab.Host) bool {
	t.Helper()
	l, err := h.Netlink.LinkByName(h.Device)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
}
