package blockdev

import "sync"

// Validate checks r against g: alignment, range, buffer total, read-only.
// It returns nil or an *Error ready to complete the request with. Every
// device calls it first, so that no malformed request reaches storage.
func Validate(g Geometry, r *Request) error {
	if r.Op == OpFlush {
		return nil
	}
	if r.Op < OpRead || r.Op > OpPoison || r.Op == OpPoison && !g.Poisons {
		return NewError(ErrInvalid, r, -1, nil)
	}
	bs := int64(g.BlockSize)
	if r.Offset < 0 || r.Length < 0 || r.Offset%bs != 0 || r.Length%bs != 0 {
		return NewError(ErrInvalid, r, -1, nil)
	}
	if r.Offset > g.SizeBytes || r.Length > g.SizeBytes-r.Offset {
		return NewError(ErrOutOfRange, r, -1, nil)
	}
	if r.Borrow && (r.Op != OpRead || !g.Lends) {
		return NewError(ErrInvalid, r, -1, nil)
	}
	want := int64(-1)
	switch r.Op {
	case OpRead, OpWrite:
		want = r.Length
		if r.Borrow {
			want = 0
		}
	case OpCompareAndWrite:
		want = 2 * r.Length
	}
	if want >= 0 {
		var have int64
		for _, s := range r.Data {
			have += int64(len(s))
		}
		if have != want {
			return NewError(ErrInvalid, r, -1, nil)
		}
	}
	if g.ReadOnly && r.Op != OpRead {
		return NewError(ErrReadOnly, r, -1, nil)
	}
	return nil
}

// Complete sets r.Err and calls r.Done. Devices end every request with it.
func Complete(r *Request, err error) {
	r.Err = err
	r.Done(r)
}

// Do submits one request and waits for it. For tools and tests; the data path
// never waits.
func Do(d Device, r *Request) error {
	var wg sync.WaitGroup
	wg.Add(1)
	done := r.Done
	r.Done = func(r *Request) {
		if done != nil {
			done(r)
		}
		wg.Done()
	}
	d.Submit([]*Request{r})
	wg.Wait()
	r.Done = done
	return r.Err
}

// ReadAt reads len(p) bytes at offset off and waits. Both are multiples of
// the block size.
func ReadAt(d Device, p []byte, off int64) error {
	return Do(d, &Request{Op: OpRead, Offset: off, Length: int64(len(p)), Data: [][]byte{p}})
}

// WriteAt writes p at offset off and waits. Both are multiples of the block
// size. The write is durable after the next Flush.
func WriteAt(d Device, p []byte, off int64) error {
	return Do(d, &Request{Op: OpWrite, Offset: off, Length: int64(len(p)), Data: [][]byte{p}})
}

// Flush waits until every completed write is durable.
func Flush(d Device) error {
	return Do(d, &Request{Op: OpFlush})
}
