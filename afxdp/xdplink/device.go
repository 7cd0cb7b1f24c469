package xdplink

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/neigh"
	"blockd.dev/afxdp/nic"
	"blockd.dev/afxdp/queue"
	"blockd.dev/afxdp/umem"
	"blockd.dev/blockdev/arena"
	"blockd.dev/bpf"
)

// Device is a NIC with the steering program on it. It lives until it and all
// its Links are closed. Its methods may be called from any goroutine.
type Device struct {
	config  Config // with defaults
	info    nic.Info
	local   netip.AddrPort
	layout  queue.Layout
	steer   *bpf.Steer
	umem    *umem.UMEM
	arena   *arena.Arena // to close; nil when it is somebody else's
	table   *neigh.Table
	handle  *netlink.Handle // of the namespace, for what the table's goroutine asks
	refused []error         // why the program is not in a better mode

	mtu atomic.Int32 // of the interface, now

	mu struct {
		sync.Mutex
		users int // itself, until it is closed, and its Links
		open  bool
		links map[*Link]bool
	}
}

// OpenDevice puts the program on the NIC, which from then on drops what comes
// to the port from addresses that are not peers, and reserves the memory. The
// error tells for each mode why it can't be had, and what to do about it;
// errors.Is finds the kinds of packages bpf and socket.
func OpenDevice(c Config) (_ *Device, err error) {
	c, err = c.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Device{config: c}
	d.mu.users, d.mu.open, d.mu.links = 1, true, map[*Link]bool{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.release())
		}
	}()
	if d.info, err = nic.Look(c.Interface); err != nil {
		return nil, fmt.Errorf("xdplink: %w", err)
	}
	if !d.info.Up {
		return nil, fmt.Errorf("xdplink: interface %s is down; run `ip link set %s up`", c.Interface, c.Interface)
	}
	d.mtu.Store(int32(d.info.MTU))
	if d.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("xdplink: netlink: %w", err)
	}
	if err := d.findLocal(); err != nil {
		return nil, err
	}
	if err := d.reserve(); err != nil {
		return nil, err
	}
	if d.table, err = neigh.Open(neigh.Config{OnChange: d.look}); err != nil {
		return nil, fmt.Errorf("xdplink: %w", err)
	}
	if err := d.attach(); err != nil {
		return nil, err
	}
	for _, p := range c.Peers {
		if err := d.AllowPeer(p); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// findLocal checks Config.Local, or chooses.
func (d *Device) findLocal() error {
	l, err := d.handle.LinkByIndex(d.info.Index)
	if err != nil {
		return fmt.Errorf("xdplink: interface %s: %w", d.info.Name, err)
	}
	// IPv4 comes first.
	list, err := d.handle.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("xdplink: addresses of %s: %w", d.info.Name, err)
	}
	want := d.config.Local
	for _, a := range list {
		addr, _ := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if want == addr || !want.IsValid() && addr.IsGlobalUnicast() {
			d.local = netip.AddrPortFrom(addr, d.config.Port)
			return nil
		}
	}
	if want.IsValid() {
		return fmt.Errorf("xdplink: %v is not an address of %s; run `ip addr add` or configure another", want, d.info.Name)
	}
	return fmt.Errorf("xdplink: %s has no global address; run `ip addr add`", d.info.Name)
}

const (
	chunkBytes = umem.ChunkBytes
	// rxHeadroom is what the kernel leaves free in front of a frame
	// (XDP_PACKET_HEADROOM).
	rxHeadroom = 256
	// strideMax bounds a buffer to 16 KiB: enough for jumbo frames of any NIC. On an
	// interface with a larger MTU, such as lo, datagrams stay below it.
	strideMax = 4
	// ethernetMax is Ethernet's header with two tags.
	ethernetMax = 14 + 2*4
)

// stride is how many chunks a frame at the MTU needs.
func stride(mtu int) int {
	return min((rxHeadroom+ethernetMax+mtu+chunkBytes-1)/chunkBytes, strideMax)
}

// reserve takes the memory for all links.
func (d *Device) reserve() error {
	c := &d.config
	d.layout = queue.Layout{RxSlots: c.RxBuffers, TxSlots: c.TxBuffers, Stride: stride(d.info.MTU)}
	links := c.Links
	if links == 0 {
		links = d.info.RXQueues
	}
	chunks := links * d.layout.Chunks()
	a := c.Arena
	if a == nil {
		var err error
		if a, err = arena.New(arena.Config{SizeBytes: int64(chunks) * chunkBytes}); err != nil {
			return fmt.Errorf("xdplink: %w", err)
		}
		d.arena = a
	}
	var err error
	if d.umem, err = umem.New(a, chunks); err != nil {
		return fmt.Errorf("xdplink: memory for %d queues: %w", links, err)
	}
	return nil
}

