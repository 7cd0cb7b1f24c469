/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steer gives the cluster's datagrams to AF_XDP sockets, and leaves everything
 * else to the kernel. What it decides is written down as a table in doc.go,
 * and again in Go in steer_model_test.go; keep the three alike.
 */
#include "headers.h"

/* Set before loading; the verifier removes what they make unreachable. */
volatile const u16 cluster_port = 0;  /* in network order */
volatile const u8 count_extents = 0;  /* whether to look for the hint */

/* Of the clear header of our packets; doc.go has the same numbers. */
enum {
	HINT_FLAG = 0x08,
	HINT_OFFSET = 16,
};

struct queue_counters {
	u64 redirected;
	u64 no_socket;
	u64 unknown_peer;
	u64 fragments;
	u64 malformed;
	u64 other;
};

struct traffic {
	u64 packets;
	u64 bytes;
};

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	MAP_NUMBER(max_entries, 64);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} sockets SEC(".maps");

/* By queue, as sockets. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 64);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct queue_counters);
} queues SEC(".maps");

/* Our own addresses that the cluster's port is on. The value has no meaning. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, 16);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, u64);
} locals SEC(".maps");

/* Who may send to us: the allowlist and its counters are one map. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_HASH);
	MAP_NUMBER(max_entries, 1024);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, struct traffic);
} peers SEC(".maps");

/* By hint. The least recently touched makes room. */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_NUMBER(max_entries, 16384);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct traffic);
} extents SEC(".maps");

struct hinted {
	u8 flags;
	u8 before[HINT_OFFSET - 1];
	u64 hint;
} __attribute__((packed));

INLINE void count_extent(struct hinted *packet, void *end, u64 bytes)
{
	struct traffic *t, first = {.packets = 1, .bytes = bytes};
	u64 hint;

	if ((void *)(packet + 1) > end || !(packet->flags & HINT_FLAG))
		return;
	hint = packet->hint;
	t = map_lookup(&extents, &hint);
	if (!t) {
		/* Another processor may be faster: then this packet isn't counted. */
		map_update(&extents, &hint, &first, BPF_NOEXIST);
		return;
	}
	__sync_fetch_and_add(&t->packets, 1);
	__sync_fetch_and_add(&t->bytes, bytes);
}

INLINE int decide(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	u32 queue = ctx->rx_queue_index;
	struct queue_counters *count;
	struct traffic *peer;
	struct datagram d;
	u64 bytes;

	/* There is a slot for each queue of the device. */
	count = map_lookup(&queues, &queue);
	if (!count)
		return XDP_PASS;

	switch (find_udp((void *)(long)ctx->data, end, &d)) {
	case FOUND_UDP:
		if (d.udp->destination == cluster_port && map_lookup(&locals, &d.destination))
			break;
		count->other++;
		return XDP_PASS;
	case FOUND_FRAGMENT:
		if (map_lookup(&locals, &d.destination))
			count->fragments++;
		else
			count->other++;
		return XDP_PASS;
	default:
		count->other++;
		return XDP_PASS;
	}

	peer = map_lookup(&peers, &d.source);
	if (!peer) {
		count->unknown_peer++;
		return XDP_DROP;
	}
	bytes = FROM_BE16(d.udp->length);
	if (bytes < sizeof(struct udp)) {
		count->malformed++;
		return XDP_DROP;
	}
	bytes -= sizeof(struct udp);

	/* The kernel answers what its third argument says when the slot is empty. */
	if (redirect_map(&sockets, queue, XDP_PASS) != XDP_REDIRECT) {
		count->no_socket++;
		return XDP_PASS;
	}
	count->redirected++;
	peer->packets++;
	peer->bytes += bytes;
	if (count_extents)
		count_extent((void *)(d.udp + 1), end, bytes);
	return XDP_REDIRECT;
}

/* For drivers, and kernels before 5.18, that know no multi-buffer frames. */
SEC("xdp")
int steer(struct xdp_md *ctx)
{
	return decide(ctx);
}

/* All headers, and the hint, are in the first buffer of a frame. */
SEC("xdp.frags")
int steer_frags(struct xdp_md *ctx)
{
	return decide(ctx);
}

char licensed[] SEC("license") = "Apache-2.0";
