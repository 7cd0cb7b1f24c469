/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the UDP datagram in a frame. Nothing here decides what becomes of it.
 */
#pragma once
#include "kernel.h"

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_VLAN = 0x8100,  /* 802.1Q, customer tag */
	ETHERTYPE_SVLAN = 0x88a8, /* 802.1ad, service tag */

	PROTOCOL_UDP = 17,
	PROTOCOL_FRAGMENT = 44, /* RFC 8200 section 4.5 */

	VLAN_TAGS_MAX = 2,
};

struct ethernet {
	u8 destination[6];
	u8 source[6];
	be16 type;
};

struct vlan {
	be16 tci;
	be16 type;
};

struct ipv4 {
	u8 version_length; /* version in the upper half, length in 32-bit words */
	u8 tos;
	be16 total_length;
	be16 id;
	be16 fragment; /* 3 flags, offset in 8 bytes */
	u8 ttl;
	u8 protocol;
	be16 checksum;
	u32 source;
	u32 destination;
};

enum {
	IPV4_MORE_OR_OFFSET = 0x3fff, /* of ipv4.fragment: not a whole datagram */
};

struct ipv6 {
	u32 version_class_flow;
	be16 payload_length;
	u8 next_header;
	u8 hop_limit;
	u32 source[4];
	u32 destination[4];
};

struct udp {
	be16 source;
	be16 destination;
	be16 length; /* of header and payload */
	be16 checksum;
};

/* An address as netip.Addr.As16 gives it: IPv4 is ::ffff:a.b.c.d. */
struct address {
	u32 words[4];
};

enum found {
	FOUND_OTHER,    /* not UDP over IP, or not to be told from here */
	FOUND_FRAGMENT, /* part of a datagram; addresses are known, udp is not */
	FOUND_UDP,
};

struct datagram {
	struct address source, destination;
	struct udp *udp;   /* a whole header within the frame */
	u32 offset;        /* of udp, from the start of the frame */
};

INLINE void map_ipv4(struct address *a, u32 ipv4)
{
	a->words[0] = 0;
	a->words[1] = 0;
	a->words[2] = 0xffff0000; /* the bytes 00 00 ff ff */
	a->words[3] = ipv4;
}

INLINE enum found find_udp(void *at, void *end, struct datagram *d)
{
	void *start = at;
	struct ethernet *eth = at;
	be16 type;
	u8 protocol;

	if ((void *)(eth + 1) > end)
		return FOUND_OTHER;
	type = eth->type;
	at = eth + 1;

#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan *tag = at;

		if (type != BE16(ETHERTYPE_VLAN) && type != BE16(ETHERTYPE_SVLAN))
			break;
		if ((void *)(tag + 1) > end)
			return FOUND_OTHER;
		type = tag->type;
		at = tag + 1;
	}

	if (type == BE16(ETHERTYPE_IPV4)) {
		struct ipv4 *ip = at;
		u32 length;

		if ((void *)(ip + 1) > end)
			return FOUND_OTHER;
		length = (ip->version_length & 15) * 4;
		if (ip->version_length >> 4 != 4 || length < sizeof(*ip))
			return FOUND_OTHER;
		map_ipv4(&d->source, ip->source);
		map_ipv4(&d->destination, ip->destination);
		protocol = ip->protocol;
		if (protocol == PROTOCOL_UDP && ip->fragment & BE16(IPV4_MORE_OR_OFFSET))
			return FOUND_FRAGMENT;
		at += length;
	} else if (type == BE16(ETHERTYPE_IPV6)) {
		struct ipv6 *ip = at;

		if ((void *)(ip + 1) > end || *(u8 *)at >> 4 != 6)
			return FOUND_OTHER;
		__builtin_memcpy(&d->source, ip->source, sizeof(d->source));
		__builtin_memcpy(&d->destination, ip->destination, sizeof(d->destination));
		protocol = ip->next_header;
		if (protocol == PROTOCOL_FRAGMENT)
			return FOUND_FRAGMENT;
		at = ip + 1;
	} else {
		return FOUND_OTHER;
	}

	d->udp = at;
	if (protocol != PROTOCOL_UDP || (void *)(d->udp + 1) > end)
		return FOUND_OTHER;
	d->offset = at - start;
	return FOUND_UDP;
}
