package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"blockd.dev/blockdev/arena"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/target/identity"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/scsi"
)

// Daemon is a running node.
type Daemon struct {
	cfg     Config
	log     *zap.Logger
	started time.Time

	data         *dataDir
	ownsData     bool // it locked data, and unlocks it
	plane        plane
	arena        *arena.Arena
	catalog      *catalog.Catalog
	disks        []*storage // in the order of the configuration; none without the role store
	lostDisks    []lostDisk
	scrubs       *scrubNotes
	reservations *reservations
	shared       atomic.Pointer[sharing] // nil while the node belongs to no cluster
	directing    atomic.Pointer[directing]
	target       *scsi.Target  // nil without the role target
	iscsi        *iscsi.Server // nil without the role target
	portals      []net.Listener
	nvme         nvmeTarget
	http         *http.Server // nil while the control port is not heard
	web          http.Handler // what it serves, and the control socket too
	// renew has the data directory changed and starts the node anew, and returns
	// what runs then; nil without a control socket.
	renew func(change func(*dataDir) error) (*Daemon, error)

	events      *eventLog
	volumes     volumeTable
	configuring sync.Mutex // held by configureTarget
	applied     applied
	errorGate   gate
	read        atomic.Bool // the catalog is as new as the group's was at the start
	ready       atomic.Bool
	stopping    atomic.Bool

	cancel     context.CancelFunc // ends the goroutines below
	background sync.WaitGroup
}

// Start brings a node up: when it returns, every portal listens. On error
// everything is taken down again. The logger gets what happens; nothing else is
// printed.
func Start(cfg Config, log *zap.Logger) (*Daemon, error) {
	return launch(context.Background(), cfg, log, nil, nil)
}

// launch is Start. When the API can be asked, which for a member of a cluster
// is before a majority was found, answers is told. data is the data directory when it is open already. ctx ends the start, and nothing after it.
func launch(ctx context.Context, cfg Config, log *zap.Logger, data *dataDir, answers func(*Daemon)) (_ *Daemon, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg, log: log, started: time.Now().UTC(), events: newEventLog(log)}
	starting := ctx
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	defer context.AfterFunc(starting, cancel)()
	defer func() {
		if err != nil {
			sctx, scancel := context.WithTimeout(context.Background(), stopTimeout)
			defer scancel()
			err = errors.Join(err, d.Stop(sctx))
		}
	}()

	if d.data = data; data == nil {
		if d.data, err = openDataDir(cfg.Data); err != nil {
			return nil, err
		}
		d.ownsData = true
	}
	if d.arena, err = arena.New(arena.Config{SizeBytes: cfg.ArenaSize}); err != nil {
		return nil, err
	}
	if err := d.openPlane(); err != nil {
		return nil, err
	}
	if d.plane.creds != nil {
		d.background.Go(func() { d.renewLoop(ctx) })
	}
	d.serveHTTP(ctx)
	if answers != nil {
		answers(d)
	}
	if err := d.openCatalog(ctx); err != nil {
		return nil, err
	}
	if err := d.keepAuthority(); err != nil {
		return nil, err
	}
	if err := d.introduce(); err != nil {
		return nil, err
	}
	if err := d.startDirecting(); err != nil {
		return nil, err
	}
	if err := d.powerCycled(); err != nil {
		return nil, err
	}
	if d.needsDisk() {
		if err := d.openDisks(); err != nil {
			return nil, err
		}
	}
	d.recallScrubs()
	if err := d.openReservations(); err != nil {
		return nil, err
	}
	if err := d.startSharing(ctx); err != nil {
		return nil, err
	}
	if err := d.listen(); err != nil {
		return nil, err
	}
	if cfg.has("target") {
		if err := d.startTarget(ctx); err != nil {
			return nil, err
		}
	}
	first := d.catalog.State()
	d.reconcile(first)
	d.background.Go(func() { d.reconcileLoop(ctx, first.Revision) })
	if cfg.Dev {
		if err := d.ensureDevVolume(); err != nil {
			return nil, err
		}
	}
	d.background.Go(func() { d.noteBrought(ctx) })
	if s := d.shared.Load(); s != nil {
		s.standstill.begin()
	}
	d.servePortals()
	d.servePorts()
	if len(d.disks) > 0 {
		d.background.Go(func() { d.spaceLoop(ctx) })
	}
	for _, s := range d.disks {
		if cfg.ScrubRate > 0 {
			d.background.Go(func() { d.scrubLoop(ctx, func(ctx context.Context) { d.scrubDisk(ctx, s) }) })
		}
	}
	if d.shared.Load() != nil {
		d.shared.Load().run()
		d.background.Go(func() { d.announceLoop(ctx) })
		if cfg.ScrubRate > 0 {
			d.background.Go(func() { d.scrubLoop(ctx, d.shared.Load().scrub) })
		}
	}
	d.ready.Store(true)
	d.events.add(levelInfo, "node.ready", d.nodeName(), "every portal listens")
	return d, nil
}

