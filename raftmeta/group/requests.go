package group

import (
	"encoding/json"
	"fmt"
)

// RequestsRemembered and requestBytesMax bound what the group remembers of
// requests, and by it how long a request may be tried again. They are part
// of the state machine: changing one takes a new version of commands.
const (
	RequestsRemembered = 8192
	requestBytesMax    = 8 << 20
)

// requests is what came of the last requests. Its fields are replicated.
//
// Why nothing is applied twice: an entry of request r, with after a, is in the log only
// at indexes above a. If horizon <= a, then whatever was applied above a is still
// remembered, so r is found if it was applied. If horizon > a and r is not
// found, r might have been applied and forgotten, and is refused.
type requests struct {
	Horizon uint64    `json:"horizon"` // the highest index that was forgotten
	List    []request `json:"list"`    // ascending by index

	byID  map[RequestID]int // index in List, plus base
	base  int               // how many of List were ever dropped
	bytes int
}

type request struct {
	ID      RequestID
	Outcome outcome
}

type requestJSON struct {
	ID      []byte  `json:"id"`
	Outcome outcome `json:"o"`
}

// MarshalJSON spells the id in base64 rather than as a list of numbers.
func (r request) MarshalJSON() ([]byte, error) {
	return json.Marshal(requestJSON{r.ID[:], r.Outcome})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (r *request) UnmarshalJSON(b []byte) error {
	var j requestJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if len(j.ID) != len(r.ID) {
		return fmt.Errorf("a request id of %d bytes", len(j.ID))
	}
	r.ID, r.Outcome = RequestID(j.ID), j.Outcome
	return nil
}

// find returns what came of a request. known is false when it has not been applied.
func (q *requests) find(id RequestID, after uint64) (o outcome, known bool) {
	if i, ok := q.byID[id]; ok {
		return q.List[i-q.base].Outcome, true
	}
	if q.Horizon > after {
		return outcome{Code: codeOutcomeUnknown, Data: []byte("the request is older than what the group remembers")}, true
	}
	return outcome{}, false
}

// add remembers a request that find does not know, and forgets old ones.
func (q *requests) add(id RequestID, o outcome) {
	q.addWithin(id, o, RequestsRemembered, requestBytesMax)
}

func (q *requests) addWithin(id RequestID, o outcome, countMax, bytesMax int) {
	if q.byID == nil {
		q.byID = make(map[RequestID]int)
	}
	q.byID[id] = q.base + len(q.List)
	q.List = append(q.List, request{id, o})
	q.bytes += len(o.Data)
	for len(q.List) > countMax || q.bytes > bytesMax {
		old := &q.List[0]
		q.Horizon = old.Outcome.Index
		q.bytes -= len(old.Outcome.Data)
		delete(q.byID, old.ID)
		q.List = q.List[1:] // append moves it to a new array in time
		q.base++
	}
}

// frozen returns a copy for a snapshot. Outcomes are never changed, and append
// writes only beyond the copy's length, so sharing the array is safe.
func (q *requests) frozen() requests {
	return requests{Horizon: q.Horizon, List: q.List[:len(q.List):len(q.List)]}
}

// index rebuilds what is not replicated.
func (q *requests) index() {
	q.byID, q.base, q.bytes = make(map[RequestID]int, len(q.List)), 0, 0
	for i := range q.List {
		q.byID[q.List[i].ID] = i
		q.bytes += len(q.List[i].Outcome.Data)
	}
}