// attach puts the program on the device, in the best mode that is wanted.
func (d *Device) attach() error {
	for _, m := range []bpf.Mode{bpf.Native, bpf.Generic} {
		if d.config.Mode == Generic && m == bpf.Native || d.config.Mode != Generic && d.config.Mode != Auto && m == bpf.Generic {
			continue
		}
		if x := &d.info.XDP; m == bpf.Native && x.Known && !x.Redirect {
			d.refused = append(d.refused, fmt.Errorf("%w: the driver %s of %s passes no frames to sockets in native mode", bpf.ErrUnsupported, d.info.Driver, d.info.Device))
			continue
		}
		s, err := bpf.LoadSteer(bpf.Config{
			Interface: d.info.DeviceIndex, Port: d.config.Port, Local: []netip.Addr{d.local.Addr()}, Mode: m, PeersMax: d.config.PeersMax,
			CountExtents: d.config.CountExtents,
		})
		if err == nil {
			d.steer = s
			return nil
		}
		d.refused = append(d.refused, err)
		if errors.Is(err, bpf.ErrBusy) || errors.Is(err, bpf.ErrPermission) {
			break // another mode would fail alike
		}
	}
	return fmt.Errorf("xdplink: %s: %w", d.info.Name, errors.Join(d.refused...))
}

// LocalAddr is where peers send to.
func (d *Device) LocalAddr() netip.AddrPort { return d.local }

// Interface is the name of what it is on.
func (d *Device) Interface() string { return d.info.Name }

// Queues is how many receive queues the NIC uses: Link takes 0 to one less.
func (d *Device) Queues() int { return d.info.RXQueues }

// Steer is the program, for its counters.
func (d *Device) Steer() *bpf.Steer { return d.steer }

// Neighbours tells for each peer how it is reached, or why not.
func (d *Device) Neighbours() []neigh.PeerStatus { return d.table.Status() }

// AllowPeer lets datagrams from the address in, and has the way to it looked
// after. Sending needs no permission, but the first datagram to an address that
// was not allowed is dropped while the way to it is looked up.
func (d *Device) AllowPeer(a netip.Addr) error {
	a = a.Unmap()
	if err := d.steer.AllowPeer(a); err != nil {
		return err
	}
	return d.table.Track(a)
}

// RemovePeer undoes AllowPeer.
func (d *Device) RemovePeer(a netip.Addr) error {
	d.table.Untrack(a.Unmap())
	return d.steer.RemovePeer(a.Unmap())
}

// HotExtents returns the up to n extents of which most packets have arrived, as
// peers name them, most first; none without Config.CountExtents.
func (d *Device) HotExtents(n int) ([]bpf.ExtentCounters, error) { return d.steer.HotExtents(n) }

// look is called when a way has changed: the interface may have another MTU,
// or be gone.
func (d *Device) look() {
	l, err := d.handle.LinkByIndex(d.info.Index)
	if err == nil {
		d.mtu.Store(int32(l.Attrs().MTU))
		return
	}
	if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return // it will be asked again
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.mu.links {
		l.goneNow.Store(true)
		l.Wake()
	}
}

// use counts one more user; false when the Device is closed.
func (d *Device) use() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.open {
		d.mu.users++
	}
	return d.mu.open
}

// Close ends the Device once its Links are closed too; no new ones can be made.
func (d *Device) Close() error {
	d.mu.Lock()
	open := d.mu.open
	d.mu.open = false
	d.mu.Unlock()
	if !open {
		return nil
	}
	return d.drop()
}

// drop ends one use; the last releases everything.
func (d *Device) drop() error {
	d.mu.Lock()
	d.mu.users--
	last := d.mu.users == 0
	d.mu.Unlock()
	if !last {
		return nil
	}
	return d.release()
}

// release undoes OpenDevice as far as it went. The table's goroutines end
// first, since they call back.
func (d *Device) release() error {
	var errs []error
	if d.table != nil {
		d.table.Close()
	}
	if d.steer != nil {
		errs = append(errs, d.steer.Close())
	}
	if d.umem != nil {
		errs = append(errs, d.umem.Close())
	}
	if d.arena != nil {
		errs = append(errs, d.arena.Close())
	}
	if d.handle != nil {
		d.handle.Close()
	}
	return errors.Join(errs...)
}
