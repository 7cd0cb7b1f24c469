//go:build e2e

package kernels

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/vm"
)

// packages are those whose tests run in the guest.
var packages = []string{"bpf", "bpf/fault", "afxdp/neigh", "afxdp/nic", "afxdp/socket", "afxdp/xdplink"}

// script gets the test programs from the host and runs them all, even when one
// fails.
const script = `
modprobe -a veth 8021q bridge || exit 1
ip link set lo up
status=0
for p in $PROGRAMS; do
    busybox wget -q -O /tmp/test "http://10.0.2.2:$PORT/$p" || exit 1
    chmod +x /tmp/test
    echo "== $p under $(uname -r)"
    /tmp/test -test.v -test.timeout 10m || status=1
done
exit $status
`

// TestUnderDebiansKernels: every test passes, and those that look at what a
// kernel can do see it; told says which lines prove that. BLOCKD_E2E_KERNEL
// names one other package to take the kernel from.
func TestUnderDebiansKernels(t *testing.T) {
	port, programs := serve(t)
	type run struct {
		kernel string
		told   []string
	}
	runs := []run{
		{"linux-image-cloud-amd64", []string{"under 6.1.", "lacks traffic-control programs", "found by two VLANs", "found by a VLAN"}},
		{vm.DefaultKernel, []string{"under 6.12.", "--- PASS: TestDelayReorders", "found by two VLANs", "found by a VLAN"}},
	}
	if other := os.Getenv("BLOCKD_E2E_KERNEL"); other != "" {
		runs = []run{{other, []string{"found by two VLANs", "found by a VLAN"}}}
	}
	for _, k := range runs {
		t.Run(k.kernel, func(t *testing.T) {
			t.Parallel()
			cache, err := os.UserCacheDir()
			if err != nil {
				t.Fatal(err)
			}
			if dir := os.Getenv("BLOCKD_TESTENV_CACHE"); dir != "" {
				cache = dir
			}
			config := vm.Config{
				Script:  script,
				Kernel:  k.kernel,
				Timeout: 25 * time.Minute,
				Env:     map[string]string{"PORT": port, "PROGRAMS": strings.Join(programs, " ")},
			}
			if k.kernel != vm.DefaultKernel {
				// A cache keeps one filesystem image; others use the default kernel's.
				config.CacheDir = filepath.Join(cache, "blockd-testenv-"+k.kernel)
			}
			var output strings.Builder
			config.Output = &output
			result, err := vm.Run(t.Context(), config)
			t.Logf("boot %v, run %v\n%s", result.Boot, result.Elapsed, output.String())
			if err != nil {
				t.Error(err)
			}
			for _, line := range k.told {
				if !strings.Contains(output.String(), line) {
					t.Errorf("the run doesn't say %q", line)
				}
			}
		})
	}
}

// serve builds the test programs, static, and offers them to the guest.
func serve(t *testing.T) (port string, names []string) {
	t.Helper()
	dir := t.TempDir()
	for _, p := range packages {
		name := strings.ReplaceAll(p, "/", "-") + ".test"
		build := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, name), "./"+p)
		build.Dir = filepath.Join("..", "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
		names = append(names, name)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // until Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, names
}
