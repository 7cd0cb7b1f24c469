package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/target/access"
	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/reservation"
	"blockd.dev/target/scsi"
)

// errNotAllowedNow ends the sessions of hosts that were deleted.
var errNotAllowedNow = errors.New("the host is not allowed any more")

// volume is a volume of the catalog on this node.
type volume struct {
	id    catalog.ID
	media catalog.Media
	dev   *meter // nil when it could not be opened
	err   error  // why it is not wholly what the catalog says
	stop  func() // ends the watch of dev
	// unseen keeps the volume from hosts, since it is not known whom its reservations fence.
	unseen bool
}

// close closes the device, if any.
func (v *volume) close() error {
	if v.dev == nil {
		return nil
	}
	v.stop()
	v.dev.limit(catalog.Limits{}) // nothing is held any more
	return v.dev.Close()
}

// backing is what it is served from; nil when it could not be opened.
func (v *volume) backing() backing {
	if v.dev == nil {
		return nil
	}
	return v.dev.backing
}

// volumeTable is what is open. The reconciler alone changes the list; the lock
// is for readers.
type volumeTable struct {
	mu   sync.Mutex
	list map[catalog.ID]*volume
	// access has the volumes that are not optimized here; anyone may change it.
	access map[catalog.ID]access.State
}

func (t *volumeTable) get(id catalog.ID) (volume, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.list[id]
	if v == nil {
		return volume{}, false
	}
	return *v, true
}

func (t *volumeTable) put(v volume) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.list == nil {
		t.list = map[catalog.ID]*volume{}
	}
	t.list[v.id] = &v
}

func (t *volumeTable) drop(id catalog.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.list, id)
	delete(t.access, id)
}

func (t *volumeTable) accessOf(id catalog.ID) access.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.access[id]
}

func (t *volumeTable) setAccess(id catalog.ID, s access.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.access == nil {
		t.access = map[catalog.ID]access.State{}
	}
	t.access[id] = s
}

// all returns the volumes in no order.
func (t *volumeTable) all() []volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]volume, 0, len(t.list))
	for _, v := range t.list {
		out = append(out, *v)
	}
	return out
}

// applied tells which revision of the catalog the node has become.
type applied struct {
	mu       sync.Mutex
	revision uint64
	changed  chan struct{}
}

func (a *applied) set(rev uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revision = rev
	if a.changed != nil {
		close(a.changed)
	}
	a.changed = make(chan struct{})
}

