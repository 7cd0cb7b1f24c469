package message

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/replication/replica"
)

var (
	someRequest = replica.Request{
		ID: 1, Oldest: 2, Kind: replica.Confirm, Epoch: 3, Session: 4, Boot: 5, Stable: 6, Gen: 7, Off: 8 << 20, Len: 9 << 12,
		Ver: replica.Version{Epoch: 10, Seq: 11}, Vers: []replica.Version{{Epoch: 12, Seq: 13}, replica.NoVersion}, Data: []byte("data"),
	}
	someResponse = replica.Response{
		ID: 1, Status: replica.OldEpoch, Epoch: 2, Boot: 3, Stable: 4, Last: 5, Hosts: true, Data: []byte("read"),
		Tail:   []replica.Entry{{Ver: replica.Version{Epoch: 6, Seq: 7}, Off: 8, Len: 9}, {Off: 4096, Len: 4096}},
		Vers:   []replica.Version{{Epoch: 10, Seq: 11}},
		Differ: []int64{12, 13, 14},
	}
	someHost   = Host{Volume: [16]byte{1, 2}, Session: 3, Guard: 4, Op: blockdev.OpWrite, FUA: true, NoUnmap: true, Off: 5, Len: 6, Data: []byte("write")}
	someAnswer = HostAnswer{Status: Failed, Kind: blockdev.ErrMedium, Off: 7, Cause: "why", Data: []byte{}}
	someTarget = Target{Volume: [16]byte{9, 8, 7}, Disk: 0xabcd}
)

// encoded are the messages above.
func encoded() [][]byte {
	return [][]byte{
		AppendRequest(bytes.Clone(someRequest.Data), someTarget, &someRequest),
		AppendResponse(bytes.Clone(someResponse.Data), replica.Confirm, &someResponse),
		AppendHost(bytes.Clone(someHost.Data), &someHost),
		AppendAnswer(nil, &someAnswer),
	}
}

func TestEverythingArrives(t *testing.T) {
	m := encoded()
	var q replica.Request
	if target, err := DecodeRequest(m[0], &q); err != nil || target != someTarget || !reflect.DeepEqual(q, someRequest) {
		t.Errorf("request: %v, %+v of %+v", err, q, target)
	}
	fence := replica.Request{ID: 1, Kind: replica.Fence, Epoch: 3, Session: 4, Gen: 3, Arriving: []replica.Range{{Off: 64 << 20, Len: 128 << 20}, {Off: 1 << 30, Len: 64 << 20}}}
	if target, err := DecodeRequest(AppendRequest(nil, someTarget, &fence), &q); err != nil || target != someTarget || len(q.Data) != 0 || !reflect.DeepEqual(q.Arriving, fence.Arriving) || q.Gen != 3 || q.Vers != nil {
		t.Errorf("fence with arriving extents: %v, %+v of %+v", err, q, target)
	}
	var resp replica.Response
	if err := DecodeResponse(m[1], replica.Confirm, &resp); err != nil || !reflect.DeepEqual(resp, someResponse) {
		t.Errorf("response: %v, %+v", err, resp)
	}
	if h, err := DecodeHost(m[2]); err != nil || !reflect.DeepEqual(h, someHost) {
		t.Errorf("host's request: %v, %+v", err, h)
	}
	if a, err := DecodeAnswer(m[3]); err != nil || !reflect.DeepEqual(a, someAnswer) {
		t.Errorf("host's answer: %v, %+v", err, a)
	}
	for i, m := range m {
		if TypeOf(m) != Type(i+1) {
			t.Errorf("message %d is of type %d", i, TypeOf(m))
		}
	}
}

