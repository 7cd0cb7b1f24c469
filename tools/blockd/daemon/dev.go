package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

// The volume of dev mode.
const (
	devVolume = "vol0"
	devSize   = 1 << 30
)

// ensureDevVolume creates vol0 when there is no volume at all, and maps it to
// every host.
func (d *Daemon) ensureDevVolume() error {
	s := d.catalog.State()
	if len(s.Volumes) == 0 {
		id := newID()
		if _, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_CreateVolume{CreateVolume: &catalogpb.CreateVolume{
			Id: id[:], Name: devVolume, SizeBytes: devSize, BlockSize: blockSizeDefault, Pool: catalog.DefaultPool}}}); err != nil {
			return err
		}
	}
	if v := d.catalog.State().Volume(devVolume); v == nil || v.Retired {
		return nil // the user has volumes and deleted this one
	}
	_, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_MapVolume{MapVolume: &catalogpb.MapVolume{
		Volume: devVolume, Host: catalog.AnyHost}}})
	switch {
	case errors.Is(err, catalog.ErrExists):
	case err != nil:
		return err
	}
	return d.applied.wait(ctxForever, d.catalog.State().Revision)
}

// PrintGuide writes the lines to use next in dev mode.
func (d *Daemon) PrintGuide(w io.Writer) error {
	s := d.catalog.State()
	v := s.Volume(devVolume)
	if v == nil || len(d.portals) == 0 {
		return nil
	}
	lun := v.LUN
	for _, m := range s.Mappings {
		if m.Volume == v.ID && m.Host.IsZero() {
			lun = m.LUN
		}
	}
	portal := dialable(d.portals[0].Addr())
	blockctl := "bin/blockctl"
	apiAddress := d.APIAddress()
	if d.plane.port != nil {
		apiAddress = dialable(d.plane.port.Addr())
	}
	if a := apiAddress; a != NewConfig().API {
		blockctl += " --api " + a
	}
	nvme := ""
	if len(d.nvme.ports) > 0 {
		host, port, err := net.SplitHostPort(dialable(d.nvme.ports[0].Addr()))
		if err != nil {
			return err
		}
		nvme = fmt.Sprintf(`
or by NVMe/TCP:

  nvme discover -t tcp -a %[1]s -s %[2]s
  nvme connect -t tcp -a %[1]s -s %[2]s -n %[3]s
  nvme disconnect -n %[3]s
`, host, port, s.NQN)
	}
	_, err := fmt.Fprintf(w, `
Volume %[1]s is mapped to every host. Attach it from this machine:

  iscsiadm -m discovery -t sendtargets -p %[2]s
  iscsiadm -m node -T %[3]s -p %[2]s --login
  iscsiadm -m node -T %[3]s -p %[2]s --logout
%[7]s
without root:

  qemu-img info iscsi://%[2]s/%[3]s/%[4]d

and look at it:

  %[5]s volume show %[1]s
  %[5]s session list
  http://%[6]s/

`, v.Name, portal, s.IQN, lun, blockctl, apiAddress, nvme)
	return err
}

// dialable replaces a wildcard address by the loopback one.
func dialable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() {
		return a.String()
	}
	host := "127.0.0.1"
	if t.IP.To4() == nil {
		host = "::1"
	}
	return net.JoinHostPort(host, fmt.Sprint(t.Port))
}