// stopTimeout bounds how long hosts may take to let go at a stop.
const stopTimeout = 4 * time.Second

// Stop drains and takes everything down, in the reverse order of Start. It
// takes no longer than ctx allows plus the last checkpoint.
func (d *Daemon) Stop(ctx context.Context) error {
	if d.stopping.Swap(true) {
		return nil
	}
	d.ready.Store(false)
	if s := d.shared.Load(); s != nil {
		lctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		d.leave(lctx)
		cancel()
		d.endLimits()
		s.waitNoMore()
		// The rest of the time is for hosts to be told: not before what they had sent can't
		// be sent to its owner any more.
		sent, cancel := context.WithTimeout(ctx, leftOf(ctx)/4*3)
		defer cancel()
		defer context.AfterFunc(sent, s.cutOff)()
	}
	d.endLimits()
	d.cancel()
	var errs []error
	errs = append(errs, d.stopPortals(ctx))
	for _, l := range d.portals {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.http != nil {
		// A watcher of events ends with the cancel above; what else takes long
		// is cut off.
		hctx, cancel := context.WithTimeout(ctx, time.Second)
		if err := d.http.Shutdown(hctx); err != nil {
			errs = append(errs, d.http.Close())
		}
		cancel()
	}
	d.background.Wait()
	if d.target != nil {
		d.target.Close()
	}
	d.nvme.close()
	if d.shared.Load() != nil {
		errs = append(errs, d.shared.Load().stop())
	}
	for _, v := range d.volumes.all() {
		errs = append(errs, v.close())
	}
	for _, s := range d.disks {
		errs = append(errs, s.close())
	}
	d.directing.Load().stop()
	errs = append(errs, d.closePlane(ctx))
	if d.arena != nil {
		errs = append(errs, d.arena.Close())
	}
	if d.ownsData {
		errs = append(errs, d.data.close())
	}
	return errors.Join(errs...)
}

// leftOf is the time that a stop has left, of which its parts take shares.
func leftOf(ctx context.Context) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return time.Until(at)
	}
	return stopTimeout
}

// stopPortals ends the connections of hosts: of both protocols at the same time, as initiators
// may take all of it to log out. iSCSI initiators that have other paths are sent to these before.
func (d *Daemon) stopPortals(ctx context.Context) error {
	var logouts error
	var wg sync.WaitGroup
	if d.iscsi != nil {
		wg.Go(func() {
			d.moveHosts(ctx)
			if err := d.iscsi.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				logouts = err
			}
		})
	}
	err := d.nvme.stop(ctx)
	wg.Wait()
	return errors.Join(logouts, err)
}

// leave hands over what other nodes can do, before the node stops: its volumes,
// and then the leadership of the group. The next owners hear from its leader that they
// are, and this node, which waits for what it has forwarded to them, soon answers nobody.
func (d *Daemon) leave(ctx context.Context) {
	d.shared.Load().leave(ctx)
	if _, leads := d.plane.group.Leads(); leads {
		_ = d.plane.group.TransferLeadership(ctx, "") // if it can't be, the others elect one
	}
}

// leaveTimeout bounds how long a node that stops waits for others to take over.
const leaveTimeout = 2 * time.Second

