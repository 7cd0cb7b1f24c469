package wire

// sealing is the key that this side's Data packets are sealed by, and how much
// it has been used. Each direction changes its key on its own: the phase, a
// bit in every packet, flips.
type sealing struct {
	Sealer
	phase     bool
	first     uint64 // number of the first packet of this phase
	packets   uint64
	bytes     uint64
	confirmed bool // a packet of this phase was acknowledged: the peer has followed
}

// worn tells that it is time for the next key, and that the peer can follow:
// it keeps only one key ahead.
func (s *sealing) worn(cfg *Config) bool {
	return s.confirmed && (s.packets >= cfg.RekeyPackets || s.bytes >= cfg.RekeyBytes)
}

// turn goes on to the next key, from packet number on.
func (s *sealing) turn(number uint64) {
	*s = sealing{Sealer: s.Next(), phase: !s.phase, first: number}
}

// acked notes that the peer has opened packet number.
func (s *sealing) acked(number uint64) {
	s.confirmed = s.confirmed || number >= s.first && s.packets > 0
}

// opening is the keys of the peer's Data packets: the present one, the next,
// and the one before, for packets that were overtaken by the change.
type opening struct {
	before, now, next Opener
	phase             bool
	first             uint64 // lowest number known to be of this phase
	forged            uint64 // packets that no key opened
}

func newOpening(o Opener) opening { return opening{now: o, next: o.Next()} }

// open decrypts packet, and counts those that it can't.
func (o *opening) open(packet []byte, header int, number uint64, phase bool) ([]byte, bool) {
	payload, ok := o.try(packet, header, number, phase)
	if !ok {
		o.forged++
	}
	return payload, ok
}

// spent tells that too much has been tried on these keys.
func (o *opening) spent() bool { return o.forged > o.now.ForgedMax() }

// try decrypts packet. All numbers of a phase are above those of the phase
// before, so phase and number tell the one key to try; trying destroys.
func (o *opening) try(packet []byte, header int, number uint64, phase bool) ([]byte, bool) {
	switch {
	case phase == o.phase:
		payload, ok := o.now.Open(packet, header, number)
		if ok {
			o.first = min(o.first, number)
		}
		return payload, ok
	case number < o.first:
		if o.before == nil {
			return nil, false
		}
		return o.before.Open(packet, header, number)
	}
	payload, ok := o.next.Open(packet, header, number)
	if ok {
		*o = opening{before: o.now, now: o.next, next: o.next.Next(), phase: phase, first: number, forged: o.forged}
	}
	return payload, ok
}
