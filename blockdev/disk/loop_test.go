package disk_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
)

// TestLoopDevice runs the suite over a block device, and checks that a block
// device has one owner. It runs whenever the tests run as root, where losetup
// must work.
func TestLoopDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("attaching a loop device needs root: run this test as root")
	}
	for _, driver := range []string{disk.DriverURing, disk.DriverPread} {
		t.Run(driver, func(t *testing.T) {
			disktest.Run(t, func(t *testing.T) disk.Disk {
				dev := attach(t, create(t, disktest.SizeBytes))
				d, err := disk.Open(dev, disk.Options{Driver: driver})
				if err != nil {
					t.Fatal(err)
				}
				if i := d.Info(); !i.IsBlock || d.SizeBytes() != disktest.SizeBytes {
					t.Fatalf("%+v, %d bytes", i, d.SizeBytes())
				}
				return d
			})
		})
	}
	dev := attach(t, create(t, disktest.SizeBytes))
	d, err := disk.Open(dev, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := disk.Open(dev, disk.Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second open: %v", err)
	}
}

// attach makes a loop device over path for the length of the test.
func attach(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return dev
}
