/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the kernel's interface that our programs use: numbers of its
 * functions and map types, layouts of contexts. All of it is stable ABI
 * (include/uapi/linux/bpf.h).
 *
 * It stands here rather than in the system's headers so that the object files
 * depend on nothing but this folder and the version of clang.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 be16;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the programs are built for little-endian machines"
#endif
#define BE16(x) ((be16)__builtin_bswap16(x))
#define FROM_BE16(x) ((u16)__builtin_bswap16(x))

/* How a map is declared in a struct in the section .maps. */
#define MAP_NUMBER(name, value) int(*name)[value]
#define MAP_TYPE(name, type) type *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_XSKMAP = 17,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_NOEXIST = 1, /* of map_update */

	BPF_F_RECOMPUTE_CSUM = 1,      /* of skb_store_bytes */
	BPF_F_MARK_MANGLED_0 = 1 << 5, /* of l4_csum_replace: mind that 0 is no checksum */
	BPF_F_INGRESS = 1,             /* of clone_redirect */
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*ktime_get_ns)(void) = (void *)5;
static long (*skb_store_bytes)(void *skb, u32 offset, const void *from, u32 len, u64 flags) = (void *)9;
static long (*l4_csum_replace)(void *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*clone_redirect)(void *skb, u32 ifindex, u64 flags) = (void *)13;
static long (*skb_load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)26;
static long (*skb_pull_data)(void *skb, u32 len) = (void *)39;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static void *(*ringbuf_reserve)(void *ringbuf, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;

enum tcx_action {
	TCX_NEXT = -1, /* go on, to the next program or to the network */
	TCX_DROP = 2,
};

/* As far as it is used here. */
struct sk_buff { /* struct __sk_buff in the kernel */
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
};

enum xdp_action {
	XDP_ABORTED,
	XDP_DROP,
	XDP_PASS,
	XDP_TX,
	XDP_REDIRECT,
};

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};
