package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"slices"
)

// NVMeDirectory says what an NVMe host must show. Implementations answer from
// memory, from any goroutine; they are asked once for each connection and each
// authentication.
type NVMeDirectory interface {
	// NVMeHost returns what the host of that NQN must prove, or ErrNotAllowed.
	NVMeHost(nqn string) (NVMePolicy, error)
}

// NVMePolicy is what one NVMe host must prove and what it may ask of the
// controller. The zero value lets it in without proof.
type NVMePolicy struct {
	// Host is the key that the host proves to have. Zero means no
	// authentication.
	Host DHKey
	// Controller is the key that the controller proves to have when the host
	// asks for it. Zero means that mutual authentication fails.
	Controller DHKey
	// RequireMutual refuses a host that does not ask the controller for proof.
	RequireMutual bool
	// Hashes are those the controller agrees to; nil means all. The host's
	// order decides.
	Hashes []DHHash
	// Groups are those the controller agrees to, best first; nil means the
	// smallest of RFC 7919 that the host knows, DHNull as the last resort.
	Groups []DHGroup
}

// defaultDHGroups: with a group, who learns a key later can't guess at what
// was recorded; the smallest is strong enough for that and the cheapest to be
// flooded with.
var defaultDHGroups = []DHGroup{FFDHE2048, FFDHE3072, FFDHE4096, FFDHE6144, FFDHE8192, DHNull}

func (p *NVMePolicy) choose(o *dhOffer) (DHHash, DHGroup, DHReason) {
	var h DHHash
	for _, c := range o.hashes {
		if c.Size() > 0 && (p.Hashes == nil || slices.Contains(p.Hashes, c)) {
			h = c
			break
		}
	}
	if h == 0 {
		return 0, 0, DHHashUnusable
	}
	groups := p.Groups
	if groups == nil {
		groups = defaultDHGroups
	}
	for _, g := range groups {
		if g < dhGroups && slices.Contains(o.groups, g) {
			return h, g, 0
		}
	}
	return 0, 0, DHGroupUnusable
}

// AllowAllNVMe is an NVMeDirectory that lets every host in without proof.
type AllowAllNVMe struct{}

// NVMeHost returns the zero NVMePolicy.
func (AllowAllNVMe) NVMeHost(string) (NVMePolicy, error) { return NVMePolicy{}, nil }

// dhProof is what one side proves itself with: the HMAC of NVMe base 2.0
// §8.13.5.4 and §8.13.5.5 with the prover's transformed key over the other
// side's augmented challenge, the numbers, the prover's role, and both names,
// the prover's first.
func dhProof(h DHHash, key, session, challenge []byte, seq uint32, tid uint16, role, prover, other string) []byte {
	if session != nil {
		challenge = h.mac(session, challenge)
	}
	var nums [7]byte // the last is SC_C, always 0: no concatenation
	binary.LittleEndian.PutUint32(nums[:], seq)
	binary.LittleEndian.PutUint16(nums[4:], tid)
	return h.mac(key, challenge, nums[:], []byte(role), []byte(prover), []byte{0}, []byte(other))
}

const (
	dhRoleHost       = "HostHost"
	dhRoleController = "Controller"
)

// dhSeq draws a sequence number, which is never 0.
func dhSeq() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return binary.LittleEndian.Uint32(b[:]) | 1
}

// dhStep is what a transaction waits for.
type dhStep uint8

const (
	dhIdle          dhStep = iota // AUTH_Negotiate
	dhSendChallenge               // the host to fetch the challenge
	dhAwaitReply                  // the reply
	dhSendSuccess1                // the host to fetch the success
	dhAwaitSuccess2               // the host's verdict on the controller
	dhSendFailure1                // the host to fetch the failure
	dhOver                        // nothing: failed
)

// DHController is the controller's side of the authentication of one queue: it
// takes the messages of Authentication Send, gives those of Authentication
// Receive, and decides. A new AUTH_Negotiate after a success begins a
// re-authentication, during which Authenticated stays true.
type DHController struct {
	policy  NVMePolicy
	hostNQN string
	subNQN  string

	step     dhStep
	passed   bool
	why      DHReason
	tid      uint16
	hash     DHHash
	group    DHGroup
	seq      uint32
	own      []byte // the challenge given
	exchange *dhExchange
	proof    []byte // for the host, when it wants one
	tries    int    // negotiations since the last success
}

// NewDHController begins with what the directory says about the host.
func NewDHController(p NVMePolicy, hostNQN, subNQN string) *DHController {
	return &DHController{policy: p, hostNQN: hostNQN, subNQN: subNQN}
}

// Authenticated reports whether the host has proved itself.
func (c *DHController) Authenticated() bool { return c.passed }

// Failed returns why the transaction failed, nil if it hasn't.
func (c *DHController) Failed() error {
	if c.why == 0 {
		return nil
	}
	return &DHError{c.why}
}

