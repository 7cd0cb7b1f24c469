package director

import (
	"fmt"
	"testing"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

const stamp int64 = 1_800_000_000_000_000_000

func testID(kind byte, n int) catalog.ID {
	return catalog.ID{0: kind, 14: byte(n >> 8), 15: byte(n)}
}

func nodeID(n int) catalog.ID   { return testID(1, n) }
func diskID(n int) catalog.ID   { return testID(2, n) }
func volumeID(n int) catalog.ID { return testID(3, n) }

func raw(id catalog.ID) []byte { return id[:] }

func command(set func(*catalogpb.Command)) *catalogpb.Command {
	c := &catalogpb.Command{TimeUnixNano: stamp, Actor: "test"}
	set(c)
	return c
}

func initCmd() *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_Init{Init: &catalogpb.Init{ClusterId: raw(testID(9, 1)), Iqn: "iqn.2026-01.dev.blockd:t", Nqn: "nqn.2014-08.org.nvmexpress:uuid:x"}}
	})
}

func nodeName(n int) string { return fmt.Sprintf("n%d", n) }

// nodeCmds make node n known, the first one or by a token, with one disk of 1 TiB.
func nodeCmds(n int, address string) []*catalogpb.Command {
	node := &catalogpb.PutNode{Id: raw(nodeID(n)), Name: nodeName(n), Address: address, Roles: []string{"meta", "store", "target"}, Serial: fmt.Sprintf("5e%04x", n)}
	disk := command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RegisterDisk{RegisterDisk: &catalogpb.RegisterDisk{Id: raw(diskID(n)), Node: raw(nodeID(n)), Path: "/d", CapacityBytes: 1 << 40}}
	})
	if n == 1 {
		return []*catalogpb.Command{command(func(c *catalogpb.Command) { c.Kind = &catalogpb.Command_PutNode{PutNode: node} }), disk}
	}
	token, proof := raw(testID(7, n))[8:], append(raw(testID(7, n)), raw(testID(8, n))...)
	return []*catalogpb.Command{
		command(func(c *catalogpb.Command) {
			c.Kind = &catalogpb.Command_CreateToken{CreateToken: &catalogpb.CreateToken{Id: token, Proof: proof, ExpiresUnix: stamp/1e9 + 60}}
		}),
		command(func(c *catalogpb.Command) {
			c.Kind = &catalogpb.Command_AdmitNode{AdmitNode: &catalogpb.AdmitNode{Node: node, Token: token, Proof: proof}}
		}), disk}
}

func poolCmd(replicas uint32) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CreatePool{CreatePool: &catalogpb.CreatePool{Id: raw(testID(4, 1)), Name: "p", Replicas: replicas, Media: "disk", MinInSync: min(2, replicas)}}
	})
}

func volumeCmd(n int, extents int64) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CreateVolume{CreateVolume: &catalogpb.CreateVolume{Id: raw(volumeID(n)), Name: fmt.Sprintf("v%d", n), SizeBytes: extents << 26, BlockSize: 512, Pool: "p"}}
	})
}

func nodeStateCmd(n int, to catalog.NodeState) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetNodeState{SetNodeState: &catalogpb.SetNodeState{Node: nodeName(n), State: string(to)}}
	})
}

func diskStateCmd(n int, to catalog.DiskState) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetDiskState{SetDiskState: &catalogpb.SetDiskState{Id: raw(diskID(n)), State: string(to)}}
	})
}

func moveCmd(volume, node int) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_MoveLease{MoveLease: &catalogpb.MoveLease{Volume: fmt.Sprintf("v%d", volume), Node: nodeName(node)}}
	})
}

func retireCmd(n int) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RetireVolume{RetireVolume: &catalogpb.RetireVolume{Name: fmt.Sprintf("v%d", n)}}
	})
}

func jobCmd(n int, kind, subject string) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CreateJob{CreateJob: &catalogpb.CreateJob{Id: raw(testID(5, n)), Kind: kind, Subject: subject}}
	})
}

// build applies commands to an empty state.
func build(t testing.TB, cmds ...*catalogpb.Command) *catalog.State {
	t.Helper()
	return apply(t, &catalog.State{}, cmds...)
}

func apply(t testing.TB, s *catalog.State, cmds ...*catalogpb.Command) *catalog.State {
	t.Helper()
	for _, c := range cmds {
		c.Version = catalog.CommandVersion
		next, _, err := s.Apply(c)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		s = next
	}
	return s
}

// nodesAndPool are the commands for nodes 1 to n and a pool of three copies.
func nodesAndPool(n int) []*catalogpb.Command {
	cmds := []*catalogpb.Command{initCmd()}
	for i := 1; i <= n; i++ {
		cmds = append(cmds, nodeCmds(i, fmt.Sprintf("127.0.0.1:%d", i))...)
	}
	return append(cmds, poolCmd(3))
}
