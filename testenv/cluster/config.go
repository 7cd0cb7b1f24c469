package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"blockd.dev/internal/units"
)

// Config says what to build. The zero value of each field means its default.
type Config struct {
	// Dir is where all of it is kept. It must be missing or empty. Required.
	Dir string
	// BinDir holds blockd, blockctl and testenv. Default: $BLOCKD_TESTENV_BIN, or
	// bin at the root of the module, or where the running program is.
	BinDir string
	// Blockd is the program that nodes run, until Install gives them another.
	// Default: blockd in BinDir.
	Blockd string
	// Nodes is 1 to 64. Default 3.
	Nodes int
	// Disks is the number of disks of each node, 1 to 16. Default 1.
	Disks int
	// DiskSize is the size of each, in bytes. Default 1 GiB. A disk takes memory
	// as it fills.
	DiskSize int64
	// SpareSize is how much larger a node's file system is than its disks, in
	// bytes. Default 256 MiB.
	SpareSize int64
	// OnDisk keeps the nodes' data and disks in plain directories of Dir's file
	// system, where a sync costs what it costs there. DiskFull needs the tmpfs that
	// they have otherwise.
	OnDisk bool
	// Written writes all blocks of the disks once, with OnDisk: a file system notes of each block that is reserved whether it was
	// written, and the first sync after that waits for its journal, of which a disk has none.
	Written bool
	// Volatile gives the disks a write cache in the memory of blockd, so that Kill is a
	// power cut to them: what was not synced is lost. What else a node keeps (its log of the Raft
	// group, small files) survives as with any process that is killed.
	Volatile bool
	// MTU is of all interfaces, 1280 to 9216. Default 9000.
	MTU int
	// IPv6 has the nodes speak to each other by IPv6; portals have both either way.
	IPv6 bool
	// Standalone leaves the nodes alone: each is its own cluster without
	// certificates, with its API on its namespace's loopback.
	Standalone bool
	// Args are further arguments of each blockd.
	Args []string
	// ReadyTimeout bounds each wait for a node to be ready. Default 60 s.
	ReadyTimeout time.Duration
}

const (
	nodesMax = 64
	disksMax = 16
	mtuMax   = 9216
)

// withDefaults fills in what is zero.
func (c Config) withDefaults() (Config, error) {
	set(&c.Nodes, 3)
	set(&c.Disks, 1)
	set(&c.DiskSize, 1<<30)
	set(&c.SpareSize, 256<<20)
	set(&c.MTU, 9000)
	set(&c.ReadyTimeout, time.Minute)
	if c.BinDir == "" {
		dir, err := defaultBinDir()
		if err != nil {
			return c, err
		}
		c.BinDir = dir
	}
	var err error
	if c.BinDir, err = filepath.Abs(c.BinDir); err != nil {
		return c, err
	}
	if c.Blockd == "" {
		c.Blockd = filepath.Join(c.BinDir, "blockd")
	}
	if c.Blockd, err = filepath.Abs(c.Blockd); err != nil {
		return c, err
	}
	if c.Dir == "" {
		return c, errors.New("cluster: Dir is missing; give an empty directory")
	}
	c.Dir, err = filepath.Abs(c.Dir)
	return c, err
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) validate() error {
	switch {
	case c.Nodes < 1 || c.Nodes > nodesMax:
		return fmt.Errorf("cluster: %d nodes: want 1 to %d", c.Nodes, nodesMax)
	case c.Disks < 1 || c.Disks > disksMax:
		return fmt.Errorf("cluster: %d disks per node: want 1 to %d", c.Disks, disksMax)
	case c.DiskSize < 256<<20 || c.DiskSize%4096 != 0:
		return fmt.Errorf("cluster: a disk of %s: want a multiple of 4 KiB, at least 256MiB", units.FormatBytes(c.DiskSize))
	case c.SpareSize < 16<<20:
		return fmt.Errorf("cluster: %s beside the disks: want at least 16MiB", units.FormatBytes(c.SpareSize))
	case c.MTU < 1280 || c.MTU > mtuMax:
		return fmt.Errorf("cluster: MTU %d: want 1280 to %d", c.MTU, mtuMax)
	case os.Geteuid() != 0:
		return errors.New("cluster: network namespaces and file systems need root; run it by sudo")
	}
	for _, path := range []string{c.Blockd, filepath.Join(c.BinDir, "blockctl"), filepath.Join(c.BinDir, "testenv")} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("cluster: %w; run make build, or say where it is", err)
		}
	}
	return nil
}

// defaultBinDir is what the environment says, or bin beside the go.mod above
// the working directory, as tests want it, or else the directory of the running program.
func defaultBinDir() (string, error) {
	if dir := os.Getenv("BLOCKD_TESTENV_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin"), nil
		}
	}
	exe, err := os.Executable()
	return filepath.Dir(exe), err
}
