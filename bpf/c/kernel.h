/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the kernel's interface that our programs use: types, numbers of
 * helper functions, layouts of contexts and headers. All of it is stable ABI
 * (include/uapi/linux/bpf.h, RFC 791, 8200, 768, IEEE 802.1Q).
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
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_XSKMAP = 17,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

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