// What a replica says of itself after a Fence arrives. An owner of an older version, which takes Differ as it
// comes, finds the most bytes of a copy where they were; a replica of an older version is never unproven.
func TestAnswersToAFence(t *testing.T) {
	fenced := func(unproven, vouches bool, differ ...int64) replica.Response {
		return replica.Response{Status: replica.OK, Epoch: 3, Data: []byte{}, Differ: differ, Unproven: unproven, Vouches: vouches}
	}
	for _, c := range []struct {
		resp  replica.Response
		older []int64
	}{
		{fenced(false, false, 4<<20), []int64{4 << 20}},
		{fenced(false, true, 4<<20), []int64{4 << 20, 1}},
		{fenced(true, true, 4<<20), []int64{4 << 20, 3}},
		{fenced(true, true, 0), []int64{0, 3}},
	} {
		m := AppendResponse(nil, replica.Fence, &c.resp)
		var got, older replica.Response
		if err := DecodeResponse(m, replica.Fence, &got); err != nil || !reflect.DeepEqual(got, c.resp) {
			t.Errorf("%v, %+v became %+v", err, c.resp, got)
		}
		if err := DecodeResponse(m, replica.Confirm, &older); err != nil || !slices.Equal(older.Differ, c.older) {
			t.Errorf("%v, of %+v an older owner reads %+v", err, c.resp, older)
		}
	}
	// A replica that takes one region in a copy says nothing of that, which is 0.
	alone := fenced(true, true)
	var got replica.Response
	if err := DecodeResponse(AppendResponse(nil, replica.Fence, &alone), replica.Fence, &got); err != nil || !got.Unproven || !got.Vouches || !slices.Equal(got.Differ, []int64{0}) {
		t.Errorf("%v, %+v", err, got)
	}
	// In the answer to another request they mean nothing.
	alone.Differ = []int64{5, 3}
	if err := DecodeResponse(AppendResponse(nil, replica.Confirm, &alone), replica.Confirm, &got); err != nil || got.Unproven || got.Vouches || !slices.Equal(got.Differ, alone.Differ) {
		t.Errorf("%v, %+v", err, got)
	}
	vouch := replica.Request{ID: 1, Kind: replica.Vouch, Epoch: 3, Session: 4, Boot: 5, Stable: 6, Data: []byte{}}
	var q replica.Request
	if target, err := DecodeRequest(AppendRequest(nil, someTarget, &vouch), &q); err != nil || target != someTarget || !reflect.DeepEqual(q, vouch) {
		t.Errorf("%v, %+v became %+v", err, vouch, q)
	}
}

// A message that lost its end, is of another type or of another version, or has
// lists that are longer than it is, is refused.
func TestDamageIsRefused(t *testing.T) {
	decode := []func([]byte) error{
		func(m []byte) error { var q replica.Request; _, err := DecodeRequest(m, &q); return err },
		func(m []byte) error { var r replica.Response; return DecodeResponse(m, replica.Confirm, &r) },
		func(m []byte) error { _, err := DecodeHost(m); return err },
		func(m []byte) error { _, err := DecodeAnswer(m); return err },
	}
	for i, m := range encoded() {
		for j, d := range decode {
			if err := d(m); (err == nil) != (i == j) || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("message %d decoded as %d: %v", i, j, err)
			}
		}
		for n := range m {
			if err := decode[i](m[:n]); err == nil {
				t.Errorf("message %d is taken with %d of %d bytes", i, n, len(m))
			}
			if err := decode[i](m[n+1:]); err == nil && len(m)-n-1 < 20 {
				t.Errorf("message %d is taken without its first %d of %d bytes", i, n+1, len(m))
			}
		}
		newer := bytes.Clone(m)
		newer[len(m)-1]++
		if decode[i](newer) == nil {
			t.Errorf("message %d is taken though it is of another version", i)
		}
	}
	long := AppendHost(nil, &Host{Op: blockdev.OpRead, Len: DataMax + 1})
	if _, err := DecodeHost(long); err == nil {
		t.Error("a read is taken whose answer fits into no message")
	}
	for _, q := range []replica.Request{{Kind: replica.Read, Len: DataMax + 1}, {Kind: replica.Read, Len: math.MaxInt64}, {Kind: replica.Versions, Len: math.MaxInt64}} {
		if _, err := DecodeRequest(AppendRequest(nil, someTarget, &q), &replica.Request{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("kind %d of %d bytes: %v", q.Kind, q.Len, err)
		}
	}
}