// Over reports whether the transaction failed and both sides know.
func (c *DHController) Over() bool { return c.step == dhOver }

// Renew replaces the policy, unless a transaction is under way.
func (c *DHController) Renew(p NVMePolicy) {
	if c.step == dhIdle && !p.Host.IsZero() {
		c.policy = p
	}
}

// Send takes a message of the host. What is wrong with it shows in the
// message that the host fetches next.
func (c *DHController) Send(msg []byte) {
	if len(msg) < 8 {
		c.fail(DHInvalidPayload)
		return
	}
	typ, id := msg[0], msg[1]
	tid := binary.LittleEndian.Uint16(msg[4:])
	switch {
	case typ == dhTypeCommon && id == dhNegotiate:
		c.negotiate(msg)
	case typ == dhTypeCommon && id == dhFailure2:
		// The host does not believe the controller, or gives up.
		c.step, c.passed, c.why = dhOver, false, DHFailed
	case tid != c.tid:
		c.fail(DHIncorrectMessage)
	case typ == dhTypeDHCHAP && id == dhReply && c.step == dhAwaitReply:
		c.reply(msg)
	case typ == dhTypeDHCHAP && id == dhSuccess2 && c.step == dhAwaitSuccess2:
		c.succeed()
	default:
		c.fail(DHIncorrectMessage)
	}
}

func (c *DHController) succeed() { c.step, c.passed, c.tries = dhIdle, true, 0 }

func (c *DHController) fail(why DHReason) {
	c.step, c.why, c.passed = dhSendFailure1, why, false
	c.proof, c.exchange = nil, nil
}

// dhTriesMax bounds the negotiations of a host that does not prove itself: each may
// cost the controller an exponentiation, and the host nothing.
const dhTriesMax = 3

func (c *DHController) negotiate(msg []byte) {
	if c.tries++; c.tries > dhTriesMax {
		c.fail(DHFailed)
		return
	}
	c.why = 0
	var o dhOffer
	err := o.decode(msg)
	c.tid = o.tid
	switch {
	case err != nil:
		c.fail(DHInvalidPayload)
		return
	case o.secure != 0:
		c.fail(DHConcatMismatch)
		return
	case !o.usable:
		c.fail(DHProtocolUnusable)
		return
	}
	h, g, why := c.policy.choose(&o)
	if why != 0 {
		c.fail(why)
		return
	}
	c.hash, c.group, c.step = h, g, dhSendChallenge
}

func (c *DHController) challenge() []byte {
	c.own = make([]byte, c.hash.Size())
	_, _ = rand.Read(c.own) // crypto/rand.Read never fails
	c.seq = dhSeq()
	var value []byte
	c.exchange, value = newDHExchange(c.group)
	m := dhChallengeMsg{tid: c.tid, hash: c.hash, group: c.group, seq: c.seq, challenge: c.own, value: value}
	c.step = dhAwaitReply
	return m.append(nil)
}

func (c *DHController) reply(msg []byte) {
	var m dhReplyMsg
	if err := m.decode(msg, c.hash.Size()); err != nil {
		c.fail(DHInvalidPayload)
		return
	}
	session, err := c.exchange.sessionKey(c.hash, m.value)
	c.exchange = nil
	if err != nil {
		c.fail(DHInvalidPayload)
		return
	}
	p := &c.policy
	want := dhProof(c.hash, p.Host.transformed(c.hostNQN), session, c.own, c.seq, c.tid, dhRoleHost, c.hostNQN, c.subNQN)
	if !hmac.Equal(want, m.response) || p.Host.IsZero() || p.RequireMutual && !m.wants {
		c.fail(DHFailed)
		return
	}
	c.proof = nil
	if m.wants {
		// A challenge that comes back as it went out asks the controller to
		// answer itself.
		if p.Controller.IsZero() || hmac.Equal(m.challenge, c.own) {
			c.fail(DHFailed)
			return
		}
		c.proof = dhProof(c.hash, p.Controller.transformed(c.subNQN), session, m.challenge, m.seq, c.tid, dhRoleController, c.subNQN, c.hostNQN)
	}
	c.step = dhSendSuccess1
}

// Receive gives the next message for the host, nil when none is due.
func (c *DHController) Receive() []byte {
	switch c.step {
	case dhSendChallenge:
		return c.challenge()
	case dhSendSuccess1:
		msg := dhSuccess1Msg(c.tid, c.hash.Size(), c.proof)
		if c.proof != nil {
			c.step = dhAwaitSuccess2
		} else {
			c.succeed()
		}
		c.proof = nil
		return msg
	case dhSendFailure1:
		c.step = dhOver
		return dhFailure(dhFailure1, c.tid, c.why)
	}
	return nil
}
