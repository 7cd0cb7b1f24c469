package group

import (
	"cmp"
	"slices"
)

// Candidate is a member as ChooseVoters sees it.
type Candidate struct {
	ID string
	// Domains are the failure domains that it is in, the widest first: zone,
	// rack, host. Empty names are unknown ones, shared with nobody.
	Domains []string
	Voter   bool // it votes now
	Leader  bool // it leads now
	Alive   bool // it answered within Config.ReplaceAfter
	Ready   bool // it answers now, and has nearly all of the log
}

// ChooseVoters returns the ids of those who should vote, sorted. The rules,
// the strongest first:
//
//  1. Their number is odd, at most desired, and at most that of the members:
//     a fourth voter tolerates no more losses than three, and two none.
//  2. The leader votes.
//  3. A voter is replaced when it is gone, by a member that is ready; while
//     there is none, the lost one stays. A member that isn't ready is never made a voter.
//  4. They share as few failure domains as can be, the widest first.
//  5. Who votes now goes on to vote.
func ChooseVoters(members []Candidate, desired int) []string {
	var usable []Candidate
	for _, c := range members {
		if c.Voter || c.Ready {
			usable = append(usable, c)
		}
	}
	want := min(desired, len(usable))
	if want%2 == 0 {
		want-- // also from 0 to -1: then nobody is chosen
	}
	var chosen []Candidate
	for len(chosen) < want {
		best := slices.MinFunc(usable, func(a, b Candidate) int { return compareCandidates(a, b, chosen) })
		chosen = append(chosen, best)
		usable = slices.DeleteFunc(usable, func(c Candidate) bool { return c.ID == best.ID })
	}
	ids := make([]string, len(chosen))
	for i := range chosen {
		ids[i] = chosen[i].ID
	}
	slices.Sort(ids)
	return ids
}

// compareCandidates puts first who should be chosen next.
func compareCandidates(a, b Candidate, chosen []Candidate) int {
	if c := trueFirst(a.Leader, b.Leader); c != 0 {
		return c
	}
	if c := trueFirst(a.Alive || a.Ready, b.Alive || b.Ready); c != 0 {
		return c
	}
	for level := range max(len(a.Domains), len(b.Domains)) {
		if c := cmp.Compare(sharing(a, chosen, level), sharing(b, chosen, level)); c != 0 {
			return c
		}
	}
	if c := trueFirst(a.Voter, b.Voter); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// sharing counts who of chosen is in the same domain as c.
func sharing(c Candidate, chosen []Candidate, level int) int {
	n := 0
	for _, o := range chosen {
		if level < len(c.Domains) && level < len(o.Domains) && c.Domains[level] != "" && c.Domains[level] == o.Domains[level] {
			n++
		}
	}
	return n
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// voterChange is one step towards the voters that should be. Promotions come
// first, so that the group never has fewer voters than it should for the
// sake of a change.
type voterChange struct {
	promote, demote string // at most one is set
}

// nextVoterChange returns the next step from who votes now to who should. Each
// leaves a majority of living voters.
func nextVoterChange(members []Candidate, should []string) voterChange {
	voters, alive := 0, 0
	for _, c := range members {
		if c.Voter {
			voters++
			if c.Ready {
				alive++
			}
		}
	}
	for _, c := range members {
		if !c.Voter && c.Ready && slices.Contains(should, c.ID) {
			return voterChange{promote: c.ID}
		}
	}
	for _, c := range members {
		if !c.Voter || c.Leader || slices.Contains(should, c.ID) {
			continue
		}
		left := alive
		if c.Ready {
			left--
		}
		if left >= (voters-1)/2+1 {
			return voterChange{demote: c.ID}
		}
	}
	return voterChange{}
}
