package message

import (
	"time"

	"blockd.dev/internal/turn"
	"blockd.dev/replication/replica"
)

// Sent is a request to a replica on its way. The sender owns the struct, and
// may use it again once Done was called and Release after it.
type Sent struct {
	Target
	Request replica.Request
	// Done is called once, on any goroutine. It must not block. Until then
	// Request.Data must not change.
	Done func(*Sent)
	// Lost says that there is no answer and will be none; whether the replica
	// has done what it was asked is not known. Else Response is the answer.
	// NotSent says of a lost one that there is no connection to its node.
	Lost, NotSent bool
	Response      replica.Response
	// Free, if set by the transport, takes back what Response.Data aliases.
	Free func(*Sent)
	Tag  any // the sender's own
	// Patience is how long the sender waits for the answer, if that is longer than the transport would by itself.
	Patience time.Duration
	// Last says that others were sent just before, to other nodes, and take longer than this
	// one, which may well wait until they have left.
	Last bool
	// Soon, if not nil, is where work for several messages that are sent together may be left, during
	// Send: see turn.Soon.
	Soon turn.Soon
	// Internal is the transport's own, kept across uses.
	Internal any
}

// Release ends the use of Response.Data.
func (s *Sent) Release() {
	if free := s.Free; free != nil {
		s.Free = nil
		free(s)
	}
	s.Request, s.Response = replica.Request{}, replica.Response{}
}

// Forwarded is a host's request on its way to another node, as Sent is.
type Forwarded struct {
	Node    string
	Request Host
	Done    func(*Forwarded) // as of Sent
	// Stale, unless nil, is asked when the message is about to be sent, which may be long after Forward:
	// if it says so the message is not sent, but Lost and NotSent. It is asked again if there was no room. It must be cheap, and not block.
	Stale func(*Forwarded) bool
	// Lost says that there is no answer and will be none. NotSent says of a
	// lost one that the other node never saw it.
	Lost, NotSent bool
	Answer        HostAnswer
	Free          func(*Forwarded)
	Tag           any
	Internal      any
}

// Release ends the use of Answer.Data.
func (f *Forwarded) Release() {
	if free := f.Free; free != nil {
		f.Free = nil
		free(f)
	}
	f.Request, f.Answer = Host{}, HostAnswer{}
}

// Incoming is a request of another node's host, at the volume's owner. The
// struct is the receiver's from Serve until Done, but for Request.Data and
// Answer.Data, which are until Release.
type Incoming struct {
	From    string // node
	Request Host
	Done    func(*Incoming) // as of Sent; with Answer set
	Answer  HostAnswer
	Buf     *Buffer // what Answer.Data is in, if any
	Tag     any
}

// Release ends the use of Answer.Data.
func (in *Incoming) Release() {
	if in.Buf != nil {
		in.Buf.Release()
		in.Buf = nil
	}
	in.Request, in.Answer = Host{}, HostAnswer{}
}
