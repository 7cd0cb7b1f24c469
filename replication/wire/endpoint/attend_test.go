package endpoint

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowDisk is a Source that ends what it was asked after a while, on its
// attendant only.
type slowDisk struct {
	t     *testing.T
	event int // readable when something has ended

	mu       sync.Mutex
	attended bool
	asked    []*Request
	ended    []*Request
	refused  int // asked for while nobody attended
	looks    int // that found something
}

func newSlowDisk(t *testing.T) *slowDisk {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(event) })
	return &slowDisk{t: t, event: event}
}

// handle is the Handler of the node that has the disk.
func (d *slowDisk) handle(r *Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.attended {
		d.refused++
	}
	d.asked = append(d.asked, r)
	time.AfterFunc(2*time.Millisecond, d.finish) // later than any pump polls
}

func (d *slowDisk) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.asked = append(d.ended, d.asked[0]), d.asked[1:]
	if _, err := unix.Write(d.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		d.t.Error(err)
	}
}

func (d *slowDisk) Attend(func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.attended
	d.attended = true
	return !was
}

func (d *slowDisk) Look() (worked, attending bool) {
	d.mu.Lock()
	ended := d.ended
	d.ended = nil
	if len(ended) > 0 {
		d.looks++
		var count [8]byte
		_, _ = unix.Read(d.event, count[:])
	}
	d.mu.Unlock()
	for _, r := range ended {
		echo(r)
	}
	return len(ended) > 0, true
}

func (d *slowDisk) Rest() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attended = len(d.asked)+len(d.ended) > 0
	return d.attended
}

func (d *slowDisk) FD() int { return d.event }

func (d *slowDisk) Leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attended = false
}

// A pump attends a disk before it hands over what may ask something of it, sleeps
// on it, and answers: nobody else would. It gives it back when it ends.
func TestPumpAttendsWhatItsHandlerUses(t *testing.T) {
	for name, poll := range modes {
		t.Run(name, func(t *testing.T) {
			disk := newSlowDisk(t)
			a := open(t, "a", func(c *Config) { c.Poll = poll }, udp(t, "127.0.0.1:0"))
			b := open(t, "b", func(c *Config) {
				c.Poll, c.Handler, c.Sources = poll, disk.handle, []Source{disk}
			}, udp(t, "127.0.0.1:0"))
			peer := a.Peer("b", b.addr)
			for range 20 {
				ask(t, peer, 5000)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if disk.refused > 0 || disk.looks != 20 {
				t.Errorf("%d of 20 requests came while nobody attended, %d Looks found something", disk.refused, disk.looks)
			}
			if disk.attended {
				t.Error("a pump that has ended still attends")
			}
		})
	}
}
