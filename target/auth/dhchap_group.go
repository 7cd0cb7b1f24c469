package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"sync"
)

// DHGroup is a Diffie-Hellman group of DH-HMAC-CHAP; the values are the group
// identifiers of NVMe base 2.0 §8.13.5.3.
type DHGroup uint8

// The groups: none, and those of RFC 7919.
const (
	DHNull    DHGroup = 0
	FFDHE2048 DHGroup = 1
	FFDHE3072 DHGroup = 2
	FFDHE4096 DHGroup = 3
	FFDHE6144 DHGroup = 4
	FFDHE8192 DHGroup = 5
)

const dhGroups = 6

// dhShape has the size of each prime in bits, and the constant that finds it
// (RFC 7919 appendix A).
var dhShape = [dhGroups]struct {
	bits uint
	x    int64
}{
	FFDHE2048: {2048, 560316},
	FFDHE3072: {3072, 2625351},
	FFDHE4096: {4096, 5736041},
	FFDHE6144: {6144, 15705020},
	FFDHE8192: {8192, 10965728},
}

// Size is the length of a public value in bytes; 0 for DHNull and unknown
// groups.
func (g DHGroup) Size() int {
	if g >= dhGroups {
		return 0
	}
	return int(dhShape[g].bits / 8)
}

// String is the group's name.
func (g DHGroup) String() string {
	if g == DHNull {
		return "NULL"
	}
	if g >= dhGroups {
		return fmt.Sprintf("group %d", uint8(g))
	}
	return fmt.Sprintf("ffdhe%d", dhShape[g].bits)
}

// dhPrimes are computed when first used.
var dhPrimes = [dhGroups]func() *big.Int{
	FFDHE2048: sync.OnceValue(FFDHE2048.computePrime),
	FFDHE3072: sync.OnceValue(FFDHE3072.computePrime),
	FFDHE4096: sync.OnceValue(FFDHE4096.computePrime),
	FFDHE6144: sync.OnceValue(FFDHE6144.computePrime),
	FFDHE8192: sync.OnceValue(FFDHE8192.computePrime),
}

// computePrime evaluates the definition in RFC 7919 appendix A:
// p = 2^b - 2^(b-64) + ([2^(b-130) e] + X) * 2^64 - 1.
func (g DHGroup) computePrime() *big.Int {
	s := dhShape[g]
	one := big.NewInt(1)
	p := new(big.Int).Lsh(one, s.bits)
	p.Sub(p, new(big.Int).Lsh(one, s.bits-64))
	m := scaledE(s.bits - 130)
	m.Add(m, big.NewInt(s.x))
	p.Add(p, m.Lsh(m, 64))
	return p.Sub(p, one)
}

// scaledE is floor(2^n e), from the series of 1/k! with 64 bits to spare.
func scaledE(n uint) *big.Int {
	const guard = 64
	term := new(big.Int).Lsh(big.NewInt(1), n+guard)
	sum := new(big.Int).Set(term)
	for k := int64(1); term.Sign() > 0; k++ {
		term.Quo(term, big.NewInt(k))
		sum.Add(sum, term)
	}
	return sum.Rsh(sum, guard)
}

// dhExponentBytes is the length of secret exponents: 512 bits, twice the
// strength that the largest group is credited with and more (RFC 7919 §5.2
// wants 400).
const dhExponentBytes = 64

var errDHValue = errors.New("auth: Diffie-Hellman value is out of range")

// dhExchange is one side of one exchange. Its exponent is used once; that
// math/big is not constant in time gives nothing lasting away.
type dhExchange struct {
	group DHGroup
	x     *big.Int
}

// newDHExchange draws a secret exponent and returns the public value, as long
// as the prime. For DHNull there is no value.
func newDHExchange(g DHGroup) (*dhExchange, []byte) {
	e := &dhExchange{group: g}
	if g == DHNull {
		return e, nil
	}
	b := make([]byte, dhExponentBytes)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	b[0] |= 0x80
	e.x = new(big.Int).SetBytes(b)
	p := dhPrimes[g]()
	return e, new(big.Int).Exp(big.NewInt(2), e.x, p).FillBytes(make([]byte, g.Size()))
}

// sessionKey is the hash of the shared secret, nil for DHNull. It refuses a
// public value that is not between 2 and p-2 (RFC 7919 §5.1).
func (e *dhExchange) sessionKey(h DHHash, peer []byte) ([]byte, error) {
	if len(peer) != e.group.Size() {
		return nil, errDHValue
	}
	if e.group == DHNull {
		return nil, nil
	}
	p := dhPrimes[e.group]()
	y := new(big.Int).SetBytes(peer)
	top := new(big.Int).Sub(p, big.NewInt(1))
	if y.Cmp(big.NewInt(1)) <= 0 || y.Cmp(top) >= 0 {
		return nil, errDHValue
	}
	shared := y.Exp(y, e.x, p).FillBytes(make([]byte, e.group.Size()))
	sum := h.constructor()()
	_, _ = sum.Write(shared) // a hash never fails
	return sum.Sum(nil), nil
}
