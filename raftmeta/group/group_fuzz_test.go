package group

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func FuzzEnvelope(f *testing.F) {
	e := envelope{kind: kindGroup, version: 1, request: RequestID{1}, after: 7, command: (&order{Open: &orderOpen{2}}).encode()}
	f.Add(e.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b)
		if err == nil && !bytes.Equal(e.encode(), b) {
			t.Fatalf("%x became %x", b, e.encode())
		}
	})
}

// No entry of the log makes the machine panic.
func FuzzApply(f *testing.F) {
	for _, o := range []order{{Open: &orderOpen{1}}, {Remove: &orderNode{"n1"}}, {Hash: &orderHash{1, nil}}, {Admit: &Member{"n2", "a:1", 1}}} {
		e := envelope{kind: kindGroup, version: 1, command: o.encode()}
		f.Add(e.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMachine(newLedger(), identity{"test", "n1", 1}, func(Event) {})
		for i := range uint64(2) {
			o, ok := m.Apply(&raft.Log{Index: i + 1, Term: 1, Data: b}).(*outcome)
			if !ok || o == nil {
				t.Fatal("no outcome")
			}
			back, err := decodeOutcome(o.encode())
			if err != nil || back.Index != o.Index || back.Code != o.Code {
				t.Fatalf("%+v came back as %+v, %v", o, back, err)
			}
		}
		m.hashes.working.Wait()
	})
}

func FuzzReadBackup(f *testing.F) {
	var file, image bytes.Buffer
	m := newMachine(newLedger(), identity{"test", "n1", 1}, func(Event) {})
	if _, err := m.image().WriteTo(&image); err != nil {
		f.Fatal(err)
	}
	if err := writeBackup(&file, BackupHeader{Format: backupFormat, Cluster: "test", Made: time.Unix(0, 0)}, &image); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, state, err := ReadBackup(bytes.NewReader(b))
		if err != nil {
			return
		}
		text, err := io.ReadAll(state)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeBackup(&again, h, bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		m := newMachine(newLedger(), identity{"test", "n1", 1}, func(Event) {})
		_ = m.Restore(io.NopCloser(bytes.NewReader(text)))
	})
}

// What a member sends is bounded before it is read.
func FuzzReadFrame(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, 3, []byte("abc")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, payload, err := readFrame(bytes.NewReader(b), 64)
		if err != nil {
			return
		}
		if len(payload) > 64 {
			t.Fatalf("%d bytes", len(payload))
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, payload); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("%x became %x, %v", b, again.Bytes(), err)
		}
	})
}

// A state that a peer or a file gives us is taken whole or refused.
func FuzzRestore(f *testing.F) {
	var image bytes.Buffer
	m := newMachine(newLedger(), identity{"test", "n1", 1}, func(Event) {})
	if _, err := m.image().WriteTo(&image); err != nil {
		f.Fatal(err)
	}
	f.Add(image.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMachine(newLedger(), identity{"test", "n1", 1}, func(Event) {})
		if m.Restore(io.NopCloser(bytes.NewReader(b))) != nil {
			return
		}
		sum := m.image().Hash()
		var again bytes.Buffer
		if _, err := m.image().WriteTo(&again); err != nil {
			t.Fatal(err)
		}
		if err := m.Restore(io.NopCloser(&again)); err != nil || m.image().Hash() != sum {
			t.Fatalf("its own state changed on the way: %v", err)
		}
		e := envelope{kind: kindGroup, version: 1, command: (&order{Admit: &Member{"n2", "a:1", 1}}).encode()}
		m.Apply(&raft.Log{Index: m.applied + 1, Term: 1, Data: e.encode()})
	})
}