// openCatalog waits until the catalog is as new as the group's, takes over that
// of a blockd without a group, and, at the first start, gives the cluster its
// identity and the pool default.
func (d *Daemon) openCatalog(ctx context.Context) error {
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	if d.plane.creds == nil {
		old, err := d.catalog.Import(ctx, d.data.join(dirCatalog), time.Now().UnixNano())
		if err != nil {
			return err
		}
		if old.Revision > 0 {
			d.events.add(levelInfo, "catalog.import", old.Kept, fmt.Sprintf("took the catalog over at revision %d; the old files are there, with secrets in the clear: delete them", old.Revision))
		}
		if n := old.TornBytes; n > 0 {
			d.events.add(levelWarning, "catalog.torn", old.Kept,
				fmt.Sprintf("left out %d bytes of a change that was being written when the node stopped", n))
		}
	}
	d.read.Store(true)
	if d.catalog.State().ClusterID.IsZero() {
		id := newID()
		if _, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_Init{Init: &catalogpb.Init{
			ClusterId: id[:],
			Iqn:       "iqn.2026-01.dev.blockd:" + id.String()[:12],
			Nqn:       "nqn.2014-08.org.nvmexpress:uuid:" + identity.UUIDString(id),
		}}}); err != nil {
			return err
		}
	}
	pool := d.catalog.State().Pool(catalog.DefaultPool)
	if pool == nil {
		id := newID()
		_, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_CreatePool{CreatePool: &catalogpb.CreatePool{
			Id: id[:], Name: catalog.DefaultPool, Replicas: 1, Media: string(d.cfg.Media)}}})
		return err
	}
	if d.plane.creds == nil && pool.Media != d.cfg.Media {
		return fmt.Errorf("the pool %q in %s keeps data on %s, and this start says --media %s; start with --media %s, or with another --data",
			pool.Name, d.data.path, pool.Media, d.cfg.Media, pool.Media)
	}
	return nil
}

// needsDisk reports whether this node has a disk: it plays the role, and the
// default pool or a disk in the catalog asks for one.
func (d *Daemon) needsDisk() bool {
	return d.cfg.has("store") && (d.cfg.Media == catalog.MediaDisk || len(d.cfg.Disks) > 0 || len(d.ownDisks()) > 0)
}

// newID returns a random identifier, in the form of a version 4 UUID.
func newID() catalog.ID {
	var id catalog.ID
	rand.Read(id[:]) // never fails
	return identity.UUID(id)
}

// commandTimeout bounds how long a change waits for a leader and a majority.
const commandTimeout = 30 * time.Second

// do is doContext for what the node does by itself.
func (d *Daemon) do(by *caller, cmd *catalogpb.Command) (catalog.Result, error) {
	return d.doContext(context.Background(), by, cmd)
}

// doContext gives the command what is not deterministic and hands it to the
// catalog, for at most commandTimeout. A nil caller is the node itself.
func (d *Daemon) doContext(ctx context.Context, by *caller, cmd *catalogpb.Command) (catalog.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	d.sign(by, cmd)
	res, err := d.catalog.DoContext(ctx, cmd)
	if err == nil && !res.Replayed {
		d.events.add(levelInfo, res.Audit.Action, res.Audit.Subject, res.Audit.Detail)
	}
	return res, err
}

// sign gives the command its version, its time, and who wants it.
func (d *Daemon) sign(by *caller, cmd *catalogpb.Command) {
	cmd.Version = catalog.CommandVersion
	cmd.TimeUnixNano = time.Now().UnixNano()
	cmd.Actor, cmd.Source = "blockd", "local"
	if by != nil {
		cmd.Actor, cmd.Source, cmd.RequestId = by.actor, by.source, by.requestID
	}
}

// listen opens every address, so that a taken one is found before anything is
// served.
func (d *Daemon) listen() error {
	open := func(what, addr, flag string) (net.Listener, error) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; is another blockd or target running? choose another address with %s", what, err, flag)
		}
		return l, nil
	}
	if d.cfg.has("target") {
		for _, addr := range d.cfg.ISCSI {
			l, err := open("iSCSI portal", addr, "--iscsi")
			if err != nil {
				return err
			}
			d.portals = append(d.portals, l)
		}
		for _, addr := range d.cfg.NVMe {
			l, err := open("NVMe/TCP port", addr, "--nvme")
			if err != nil {
				return err
			}
			d.nvme.ports = append(d.nvme.ports, l)
		}
		for _, addr := range d.cfg.Discovery {
			l, err := open("NVMe discovery", addr, "--discovery")
			if err != nil {
				return err
			}
			d.nvme.discovery = append(d.nvme.discovery, l)
		}
	}
	return nil
}

