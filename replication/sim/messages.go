package sim

import (
	"slices"

	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
)

// What nodes send each other is what they really send, in bytes: what the owner or the replica gets has gone through the
// encoding, as often as it arrives.

func requestSent(q replica.Request) (arrives func() replica.Request) {
	m := message.AppendRequest(slices.Clone(q.Data), message.Target{}, &q)
	return func() (q replica.Request) {
		if _, err := message.DecodeRequest(slices.Clone(m), &q); err != nil {
			panic(err)
		}
		return q
	}
}

func responseSent(resp replica.Response) (arrives func() replica.Response) {
	kind := replica.Stable
	if resp.Vouches { // nothing else tells so
		kind = replica.Fence
	}
	m := message.AppendResponse(slices.Clone(resp.Data), kind, &resp)
	return func() (resp replica.Response) {
		if err := message.DecodeResponse(slices.Clone(m), kind, &resp); err != nil {
			panic(err)
		}
		return resp
	}
}