// wait returns when the node has reached rev, or the context's error.
func (a *applied) wait(ctx context.Context, rev uint64) error {
	for {
		a.mu.Lock()
		now, changed := a.revision, a.changed
		a.mu.Unlock()
		if now >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reconcileLoop makes the node follow the catalog until ctx ends.
func (d *Daemon) reconcileLoop(ctx context.Context, after uint64) {
	for {
		s, err := d.catalog.Wait(ctx, after)
		if err != nil {
			return
		}
		d.reconcile(s)
		after = s.Revision
	}
}

// reconcile makes the node be what s says. What fails is noted at the volume
// and tried again with the next change; other volumes go on.
func (d *Daemon) reconcile(s *catalog.State) {
	if d.shared.Load() != nil {
		d.shared.Load().follow(s)
		d.followReservations(s)
	}
	want := map[catalog.ID]bool{}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Retired || !d.serves(s, v) {
			continue
		}
		want[v.ID] = true
		d.reconcileVolume(s, v)
	}
	if err := d.configureTarget(); err != nil {
		d.events.add(levelError, "target.configure", s.IQN, err.Error())
	}
	if d.iscsi != nil {
		allowed := directory{d.catalog}
		d.iscsi.Drop(errNotAllowedNow, func(i iscsi.SessionInfo) bool {
			_, err := allowed.Host(i.Initiator)
			return errors.Is(err, auth.ErrNotAllowed)
		})
	}
	for _, v := range d.volumes.all() {
		if want[v.id] {
			continue
		}
		if err := v.close(); err != nil {
			d.events.add(levelError, "volume.close", v.id.String(), err.Error())
		}
		d.volumes.drop(v.id)
	}
	for i := range s.Volumes {
		if v := &s.Volumes[i]; v.Retired && d.serves(s, v) {
			d.removeVolume(s, v)
		}
	}
	if d.shared.Load() != nil {
		d.shared.Load().forgetDeleted(s)
	}
	d.expel()
	d.applied.set(s.Revision)
}

// reconcileVolume opens and resizes one volume, and looks whether its reservations can be read.
func (d *Daemon) reconcileVolume(s *catalog.State, cv *catalog.Volume) {
	v, known := d.volumes.get(cv.ID)
	if !known {
		v = volume{id: cv.ID, media: s.Pool(cv.Pool).Media}
	}
	before := v.err
	v.err = nil
	if v.dev == nil {
		b, err := d.openBacking(s, cv, v.media)
		if err != nil {
			v.err = fmt.Errorf("open: %w", err)
		} else {
			name := cv.Name
			v.dev = newMeter(b, func(err error) { d.volumeFailed(name, err) })
			v.stop = b.Watch(func(c blockdev.Change) {
				if c == blockdev.ChangeGone {
					d.events.add(levelError, "volume.gone", name, "the volume fails every request from now on")
				}
			})
		}
	} else if size := v.dev.Geometry().SizeBytes; size != cv.SizeBytes {
		if err := v.dev.Resize(cv.SizeBytes); err != nil {
			v.err = fmt.Errorf("resize from %d to %d bytes: %w", size, cv.SizeBytes, err)
		}
	}
	if v.dev != nil && !d.stopping.Load() {
		v.dev.limit(cv.Limits)
	}
	_, err := d.reservations.Volume(reservation.VolumeID(cv.ID))
	if v.unseen = err != nil; v.unseen {
		v.err = errors.Join(v.err, fmt.Errorf("hosts do not see it through this node, which looks again at each change of the catalog: %w", err))
	}
	if v.err != nil && (before == nil || before.Error() != v.err.Error()) {
		d.events.add(levelError, "volume.failed", cv.Name, v.err.Error())
	}
	d.volumes.put(v)
}

// volumeFailed notes an I/O error. A disk that fails does so for each request,
// so that only the first of a second is an event; metrics count them all.
func (d *Daemon) volumeFailed(name string, err error) {
	if d.errorGate.pass(name) {
		d.events.add(levelError, "volume.io-error", name, err.Error())
	}
}

// removeVolume removes the data of a retired volume, and then the volume.
func (d *Daemon) removeVolume(s *catalog.State, cv *catalog.Volume) {
	err := d.deleteBacking(cv, s.Pool(cv.Pool).Media)
	if err == nil {
		err = d.reservations.Remove([16]byte(cv.ID))
	}
	if err == nil {
		_, err = d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_RemoveVolume{
			RemoveVolume: &catalogpb.RemoveVolume{Id: cv.ID[:]}}})
	}
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		d.volumes.put(volume{id: cv.ID, err: fmt.Errorf("delete: %w", err)})
		d.events.add(levelError, "volume.delete", cv.Name, err.Error())
		return
	}
	d.volumes.drop(cv.ID)
}

// configureTarget shows the hosts what the catalog says, and how volumes are
// reached. What was configured last stays, so that only one may be at it, and whoever is
// takes what the catalog is then: of two, the one who has waited longer may have an older one.
func (d *Daemon) configureTarget() error {
	if d.target == nil {
		return nil
	}
	d.configuring.Lock()
	defer d.configuring.Unlock()
	s := d.catalog.State()
	err := d.target.Configure(d.targetConfig(s))
	if d.iscsi != nil {
		err = errors.Join(err, d.iscsi.Configure(d.iscsiConfig(s)))
	}
	return errors.Join(err, d.configureNVMe(s))
}

// shown is a volume that hosts may be shown; ok is false for one that could not be opened, and
// for one whose reservations can't be read: each of these would keep all others from being configured.
func (d *Daemon) shown(cv *catalog.Volume) (v volume, ok bool) {
	v, ok = d.volumes.get(cv.ID)
	return v, ok && v.dev != nil && !v.unseen && !cv.Retired
}

// targetConfig is what the catalog says, less what hosts can't be shown.
func (d *Daemon) targetConfig(s *catalog.State) scsi.TargetConfig {
	cfg := scsi.TargetConfig{Name: s.IQN, Views: map[string]scsi.View{},
		Ports: []scsi.PortConfig{{RelativeID: d.portNumber(), Group: d.portNumber(), Name: d.portName(s.IQN)}}}
	open := map[catalog.ID]bool{}
	for i := range s.Volumes {
		cv := &s.Volumes[i]
		if v, ok := d.shown(cv); ok {
			open[cv.ID] = true
			u := scsi.UnitConfig{ID: cv.ID, Name: cv.Name, Device: v.dev,
				Access: d.volumes.accessOf(cv.ID), Protect: protections[cv.Protection]}
			if v.media == catalog.MediaDisk {
				u.SoftThreshold = d.softThreshold(cv)
			}
			cfg.Units = append(cfg.Units, u)
		}
	}
	view := func(host catalog.ID) scsi.View {
		out := scsi.View{}
		for lun, id := range s.View(host) {
			if open[id] {
				out[lun] = id
			}
		}
		return out
	}
	cfg.AnyView = view(catalog.ID{})
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.IQN != "" {
			cfg.Views[h.IQN] = view(h.ID)
		}
	}
	return cfg
}
