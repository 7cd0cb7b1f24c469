package vm

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// guestModules are the kernel modules that a guest may want; what they need
// comes along.
var guestModules = []string{
	"virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "af_packet", "veth", "8021q", "bridge",
	"iscsi_tcp", "sd_mod", "sg", "scsi_dh_alua",
	"nvme_tcp", "nvme_core", "nvme_fabrics", "nvme_auth",
	"dm_mod", "dm_multipath", "dm_round_robin", "dm_queue_length", "dm_service_time",
	"ext4", "xfs", "loop", "crc32c_intel", "crc32_pclmul",
}

// optionalModules are built into some flavours of the kernel, or left out.
var optionalModules = []string{
	"virtio_pci", "virtio_console", "virtio_rng", "af_packet", "scsi_dh_alua", "nvme_auth", "ext4", "crc32c_intel", "crc32_pclmul",
	"sd_mod", "dm_mod", "loop", "nvme_core", "nvme_fabrics",
}

// moduleFiles returns the files, relative to k.modules, of guestModules and
// of all that they depend on.
func moduleFiles(k kernel) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	needs, byName, err := parseModulesDep(text)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range guestModules {
		file, ok := byName[name]
		if !ok {
			if slices.Contains(optionalModules, name) {
				continue
			}
			return nil, fmt.Errorf("vm: kernel %s has no module %s: take another kernel", k.version, name)
		}
		files = append(files, file)
		files = append(files, needs[file]...) // depmod lists indirect ones too
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// parseModulesDep reads the file that depmod writes: "FILE: NEEDED NEEDED..."
// per line.
func parseModulesDep(text []byte) (needs map[string][]string, byName map[string]string, err error) {
	needs, byName = map[string][]string{}, map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		file, rest, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, nil, fmt.Errorf("vm: modules.dep: no colon in %q", lines.Text())
		}
		needs[file] = strings.Fields(rest)
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		byName[strings.ReplaceAll(name, "-", "_")] = file
	}
	return needs, byName, lines.Err()
}