// What is decoded encodes to the same message, whatever came.
func FuzzDecode(f *testing.F) {
	for _, m := range encoded() {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		same := func(err error, again func() []byte) {
			if err != nil {
				return
			}
			if got := again(); !bytes.Equal(got, m) {
				t.Errorf("decoded, it is\n%x, it came as\n%x", got, m)
			}
		}
		var q replica.Request
		target, err := DecodeRequest(m, &q)
		same(err, func() []byte { return AppendRequest(bytes.Clone(q.Data), target, &q) })
		var r replica.Response
		err = DecodeResponse(m, replica.Confirm, &r)
		same(err, func() []byte { return AppendResponse(bytes.Clone(r.Data), replica.Confirm, &r) })
		if err = DecodeResponse(m, replica.Fence, &r); err == nil { // what newer nodes say of themselves is dropped
			var again replica.Response
			err := DecodeResponse(AppendResponse(bytes.Clone(r.Data), replica.Fence, &r), replica.Fence, &again)
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v becomes %+v, %v", r, again, err)
			}
		}
		h, err := DecodeHost(m)
		if err == nil { // flags of newer nodes are dropped
			again, err := DecodeHost(AppendHost(bytes.Clone(h.Data), &h))
			if err != nil || !reflect.DeepEqual(again, h) {
				t.Errorf("%+v becomes %+v, %v", h, again, err)
			}
		}
		a, err := DecodeAnswer(m)
		if err == nil {
			again, err := DecodeAnswer(AppendAnswer(bytes.Clone(a.Data), &a))
			if err != nil || again.Status != a.Status || !bytes.Equal(again.Data, a.Data) || again.Cause != a.Cause {
				t.Errorf("%+v becomes %+v, %v", a, again, err)
			}
		}
	})
}

// Each kind of error arrives as itself, with its place and its cause.
func TestErrorsArriveAsTheyAre(t *testing.T) {
	for _, kind := range kinds {
		r := &blockdev.Request{Op: blockdev.OpWrite, Offset: 8192, Length: 4096}
		r.Err = blockdev.NewError(kind, r, 8704, errors.New("the cause"))
		a := AnswerOf(r)
		got, err := DecodeAnswer(AppendAnswer(nil, &a))
		if err != nil || got.Status != Failed || got.Kind != kind || got.Off != 8704 || got.Cause != "the cause" {
			t.Errorf("%v: %v, %+v", kind, err, got)
		}
	}
	if a := AnswerOf(&blockdev.Request{}); a.Status != Done {
		t.Errorf("success is %+v", a)
	}
}

func TestEncodingAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 4096)
	n := testing.AllocsPerRun(100, func() {
		dst = AppendRequest(dst[:0], someTarget, &someRequest)
		dst = AppendResponse(dst[:0], replica.Fence, &someResponse)
		dst = AppendHost(dst[:0], &someHost)
		dst = AppendAnswer(dst[:0], &someAnswer)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A buffer is nobody else's while anybody holds it.
func TestBuffersAreNotShared(t *testing.T) {
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 2000 {
				n := 1 + i*37%(64<<10)
				b := GetBuffer(n)
				if len(b.Bytes()) != n {
					t.Errorf("%d bytes, want %d", len(b.Bytes()), n)
				}
				mark := byte(g*64 + i%64)
				b.Bytes()[0], b.Bytes()[n-1] = mark, mark
				b.Hold()
				b.Release()
				if b.Bytes()[0] != mark || b.Bytes()[n-1] != mark {
					t.Error("somebody else has written to a buffer that is held")
				}
				b.Release()
			}
		})
	}
	all.Wait()
	b := GetBuffer(1)
	b.Release()
	defer func() {
		if recover() == nil {
			t.Error("a buffer can be released twice")
		}
	}()
	b.Release()
}
