// SPDX-License-Identifier: Apache-2.0
// Sends a device's frames to the AF_XDP socket of the queue they came in on, but for what is left to the kernel.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>
#include <stddef.h>

#define SEC(name) __attribute__((section(name), used))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define MAP_ATTR(name, value) int(*name)[value]

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) __builtin_bswap16(x)
#else
#define NET16(x) (x)
#endif

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect_to)(void *map, __u64 index, __u64 flags) = (void *)BPF_FUNC_redirect_map;

// The sockets by queue. The loader sizes it to the device.
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_XSKMAP);
	MAP_ATTR(max_entries, 1);
	__u32 *key;
	__u32 *value;
} sockets SEC(".maps");

// What is left to the kernel: an ethertype, or IS_TRANSPORT | protocol << 16 | destination port. The values mean nothing.
#define IS_TRANSPORT (1u << 24)
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_HASH);
	MAP_ATTR(max_entries, 32);
	__u32 *key;
	__u8 *value;
} kernel_matches SEC(".maps");

// Set before the program is loaded, so that the verifier removes the checks that the device has no use for, and a frame
// costs a look-up only if its protocol is one that some port of which is left to the kernel.
const volatile __u8 match_ethertypes = 0;
const volatile __u8 match_protocols = 0;
enum { OURS, WHOLE, BY_PORT };
const volatile __u8 protocols[256] = {};

struct count {
	__u64 packets;
	__u64 bytes;
};
enum passed { MATCHED, NO_SOCKET, PASSED_KINDS };
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_ATTR(max_entries, PASSED_KINDS);
	__u32 *key;
	struct count *value;
} passed SEC(".maps");

struct vlan_tag {
	__be16 control;
	__be16 type;
};

static ALWAYS_INLINE bool is_match(__u32 key)
{
	return lookup(&kernel_matches, &key);
}

// ports is NULL where there is none to be had: in a fragment other than the first.
static ALWAYS_INLINE bool is_match_transport(__u8 protocol, const __be16 *ports, const void *end)
{
	__u8 kind = protocols[protocol];

	if (kind != BY_PORT)
		return kind == WHOLE;
	if (!ports || (const void *)(ports + 2) > end)
		return false;
	return is_match(IS_TRANSPORT | (__u32)protocol << 16 | NET16(ports[1]));
}

// Anything cut short, or not understood, is for the socket: the stages behind it count it.
static ALWAYS_INLINE bool is_for_kernel(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const void *at = eth + 1;

	if (at > end)
		return false;
	__be16 type = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const struct vlan_tag *tag = at;

		if (type != NET16(ETH_P_8021Q) && type != NET16(ETH_P_8021AD))
			break;
		at = tag + 1;
		if (at > end)
			return false;
		type = tag->type;
	}
	// Of an 802.3 frame with LLC the field is a length; ETH_P_802_2 is the kernel's own name for these.
	__u16 ethertype = NET16(type) < ETH_P_802_3_MIN ? ETH_P_802_2 : NET16(type);
	if (match_ethertypes && is_match(ethertype))
		return true;
	if (!match_protocols)
		return false;

	if (type == NET16(ETH_P_IP)) {
		const struct iphdr *ip = at;

		if ((const void *)(ip + 1) > end)
			return false;
		bool is_first = !(ip->frag_off & NET16(0x1fff));
		return is_match_transport(ip->protocol, is_first ? at + ip->ihl * 4 : NULL, end);
	}
	if (type == NET16(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = at;

		if ((const void *)(ip + 1) > end)
			return false;
		return is_match_transport(ip->nexthdr, (const void *)(ip + 1), end);
	}
	return false;
}

static ALWAYS_INLINE int pass(__u32 kind, __u64 bytes)
{
	struct count *count = lookup(&passed, &kind);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return XDP_PASS;
}

// "xdp.frags" would allow frames of several buffers, which the sockets must then ask for by XDP_USE_SG.
SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;

	if (is_for_kernel(data, end))
		return pass(MATCHED, end - data);
	// The third argument is what a queue without a socket returns.
	int action = redirect_to(&sockets, ctx->rx_queue_index, XDP_PASS);
	return action == XDP_PASS ? pass(NO_SOCKET, end - data) : action;
}

char _license[] SEC("license") = "Apache-2.0";
