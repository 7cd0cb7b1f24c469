package catalog

import "blockd.dev/raftmeta/catalog/catalogpb"

// ReservationMax bounds the encoded reservations of a volume, in bytes.
const ReservationMax = 512 << 10

// Reservation is the table of reservations of a volume, as bytes that only
// target/reservation understands.
type Reservation struct {
	Volume     ID
	Generation uint64 // grows by one with every change
	Blob       string // bytes
}

// Reservation returns the reservations of a volume; the zero value, with
// generation 0, when it never had any.
func (s *State) Reservation(volume ID) Reservation {
	r, _ := s.reservations.Get(volume)
	r.Volume = volume
	return r
}

// setReservation replaces what the proposer has seen; when somebody else was
// first it is refused. It is not in the audit log: it is hosts' doing.
func (f *fold) setReservation(c *catalogpb.SetReservation) error {
	id, _ := idFrom(c.GetVolume())
	v := f.VolumeByID(id)
	if v == nil {
		return refuse(ErrNotFound, "no volume with id %s", id)
	}
	r := f.Reservation(id)
	switch {
	case r.Generation != c.GetExpectGeneration():
		return refuse(ErrConflict, "the reservations of volume %q have generation %d, not %d: they were changed in between", v.Name, r.Generation, c.GetExpectGeneration())
	case len(c.GetBlob()) > ReservationMax:
		return refuse(ErrInvalid, "reservations of %d bytes: at most %d", len(c.GetBlob()), ReservationMax)
	}
	r.Generation, r.Blob = r.Generation+1, string(c.GetBlob())
	f.reservations = f.reservations.With(id, r)
	f.quietly("volume.reserve", v.Name, "generation %d, %d bytes", r.Generation, len(r.Blob))
	return nil
}

func reservationTo(e *Reservation) *catalogpb.Reservation {
	return &catalogpb.Reservation{Volume: e.Volume[:], Generation: e.Generation, Blob: []byte(e.Blob)}
}

func (l *loader) reservation(e *catalogpb.Reservation) Reservation {
	return Reservation{Volume: l.id(e.GetVolume(), false), Generation: e.GetGeneration(), Blob: string(e.GetBlob())}
}
