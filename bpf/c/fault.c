/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault damages the cluster's datagrams as they pass an interface, for tests: it
 * drops, corrupts and duplicates them, and hands those that must be late to the
 * process, which sends them later. Package bpf/fault says how to use it.
 *
 * What happens to a datagram depends on nothing but its rule's seed and how
 * many datagrams matched that rule before it.
 */
#include "headers.h"

volatile const u16 cluster_port = 0; /* in network order; 0 is every port */

enum direction {
	ARRIVING,
	LEAVING,
};

/* On copies and on late datagrams, so that they pass unharmed. */
enum {
	DONE_MARK = 0x626c6b64,
};

struct rule_key {
	struct address source, destination; /* all zero: any */
	u64 direction;
};

/* Chances are out of 2^32. */
struct rule {
	u64 seed;
	u64 drop;
	u64 corrupt;
	u64 duplicate;
	u64 delay;
	u64 delay_min_ns;
	u64 delay_spread_ns;
};

struct rule_counters {
	u64 seen;
	u64 dropped;
	u64 corrupted;
	u64 duplicated;
	u64 delayed;
	u64 overrun;
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 1024);
	MAP_TYPE(key, struct rule_key);
	MAP_TYPE(value, struct rule);
} rules SEC(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 1024);
	MAP_TYPE(key, struct rule_key);
	MAP_TYPE(value, struct rule_counters);
} counters SEC(".maps");

enum {
	LATE_SMALL = 2048,
	LATE_LARGE = 9728, /* a jumbo frame with its headers */
};

/* What precedes a late frame. */
struct late {
	u64 due_ns; /* by CLOCK_MONOTONIC */
	u32 length;
	u16 vlan_tci; /* of a tag that is not in the frame */
	u16 vlan_type; /* 0: there is none */
};

struct late_small {
	struct late head;
	u8 frame[LATE_SMALL];
};

struct late_large {
	struct late head;
	u8 frame[LATE_LARGE];
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, 4 << 20);
} late SEC(".maps");

/* Keeps what the compiler knows of x in a register that the verifier sees. */
#define VISIBLE(x) asm volatile("" : "+r"(x))

/* The decisions about one datagram, each with random numbers of its own. */
enum draw {
	DRAW_DROP,
	DRAW_CORRUPT,
	DRAW_CORRUPT_WHERE,
	DRAW_DUPLICATE,
	DRAW_DELAY,
	DRAW_DELAY_LENGTH,
	DRAWS,
};

/* The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
INLINE u64 mix(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

INLINE u64 draw(struct rule *r, u64 nth, enum draw which)
{
	return mix(r->seed + (nth * DRAWS + which + 1) * 0x9e3779b97f4a7c15ULL);
}

INLINE int happens(struct rule *r, u64 nth, enum draw which, u64 chance)
{
	return draw(r, nth, which) >> 32 < chance;
}

/* The most particular rule: an address that is told goes before any. */
static __attribute__((noinline)) struct rule *find_rule(struct rule_key *key)
{
	struct address source = key->source;
	struct rule *r;

	if ((r = map_lookup(&rules, key)))
		return r;
	__builtin_memset(&key->source, 0, sizeof(key->source));
	if ((r = map_lookup(&rules, key)))
		return r;
	key->source = source;
	__builtin_memset(&key->destination, 0, sizeof(key->destination));
	if ((r = map_lookup(&rules, key)))
		return r;
	__builtin_memset(&key->source, 0, sizeof(key->source));
	return map_lookup(&rules, key);
}

/*
 * Inverts a bit of the payload and makes the UDP checksum right again, so that
 * nothing but the receiver's own check can notice.
 */
INLINE void corrupt(struct sk_buff *skb, u32 udp_at, u64 random)
{
	u32 payload_at = udp_at + sizeof(struct udp);
	u32 at = payload_at + (u32)(random >> 32) % (skb->len - payload_at);
	u32 word_at = at - ((at - udp_at) & 1);
	u16 before = 0, after;
	/* The last byte of an odd length counts as if a zero followed. */
	u32 length = word_at + 1 < skb->len ? 2 : 1;

	if (length == 2)
		skb_load_bytes(skb, word_at, &before, 2);
	else
		skb_load_bytes(skb, word_at, &before, 1);
	after = before ^ 1 << ((random & 7) + (at - word_at) * 8);
	if (length == 2)
		skb_store_bytes(skb, word_at, &after, 2, BPF_F_RECOMPUTE_CSUM);
	else
		skb_store_bytes(skb, word_at, &after, 1, BPF_F_RECOMPUTE_CSUM);
	l4_csum_replace(skb, udp_at + __builtin_offsetof(struct udp, checksum), before, after,
			BPF_F_MARK_MANGLED_0 | 2);
}

