package wire

import (
	"errors"
	"testing"
	"time"
)

// Both ends ask for more than the other's window and its own queue hold, and answer nothing until both windows are
// full. What is held there is let go when its answer has arrived, as in package endpoint.
func TestAnswersPassWhereBothWindowsAreFull(t *testing.T) {
	const asked = 200
	for name, size := range map[string]int{"of messages": 100, "of bytes": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			w := pair(t, 1, func(_ int, cfg *Config) { cfg.WindowBytes, cfg.SendMessages = 4<<20, 100 })
			left := [2]int{asked, asked}
			answers := [2]map[MessageID]MessageID{{}, {}} // by what they answer
			for i, n := range w.node {
				n.mute, n.keep = true, true
				for ; left[i] > 0; left[i]-- {
					if _, err := n.send(Outgoing{Kind: Request}, size); err != nil {
						break
					}
				}
				n.flush()
			}
			w.pass(t, 20*time.Millisecond)
			over := func() bool {
				all := true
				for i, n := range w.node {
					for ; left[i] > 0; left[i]-- {
						if _, err := n.send(Outgoing{Kind: Request}, size); err != nil {
							break
						}
					}
					held := n.holding[:0]
					for _, h := range n.holding {
						id, answered := answers[i][h.m.ID]
						if !answered && h.m.Kind == Request {
							sent, err := n.send(Outgoing{Kind: Response, InReplyTo: h.m.ID}, 50)
							if err != nil && !errors.Is(err, ErrQueueFull) {
								t.Fatal(err)
							}
							if err == nil {
								answers[i][h.m.ID] = sent
							}
						}
						if h.m.Kind == Response || answered && n.sent[id-1].done {
							h.m.Release()
							continue
						}
						held = append(held, h)
					}
					n.holding = held
					n.flush()
					n.events()
					all = all && left[i] == 0
					for _, s := range n.sent {
						all = all && (s.out.Kind != Request || s.answered)
					}
				}
				return all
			}
			w.waitFor(t, 5*time.Second, "all answers", over)
		})
	}
}
