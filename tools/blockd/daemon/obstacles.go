package daemon

import (
	"fmt"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
	replicated "blockd.dev/replication/volume"
)

// A copy may be out of sync, and stay so for a while, though its disk and its node are there: the disk is slow, or
// full. Only the owner of the volume knows (replication/volume); here is what an administrator hears of it.

var obstacleNames = map[replicated.Hinders]string{
	replicated.Slow: "slow", replicated.Hung: "hung", replicated.Silent: "silent", replicated.Full: "full",
}

// obstacleOf is what an owner says at a time that is in the way of a copy, or was; nil when nothing ever was.
func obstacleOf(b *replicated.Obstacle, now time.Time) *blockdv1.Obstacle {
	if b.What == 0 {
		return nil
	}
	out := &blockdv1.Obstacle{What: obstacleNames[b.What], Now: b.Now, Times: b.Times, Since: timeText(now.Add(-b.Ago)),
		TookMs: millis(b.Took), OthersMs: millis(b.Others)}
	if b.Wait > 0 {
		out.Again = timeText(now.Add(b.Wait))
	}
	return out
}

// obstacleWords says what is in the way of a copy of a volume.
func obstacleWords(disk, volume string, b *blockdv1.Obstacle) string {
	took := shortly(b.GetTookMs())
	switch b.GetWhat() {
	case "slow":
		words := fmt.Sprintf("disk %s is slow: hosts' writes to volume %s took %v there", disk, volume, took)
		if b.GetOthersMs() > 0 {
			words += fmt.Sprintf(", and %v at most on its other disks", shortly(b.GetOthersMs()))
		}
		return words
	case "hung":
		return fmt.Sprintf("disk %s hung: it kept a request for volume %s for %v without an answer", disk, volume, took)
	case "silent":
		return fmt.Sprintf("disk %s answered nothing that volume %s asked of it for %v", disk, volume, took)
	case "full":
		return fmt.Sprintf("disk %s is full: it has no space for what its copy of volume %s is to have", disk, volume)
	}
	return fmt.Sprintf("the copy of volume %s on disk %s is held up: %s", volume, disk, b.GetWhat()) // by an owner of a later release
}

// obstacleAdvice is what an administrator can do.
func obstacleAdvice(disk, volume string, b *blockdv1.Obstacle) string {
	switch b.GetWhat() {
	case "full":
		return fmt.Sprintf("make space on disk %s: delete volumes, let hosts discard what they don't use (fstrim), or have other disks get some of it (`blockctl cluster rebalance`)", disk)
	case "silent":
		return fmt.Sprintf("see whether the node of disk %s is heard (`blockctl node list`), and what the kernel of that node says of the disk; if that is what hangs, `blockctl disk drain %s`, and replace it", disk, disk)
	}
	return fmt.Sprintf("see what disk %s takes (write-copy in `blockctl volume latency %s`), and what the kernel of its node says of it; if it stays slow, `blockctl disk drain %s`, and replace it", disk, volume, disk)
}

// shortly is a time in words, with no more digits than mean something.
func shortly(ms float64) time.Duration {
	d := time.Duration(ms * float64(time.Millisecond))
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// addObstacles adds to an explanation what the owner has told of copies that are held up.
func (s *sharing) addObstacles(e *director.Explanation, state *catalog.State, v *catalog.Volume, told *blockdv1.Volume) {
	for _, r := range told.GetReplicas() {
		b, disk := r.GetObstacle(), numberName(state, uint16(r.GetNumber()))
		if !b.GetNow() || s.nodesSilence(state, r) {
			continue
		}
		again := clockText(b.GetAgain())
		e.Because = append(e.Because, fmt.Sprintf("%s (%s)", obstacleWords(disk, v.Name, b), clockText(b.GetSince())))
		if again != "" {
			e.Next = append(e.Next, fmt.Sprintf("what disk %s lacks is not copied to it before %s, and then it is tried again: %s", disk, again, whyLater(b)))
		}
		e.Advice = append(e.Advice, obstacleAdvice(disk, v.Name, b))
	}
}

// nodesSilence reports whether a copy is silent since its node is, which is told by itself.
func (s *sharing) nodesSilence(state *catalog.State, r *blockdv1.Replica) bool {
	d := state.DiskByNumber(extmap.Disk(r.GetNumber()))
	return r.GetObstacle().GetWhat() == "silent" && d != nil && s.silent(d.Node)
}

// whyLater is why an attempt waits.
func whyLater(b *blockdv1.Obstacle) string {
	if b.GetWhat() == "full" {
		return "there may be space by then"
	}
	return "hosts' writes wait for the disk meanwhile, so it is tried more and more rarely"
}

// clockText is a time of a message in words; "" when there is none.
func clockText(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// reportObstacles makes an event of each that an owner has met since it told of them before; nil is for never.
func (s *sharing) reportObstacles(id catalog.ID, before, now *blockdv1.Volume) {
	known := map[uint32]uint64{}
	for _, r := range before.GetReplicas() {
		known[r.GetNumber()] = r.GetObstacle().GetTimes()
	}
	state, volume := s.d.catalog.State(), s.d.volumeNamed(id)
	for _, r := range now.GetReplicas() {
		b, disk := r.GetObstacle(), numberName(state, uint16(r.GetNumber()))
		if b.GetTimes() <= known[r.GetNumber()] || s.nodesSilence(state, r) {
			continue
		}
		kind := "disk.slow"
		if b.GetWhat() == "full" {
			kind = "disk.full"
		}
		s.d.events.add(levelWarning, kind, disk, obstacleWords(disk, volume, b)+"; "+obstacleAdvice(disk, volume, b))
	}
}
