package catalog

import (
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pki"
)

// TokensMax bounds the join tokens that have not expired.
const TokensMax = 256

// Token is a join token, without its secret: see pki.TokenRecord.
type Token struct {
	ID      [8]byte
	Proof   [32]byte
	Expires time.Time
	UsedBy  ID // the node that it let in; zero before
}

// Name is the token's id for people.
func (t *Token) Name() string { return hex.EncodeToString(t.ID[:]) }

func (t *Token) record() pki.TokenRecord {
	r := pki.TokenRecord{ID: t.ID, Proof: t.Proof, Expires: t.Expires.Unix()}
	if !t.UsedBy.IsZero() {
		r.UsedBy = t.UsedBy.String()
	}
	return r
}

func (f *fold) createToken(c *catalogpb.CreateToken) error {
	t := Token{Expires: time.Unix(c.GetExpiresUnix(), 0).UTC()}
	// Those that have expired are of no more use; one that was used is kept
	// until then, so that its node can come again.
	tokens := slices.DeleteFunc(slices.Clone(f.Tokens), func(t Token) bool { return !t.Expires.After(f.now) })
	i, found := search(tokens, string(c.GetId()), tokenID)
	switch {
	case len(c.GetId()) != len(t.ID) || len(c.GetProof()) != len(t.Proof):
		return refuse(ErrInvalid, "a join token has an id of %d bytes and a proof of %d", len(t.ID), len(t.Proof))
	case found:
		return refuse(ErrExists, "join token %x exists already", c.GetId())
	case !t.Expires.After(f.now) || t.Expires.After(f.now.Add(pki.TokenLifeMax)):
		return refuse(ErrInvalid, "a join token that expires at %s: want a time from now to %v ahead", t.Expires.Format(time.RFC3339), pki.TokenLifeMax)
	case len(tokens) >= TokensMax:
		return refuse(ErrConflict, "there are %d join tokens, the most there can be; wait until some have expired", TokensMax)
	}
	copy(t.ID[:], c.GetId())
	copy(t.Proof[:], c.GetProof())
	f.Tokens = slices.Insert(tokens, i, t)
	f.did("token.create", t.Name(), "expires %s", t.Expires.Format(time.RFC3339))
	return nil
}

func (f *fold) expireToken(c *catalogpb.ExpireToken) error {
	i, found := search(f.Tokens, string(c.GetId()), tokenID)
	if !found {
		return refuse(ErrNotFound, "no join token %x", c.GetId())
	}
	name := f.Tokens[i].Name()
	f.Tokens = without(f.Tokens, i)
	f.did("token.expire", name, "")
	return nil
}

// redeem lets a node in by a token, once, as far as the time of the command
// allows it.
func (f *fold) redeem(id, proof []byte, node ID) error {
	i, found := search(f.Tokens, string(id), tokenID)
	if !found || len(proof) != 32 {
		return refuse(ErrNotFound, "%v; make one with `blockctl node token`", pki.ErrTokenUnknown)
	}
	t := f.Tokens[i]
	if _, err := t.record().Redeem([32]byte(proof), node.String(), f.now.Unix()); err != nil {
		kind := ErrConflict
		if errors.Is(err, pki.ErrTokenUnknown) {
			kind = ErrNotFound
		}
		return refuse(kind, "%v", err)
	}
	t.UsedBy = node
	f.Tokens = replaced(f.Tokens, i, t)
	return nil
}

func tokenTo(e *Token) *catalogpb.Token {
	return &catalogpb.Token{Id: e.ID[:], Proof: e.Proof[:], ExpiresUnix: e.Expires.Unix(), UsedBy: idTo(e.UsedBy)}
}

func (l *loader) token(e *catalogpb.Token) Token {
	t := Token{Expires: time.Unix(e.GetExpiresUnix(), 0).UTC(), UsedBy: l.id(e.GetUsedBy(), true)}
	l.bad = l.bad || len(e.GetId()) != len(t.ID) || len(e.GetProof()) != len(t.Proof)
	copy(t.ID[:], e.GetId())
	copy(t.Proof[:], e.GetProof())
	return t
}