func (d *Daemon) startTarget(ctx context.Context) error {
	s := d.catalog.State()
	var err error
	d.target, err = scsi.NewTarget(d.targetConfig(s), scsi.Deps{
		Arena: d.arena, Reservations: d.reservations, Events: d.scsiEvent, Clock: d.cfg.hostClock})
	if err != nil {
		return err
	}
	d.iscsi, err = iscsi.New(d.iscsiConfig(s))
	if err != nil {
		return err
	}
	return d.startNVMe(ctx, s)
}

func (d *Daemon) iscsiConfig(s *catalog.State) iscsi.Config {
	return iscsi.Config{TargetName: s.IQN, Alias: "blockd", Target: d.target, Arena: d.arena,
		Auth: directory{d.catalog}, Soon: d.soon, Events: d.iscsiEvent, Elsewhere: d.portalsElsewhere(s)}
}

func (d *Daemon) servePortals() {
	for _, l := range d.portals {
		d.background.Go(func() {
			if err := d.iscsi.Serve(l, d.portNumber()); err != nil && !d.stopping.Load() {
				d.events.add(levelError, "portal.failed", l.Addr().String(), err.Error())
			}
		})
	}
}

// servePorts serves what listen opened for NVMe.
func (d *Daemon) servePorts() {
	serve := func(l net.Listener, run func() error) {
		d.background.Go(func() {
			if err := run(); err != nil && !d.stopping.Load() {
				d.events.add(levelError, "port.failed", l.Addr().String(), err.Error())
			}
		})
	}
	for i, l := range d.nvme.ports {
		serve(l, func() error { return d.nvme.server.Serve(l, portID(d.portNumber(), i)) })
	}
	for _, l := range d.nvme.discovery {
		serve(l, func() error { return d.nvme.server.ServeDiscovery(l) })
	}
}

func (d *Daemon) scsiEvent(e scsi.Event) {
	subject := d.volumeNamed(e.Unit)
	switch e.Kind {
	case scsi.EventDeviceError:
		if d.errorGate.pass("scsi " + subject) {
			d.events.add(levelError, "volume.error", subject, e.Text)
		}
	case scsi.EventReset:
		d.events.add(levelWarning, "volume.reset", subject, fmt.Sprintf("%s by %s", e.Text, e.Nexus.InitiatorName))
	case scsi.EventAccessState:
		d.events.add(levelInfo, "target.access", fmt.Sprint(e.Group), e.Text)
	}
}

func (d *Daemon) iscsiEvent(e iscsi.Event) {
	lv, text := levelInfo, fmt.Sprintf("from %v", e.Remote)
	switch e.Kind {
	case iscsi.EventLoginFailed, iscsi.EventDropped, iscsi.EventReset:
		lv = levelWarning
	}
	if e.Discovery {
		text = "discovery " + text
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	subject := e.Initiator
	if subject == "" {
		subject = "unknown initiator"
	}
	if lv == levelWarning && !d.errorGate.pass(e.Kind.String()+subject) {
		return
	}
	d.events.add(lv, "session."+e.Kind.String(), subject, text)
}

func (d *Daemon) nodeName() string {
	if d.cfg.Name != "" {
		return d.cfg.Name
	}
	name, err := os.Hostname()
	if err != nil {
		return "node"
	}
	return name
}

// APIAddress is where the control API listens, or will.
func (d *Daemon) APIAddress() string {
	if d.plane.port == nil {
		return d.cfg.API
	}
	return d.plane.port.Addr().String()
}

// ISCSIAddresses are where the iSCSI portals listen.
func (d *Daemon) ISCSIAddresses() []string {
	var out []string
	for _, l := range d.portals {
		out = append(out, l.Addr().String())
	}
	return out
}

// Version is the version of this build: the module's, or the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "development"
}
