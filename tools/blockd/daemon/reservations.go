package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
	"blockd.dev/target/reservation"
)

// reservations keeps the tables of volumes that one node serves in files of that node, and
// those of volumes that all nodes serve in the catalog.
type reservations struct {
	local  *reservation.Local
	shared *reservation.Shared
	// isShared reports which of the two a volume is.
	isShared func(reservation.VolumeID) bool
}

func (r *reservations) of(id reservation.VolumeID) reservation.Backend {
	if r.isShared(id) {
		return r.shared
	}
	return r.local
}

// Volume implements reservation.Backend.
func (r *reservations) Volume(id reservation.VolumeID) (*reservation.Volume, error) {
	return r.of(id).Volume(id)
}

// Apply implements reservation.Backend.
func (r *reservations) Apply(ctx context.Context, id reservation.VolumeID, c *reservation.Command) (reservation.Result, error) {
	return r.of(id).Apply(ctx, id, c)
}

// Remove implements reservation.Backend.
func (r *reservations) Remove(id reservation.VolumeID) error {
	return errors.Join(r.local.Remove(id), r.shared.Remove(id))
}

// openReservations opens the tables of both kinds.
func (d *Daemon) openReservations() error {
	local, err := reservation.OpenLocal(d.data.join("reservations"))
	if err != nil {
		return err
	}
	d.reservations = &reservations{local: local, shared: reservation.NewShared(reservationLog{d}),
		isShared: func(id reservation.VolumeID) bool {
			s := d.catalog.State()
			v := s.VolumeByID(catalog.ID(id))
			return v != nil && shared(s, v)
		}}
	return nil
}

// reservationLog is the catalog as the log of the shared tables.
type reservationLog struct{ d *Daemon }

// Table implements reservation.Log.
func (l reservationLog) Table(id reservation.VolumeID) (generation uint64, record []byte) {
	r := l.d.catalog.State().Reservation(catalog.ID(id))
	return r.Generation, []byte(r.Blob)
}

// Replace implements reservation.Log.
func (l reservationLog) Replace(ctx context.Context, id reservation.VolumeID, expect uint64, record []byte) error {
	_, err := l.d.doContext(ctx, nil, &catalogpb.Command{Kind: &catalogpb.Command_SetReservation{SetReservation: &catalogpb.SetReservation{
		Volume: id[:], ExpectGeneration: expect, Blob: record}}})
	if !errors.Is(err, catalog.ErrConflict) {
		return err
	}
	if err := l.d.catalog.Barrier(ctx); err != nil {
		return err
	}
	return reservation.ErrOutdated
}

// Barrier implements reservation.Log.
func (l reservationLog) Barrier(ctx context.Context) error { return l.d.catalog.Barrier(ctx) }

// Spread implements reservation.Log. A node that neither answers nor is heard, as it will be taken for down, serves nobody
// but as the owner: what it forwards carries the generation that it knew, and the owner refuses older ones than its own.
func (l reservationLog) Spread(ctx context.Context, id reservation.VolumeID, generation uint64) error {
	d := l.d
	nodes := slices.DeleteFunc(d.reachableNodes(d.catalog.State()), func(n catalog.Node) bool { return !n.Plays(director.RoleTarget) })
	errs := make([]error, len(nodes))
	asked := make([]bool, len(nodes)) // and they enforce it
	ask := func(ctx context.Context, n *catalog.Node) error {
		p := d.plane.peers.At(n.ID.String(), n.Address)
		_, err := blockdv1connect.NewPeerServiceClient(p, p.URL).EnforceReservation(ctx,
			connect.NewRequest(&blockdv1.EnforceReservationRequest{Volume: id[:], Generation: generation}))
		return err
	}
	var asking sync.WaitGroup
	for i := range nodes {
		asking.Go(func() {
			silent := func() bool { return d.shared.Load().silent(nodes[i].ID) }
			asked[i], errs[i] = untilSilent(ctx, silent, func() error { return ask(ctx, &nodes[i]) })
		})
	}
	asking.Wait()
	var enforce []catalog.Node
	for i, err := range errs {
		switch {
		case err != nil:
			return fmt.Errorf("%w: node %s: %w", reservation.ErrUnfinished, nodes[i].Name, err)
		case asked[i]:
			enforce = append(enforce, nodes[i])
		}
	}
	return l.ownerEnforces(ctx, catalog.ID(id), enforce, ask)
}

// askAgain is the time between two tries to ask a node that does not answer.
const askAgain = 100 * time.Millisecond

// untilSilent asks a node again and again until it has answered, or is found to be silent as well, which is no error.
// The command has taken effect: to fail it when the first try fails, right after a node has died, would have hosts
// repeat it, and find a conflict, since whom it preempts is gone.
func untilSilent(ctx context.Context, silent func() bool, ask func() error) (answered bool, err error) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		if err = ask(); err == nil || silent() {
			return err == nil, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, err
		}
	}
}

// ownerEnforces returns when the owner of a volume enforces a table, which the catalog here has and
// this node and those in asked enforce. A node that is taken for down may own the volume until its lease
// has ended, and serve its own hosts by the table from before. Whoever has the lease next, which is granted
// after that, has the table with it: see sharing.settle.
func (l reservationLog) ownerEnforces(ctx context.Context, id catalog.ID, asked []catalog.Node, ask func(context.Context, *catalog.Node) error) error {
	for {
		s := l.d.catalog.State()
		held, owned := s.Lease(id)
		if !owned || held.Owner.IsZero() || held.Owner == l.d.plane.id() ||
			slices.ContainsFunc(asked, func(n catalog.Node) bool { return n.ID == held.Owner }) {
			return nil
		}
		err := errors.New("it was removed from the cluster")
		if n := s.NodeByID(held.Owner); n != nil {
			ctx, cancel := context.WithTimeout(ctx, aroundTimeout)
			err = ask(ctx, n)
			cancel()
		}
		if err == nil {
			return nil
		}
		if _, waited := l.d.catalog.Wait(ctx, s.Revision); waited != nil {
			return fmt.Errorf("%w: node %s, which is taken for down, has the lease of the volume still: %w", reservation.ErrUnfinished, held.Owner, err)
		}
	}
}

// EnforceReservation implements blockdv1connect.PeerServiceHandler.
func (a api) EnforceReservation(ctx context.Context, req *connect.Request[blockdv1.EnforceReservationRequest]) (*connect.Response[blockdv1.EnforceReservationResponse], error) {
	id := reservation.VolumeID(parseVolume(req.Msg.GetVolume()))
	s := a.d.catalog.State()
	for s.Reservation(catalog.ID(id)).Generation < req.Msg.GetGeneration() {
		var err error
		if s, err = a.d.catalog.Wait(ctx, s.Revision); err != nil {
			return nil, apiError(err)
		}
	}
	if err := a.d.reservations.shared.Ended(ctx, id, req.Msg.GetGeneration()); err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&blockdv1.EnforceReservationResponse{}), nil
}

// parseVolume reads an identifier of a message; zero for what is none.
func parseVolume(b []byte) (id catalog.ID) {
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// followReservations publishes what has changed in the tables of the volumes
// that this node shares.
func (d *Daemon) followReservations(s *catalog.State) {
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if !shared(s, v) || v.Retired {
			continue
		}
		if err := d.reservations.shared.Follow(reservation.VolumeID(v.ID)); err != nil && d.errorGate.pass("reservations "+v.Name) {
			d.events.add(levelError, "volume.reservations", v.Name, err.Error())
		}
	}
}
