package blockdev

import (
	"errors"
	"fmt"
	"testing"
)

func TestValidateRefusesWhatDoesNotFit(t *testing.T) {
	const size = 1 << 20
	segs := func(lens ...int) (data [][]byte) {
		for _, n := range lens {
			data = append(data, make([]byte, n))
		}
		return data
	}
	for name, tc := range map[string]struct {
		r        Request
		readOnly bool
		keeps    bool // lends nothing
		want     error
	}{
		"read":                        {r: Request{Op: OpRead, Length: 1024, Data: segs(1, 1023)}},
		"write to the last byte":      {r: Request{Op: OpWrite, Offset: size - 512, Length: 512, Data: segs(512)}},
		"nothing at the end":          {r: Request{Op: OpRead, Offset: size}},
		"flush ignores the rest":      {r: Request{Op: OpFlush, Offset: -1, Length: 7}, readOnly: true},
		"compare and write":           {r: Request{Op: OpCompareAndWrite, Length: 512, Data: segs(512, 512)}},
		"unmap needs no data":         {r: Request{Op: OpUnmap, Length: size}},
		"read of read-only":           {r: Request{Op: OpRead, Length: 512, Data: segs(512)}, readOnly: true},
		"borrow":                      {r: Request{Op: OpRead, Length: 512, Borrow: true}},
		"borrow with a buffer":        {r: Request{Op: OpRead, Length: 512, Borrow: true, Data: segs(512)}, want: ErrInvalid},
		"borrow for a write":          {r: Request{Op: OpWrite, Length: 512, Borrow: true, Data: segs(512)}, want: ErrInvalid},
		"borrow without Lends":        {r: Request{Op: OpRead, Length: 512, Borrow: true}, keeps: true, want: ErrInvalid},
		"no op":                       {r: Request{}, want: ErrInvalid},
		"unknown op":                  {r: Request{Op: OpPoison + 1}, want: ErrInvalid},
		"poison without Poisons":      {r: Request{Op: OpPoison, Length: 512}, want: ErrInvalid},
		"negative offset":             {r: Request{Op: OpUnmap, Offset: -512, Length: 512}, want: ErrInvalid},
		"negative length":             {r: Request{Op: OpUnmap, Length: -512}, want: ErrInvalid},
		"unaligned offset":            {r: Request{Op: OpUnmap, Offset: 1, Length: 512}, want: ErrInvalid},
		"unaligned length":            {r: Request{Op: OpWriteZeroes, Length: 100}, want: ErrInvalid},
		"buffer too short":            {r: Request{Op: OpRead, Length: 1024, Data: segs(512)}, want: ErrInvalid},
		"buffer too long":             {r: Request{Op: OpWrite, Length: 512, Data: segs(512, 1)}, want: ErrInvalid},
		"buffer for nothing":          {r: Request{Op: OpWrite, Data: segs(512)}, want: ErrInvalid},
		"compare without second half": {r: Request{Op: OpCompareAndWrite, Length: 512, Data: segs(512)}, want: ErrInvalid},
		"one block too far":           {r: Request{Op: OpUnmap, Offset: size - 512, Length: 1024}, want: ErrOutOfRange},
		"offset too far":              {r: Request{Op: OpUnmap, Offset: size + 512}, want: ErrOutOfRange},
		"sum overflows":               {r: Request{Op: OpUnmap, Offset: 512, Length: 1<<63 - 512}, want: ErrOutOfRange},
		"write to read-only":          {r: Request{Op: OpWrite, Length: 512, Data: segs(512)}, readOnly: true, want: ErrReadOnly},
		"unmap of read-only":          {r: Request{Op: OpUnmap, Length: 512}, readOnly: true, want: ErrReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			g := Geometry{SizeBytes: size, BlockSize: 512, ReadOnly: tc.readOnly, Lends: !tc.keeps}
			if err := Validate(g, &tc.r); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestValidateDoesNotAllocateForGoodRequests(t *testing.T) {
	g := Geometry{SizeBytes: 1 << 20, BlockSize: 512}
	r := &Request{Op: OpWrite, Length: 512, Data: [][]byte{make([]byte, 512)}}
	if n := testing.AllocsPerRun(100, func() {
		if Validate(g, r) != nil {
			t.Error("refused")
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestErrorTellsKindCauseAndPlace(t *testing.T) {
	cause := errors.New("EIO")
	r := &Request{Op: OpWrite, Offset: 4096, Length: 512}
	err := fmt.Errorf("wrapped: %w", NewError(ErrMedium, r, 4100, cause))
	if !errors.Is(err, ErrMedium) || !errors.Is(err, cause) || errors.Is(err, ErrIO) {
		t.Errorf("%v has the wrong identity", err)
	}
	var e *Error
	if !errors.As(err, &e) || e.Offset != 4100 || e.Length != 512 || e.Op != OpWrite {
		t.Errorf("%+v", e)
	}
	if got, want := e.Error(), "write of 512 bytes at 4100: medium error: EIO"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	bare := NewError(ErrNoSpace, r, -1, nil)
	if got, want := bare.Error(), "write of 512 bytes at 4096: no space left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(bare, ErrNoSpace) {
		t.Error("kind lost without a cause")
	}
}

func TestOpNames(t *testing.T) {
	seen := map[string]bool{}
	for op := OpRead; op <= OpCompareAndWrite; op++ {
		name := op.String()
		if name == "invalid-op" || seen[name] {
			t.Errorf("op %d is called %q", op, name)
		}
		seen[name] = true
	}
	if Op(0).String() != "invalid-op" || Op(200).String() != "invalid-op" {
		t.Error("unknown ops have a name")
	}
}

func TestWatchersAreCalledUntilStopped(t *testing.T) {
	var w Watchers
	var got []string
	stopA := w.Add(func(c Change) { got = append(got, fmt.Sprint("a", c)) })
	var stopB func()
	stopB = w.Add(func(c Change) {
		got = append(got, fmt.Sprint("b", c))
		stopB() // from inside the call
	})
	w.Notify(ChangeSize)
	w.Notify(ChangeGone)
	stopA()
	stopA()
	w.Notify(ChangeReadOnly)
	if s := fmt.Sprint(got); s != "[a1 b1 a3]" {
		t.Fatal(s)
	}
}
