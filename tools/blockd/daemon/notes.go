package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"blockd.dev/internal/durable"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
)

// note puts into the audit log what somebody did that changes nothing in the catalog. While
// nodes of a release are in the cluster that has no notes, it is an event of this node.
func (d *Daemon) note(ctx context.Context, by *caller, n *catalogpb.Note) error {
	_, err := d.doContext(ctx, by, &catalogpb.Command{Kind: &catalogpb.Command_Note{Note: n}})
	if !errors.Is(err, group.ErrGate) {
		return err
	}
	who := ""
	if by != nil {
		who = fmt.Sprintf(", by %s from %s", by.actor, by.source)
	}
	d.events.add(levelInfo, n.GetAction(), n.GetSubject(), n.GetDetail()+who)
	return nil
}

// noteDone is note for what is done already: that it was noted is not part of it, but that it
// was not is an event. result is why it came to nothing, or nil.
func (d *Daemon) noteDone(ctx context.Context, by *caller, n *catalogpb.Note, result error) {
	if result != nil {
		n.Refused = result.Error()
	}
	if err := d.note(context.WithoutCancel(ctx), by, n); err != nil {
		d.events.add(levelWarning, n.GetAction(), n.GetSubject(), fmt.Sprintf("%s; it is not in the audit log: %v", n.GetDetail(), err))
	}
}

// fileBrought is in the data directory from a restore or a recovery, which is done
// while blockd does not run, until the audit log has it.
const fileBrought = "brought-back.json"

// broughtBack is how the state of a cluster was brought back.
type broughtBack struct {
	Action string    `json:"action"` // cluster.restore or cluster.recover
	Detail string    `json:"detail"`
	Actor  string    `json:"actor"`
	At     time.Time `json:"at"`
}

// saveBrought keeps a note for the first start.
func (d *dataDir) saveBrought(action, detail string) error {
	b, err := json.Marshal(broughtBack{action, detail, fmt.Sprintf("local:%d", os.Getuid()), time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	return durable.Replace(d.join(fileBrought), append(b, '\n'))
}

// noteEvery is the time between attempts to note what was brought back.
const noteEvery = 2 * time.Second

// noteBrought puts it into the audit log, when there is a leader again.
func (d *Daemon) noteBrought(ctx context.Context) {
	b, err := os.ReadFile(d.data.join(fileBrought))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var was broughtBack
	if err == nil {
		err = json.Unmarshal(b, &was)
	}
	for err == nil {
		err = d.note(ctx, &caller{actor: was.Actor, source: "local"}, &catalogpb.Note{Action: was.Action, Subject: d.nodeName(),
			Detail: fmt.Sprintf("%s, on %s", was.Detail, timeText(was.At))})
		if err == nil {
			err = os.Remove(d.data.join(fileBrought))
			break
		}
		select {
		case <-time.After(noteEvery):
			err = nil
		case <-ctx.Done():
			return
		}
	}
	if err != nil {
		d.events.add(levelWarning, "node.note", d.nodeName(), fmt.Sprintf("how the state was brought back is not in the audit log: %v; delete %s if it is damaged", err, d.data.join(fileBrought)))
	}
}