#define PASS_LATE(record_type, limit)                                             \
	do {                                                                      \
		struct record_type *l = ringbuf_reserve(&late, sizeof(*l), 0);    \
		if (!l)                                                           \
			return 0;                                                 \
		l->head = head;                                                   \
		if (skb_load_bytes(skb, 0, l->frame, length))                     \
			l->head.length = 0;                                       \
		ringbuf_submit(l, 0);                                             \
		return 1;                                                         \
	} while (0)

/* Hands the frame to the process. 0: there is no room. */
INLINE int pass_late(struct sk_buff *skb, u64 delay_ns)
{
	u32 length = skb->len;
	struct late head = {
		.due_ns = ktime_get_ns() + delay_ns,
		.length = length,
		.vlan_tci = skb->vlan_tci,
		.vlan_type = skb->vlan_present ? FROM_BE16(skb->vlan_proto) : 0,
	};

	VISIBLE(length);
	if (length == 0)
		return 0;
	if (length <= LATE_SMALL)
		PASS_LATE(late_small, LATE_SMALL);
	if (length <= LATE_LARGE)
		PASS_LATE(late_large, LATE_LARGE);
	return 0;
}

INLINE int fault(struct sk_buff *skb, enum direction direction)
{
	struct rule_key key = {.direction = direction};
	struct rule_counters *count;
	struct rule_key matched;
	struct datagram d;
	struct rule *r;
	u32 udp_at;
	u64 nth;

	if (skb->mark == DONE_MARK) {
		skb->mark = 0;
		return TCX_NEXT;
	}
	skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	if (find_udp((void *)(long)skb->data, (void *)(long)skb->data_end, &d) != FOUND_UDP)
		return TCX_NEXT;
	if (cluster_port && d.udp->destination != cluster_port)
		return TCX_NEXT;
	key.source = d.source;
	key.destination = d.destination;
	udp_at = d.offset;
	r = find_rule(&key);
	if (!r)
		return TCX_NEXT;
	matched = key; /* find_rule left it at the one that matched */
	count = map_lookup(&counters, &matched);
	if (!count)
		return TCX_NEXT;
	nth = __sync_fetch_and_add(&count->seen, 1);

	if (happens(r, nth, DRAW_DROP, r->drop)) {
		__sync_fetch_and_add(&count->dropped, 1);
		return TCX_DROP;
	}
	if (happens(r, nth, DRAW_CORRUPT, r->corrupt) && skb->len > udp_at + sizeof(struct udp)) {
		__sync_fetch_and_add(&count->corrupted, 1);
		corrupt(skb, udp_at, draw(r, nth, DRAW_CORRUPT_WHERE));
	}
	if (happens(r, nth, DRAW_DUPLICATE, r->duplicate)) {
		u32 mark = skb->mark;

		__sync_fetch_and_add(&count->duplicated, 1);
		skb->mark = DONE_MARK;
		clone_redirect(skb, skb->ifindex, direction == ARRIVING ? BPF_F_INGRESS : 0);
		skb->mark = mark;
	}
	/* What the kernel has still to cut into datagrams can't be late. */
	if (direction == LEAVING && skb->gso_segs <= 1 && happens(r, nth, DRAW_DELAY, r->delay)) {
		u64 more = r->delay_spread_ns ? draw(r, nth, DRAW_DELAY_LENGTH) % r->delay_spread_ns : 0;

		if (pass_late(skb, r->delay_min_ns + more))
			__sync_fetch_and_add(&count->delayed, 1);
		else
			__sync_fetch_and_add(&count->overrun, 1);
		return TCX_DROP;
	}
	return TCX_NEXT;
}

SEC("tcx/ingress")
int fault_arriving(struct sk_buff *skb)
{
	return fault(skb, ARRIVING);
}

SEC("tcx/egress")
int fault_leaving(struct sk_buff *skb)
{
	return fault(skb, LEAVING);
}

char licensed[] SEC("license") = "Apache-2.0";
