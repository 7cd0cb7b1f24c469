package catalog

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// textMax bounds each text of an outcome, in bytes: refusals quote what was
// asked for, which may be long, and the group bounds results.
const textMax = 4 << 10

var refusals = map[catalogpb.Refusal]error{
	catalogpb.Refusal_REFUSAL_INVALID:   ErrInvalid,
	catalogpb.Refusal_REFUSAL_NOT_FOUND: ErrNotFound,
	catalogpb.Refusal_REFUSAL_EXISTS:    ErrExists,
	catalogpb.Refusal_REFUSAL_CONFLICT:  ErrConflict,
}

// clip shortens a text to textMax bytes of valid UTF-8.
func clip(text string) string {
	if len(text) > textMax {
		text = text[:textMax] + "…"
	}
	return validUTF8(text)
}

// encodeOutcome is what FSM.Apply answers the group with.
func encodeOutcome(res Result, err error) []byte {
	out := &catalogpb.Outcome{Revision: res.Revision, Replayed: res.Replayed}
	if !res.ID.IsZero() {
		out.Id = res.ID[:]
	}
	if res.Audit.Revision != 0 {
		out.Audit = auditTo(&res.Audit)
	}
	if err != nil {
		out = &catalogpb.Outcome{Refusal: catalogpb.Refusal_REFUSAL_INVALID, Text: clip(err.Error())}
		for code, kind := range refusals {
			if errors.Is(err, kind) {
				out.Refusal = code
			}
		}
	}
	b, merr := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if merr != nil {
		panic("catalog: " + merr.Error()) // all its texts are valid UTF-8
	}
	return b
}

// decodeOutcome is the inverse of encodeOutcome.
func decodeOutcome(b []byte) (Result, error) {
	out := &catalogpb.Outcome{}
	if err := proto.Unmarshal(b, out); err != nil {
		return Result{}, failed(fmt.Errorf("its result is malformed: %w", err))
	}
	if out.GetRefusal() != catalogpb.Refusal_REFUSAL_UNSPECIFIED {
		kind := refusals[out.GetRefusal()]
		if kind == nil {
			kind = ErrInvalid // a newer node's; the text says more
		}
		return Result{}, &Error{Kind: kind, Text: out.GetText()}
	}
	res := Result{Revision: out.GetRevision(), Replayed: out.GetReplayed()}
	if id, ok := idFrom(out.GetId()); ok {
		res.ID = id
	}
	if out.GetAudit() != nil {
		res.Audit = auditFrom(out.GetAudit())
	}
	return res, nil
}
