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
static __u64 (*buffer_length)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;
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
	MAP_ATTR(max_entries, 34);
	__u32 *key;
	__u8 *value;
} kernel_matches SEC(".maps");

// The box's own addresses, IPv4 ones as ::ffff:a.b.c.d: with which of `shared` the port's NAT has a part in one, or
// NOT_SHARED. Filled by control, and kept as the kernel's addresses change.
#define NOT_SHARED (~0u)
struct address {
	__u8 bytes[16];
};
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_HASH);
	MAP_ATTR(max_entries, 4096);
	struct address *key;
	__u32 *value;
} own SEC(".maps");

// Ports and echo identifiers of an address that are not the kernel's, a bit each.
enum { OF_TCP, OF_UDP, OF_ICMP, TRANSPORTS };
struct ports {
	__u64 words[TRANSPORTS][1024];
};
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_ARRAY);
	MAP_ATTR(max_entries, 16);
	__u32 *key;
	struct ports *value;
} shared SEC(".maps");

// What the interface's guard blocks (1), and within it what it does not (0). Filled by control.
struct prefix4 {
	__u32 length;
	__u8 bytes[4];
};
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_ATTR(max_entries, 1);
	MAP_ATTR(map_flags, BPF_F_NO_PREALLOC);
	struct prefix4 *key;
	__u8 *value;
} blocked4 SEC(".maps");
struct prefix6 {
	__u32 length;
	__u8 bytes[16];
};
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_ATTR(max_entries, 1);
	MAP_ATTR(map_flags, BPF_F_NO_PREALLOC);
	struct prefix6 *key;
	__u8 *value;
} blocked6 SEC(".maps");

// Whether the device has an interface with a guard, so that prefixes may be blocked.
const volatile __u8 has_lists = 0;

// Whether the kernel answers for the box's own addresses on this device, and alone speaks ARP and ND.
const volatile __u8 host_is_kernel = 0;

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
enum passed { MATCHED, NO_SOCKET, BLOCKED, PASSED_KINDS };
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_ATTR(max_entries, PASSED_KINDS);
	__u32 *key;
	struct count *value;
} passed SEC(".maps");

// IANA's protocol numbers, and types of ICMP and ICMPv6. The kernel's headers of these include the C library's.
enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58 };
enum { ECHO_REPLY = 0, UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12 };
enum { TIMESTAMP_REPLY = 14, INFORMATION_REPLY = 16, ADDRESS_MASK_REPLY = 18 };
enum { ROUTER_SOLICITATION = 133, REDIRECT = 137 };
struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

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

static ALWAYS_INLINE bool has_port(const struct ports *ports, __u32 transport, __u16 port)
{
	return ports->words[transport][port >> 6] >> (port & 63) & 1;
}

// Whether a port or echo identifier is the NAT's: of the destination, or of the source in a packet that an error quotes.
static ALWAYS_INLINE bool is_nat_port(const struct ports *ports, __u8 protocol, const __be16 *at, bool quoted,
				      const void *end)
{
	if ((const void *)(at + 4) > end)
		return false;
	if (protocol == TCP)
		return has_port(ports, OF_TCP, NET16(quoted ? at[0] : at[1]));
	if (protocol == UDP)
		return has_port(ports, OF_UDP, NET16(quoted ? at[0] : at[1]));
	// The identifier follows type, code and checksum.
	return protocol == ICMP && has_port(ports, OF_ICMP, NET16(at[2]));
}

// An IPv4 packet to an address that the kernel and the NAT share. What is not clearly the NAT's is the kernel's, but for
// later fragments, which have no port: these are the NAT's.
static ALWAYS_INLINE bool is_kernels_share(const struct ports *ports, const struct iphdr *ip, const void *end)
{
	if (ip->frag_off & NET16(0x1fff))
		return false;
	const void *at = (const void *)ip + ip->ihl * 4;

	if (ip->protocol != ICMP)
		return !is_nat_port(ports, ip->protocol, at, false, end);
	const struct icmp *icmp = at;

	if ((const void *)(icmp + 1) > end)
		return true;
	if (icmp->type == ECHO_REPLY || icmp->type == TIMESTAMP_REPLY || icmp->type == INFORMATION_REPLY ||
	    icmp->type == ADDRESS_MASK_REPLY)
		return !is_nat_port(ports, ICMP, at, false, end);
	if (icmp->type != UNREACHABLE && icmp->type != TIME_EXCEEDED && icmp->type != PARAMETER_PROBLEM)
		return true;
	const struct iphdr *quoted = (const void *)(icmp + 1);

	if ((const void *)(quoted + 1) > end)
		return true;
	return !is_nat_port(ports, quoted->protocol, (const void *)quoted + quoted->ihl * 4, true, end);
}

static ALWAYS_INLINE bool is_to_host4(const struct iphdr *ip, const void *end)
{
	struct address to = { .bytes = { [10] = 0xff, [11] = 0xff } };

	__builtin_memcpy(&to.bytes[12], &ip->daddr, 4);
	const __u32 *share = lookup(&own, &to);

	if (!share)
		return false;
	__u32 index = *share;
	const struct ports *ports = index == NOT_SHARED ? NULL : lookup(&shared, &index);

	return !ports || is_kernels_share(ports, ip, end);
}

static ALWAYS_INLINE bool is_to_host6(const struct ipv6hdr *ip, const void *end)
{
	const __u8 *type = (const void *)(ip + 1);
	struct address to;

	if (ip->nexthdr == ICMPV6 && (const void *)(type + 1) <= end && *type >= ROUTER_SOLICITATION &&
	    *type <= REDIRECT)
		return true;
	__builtin_memcpy(to.bytes, &ip->daddr, 16);
	return lookup(&own, &to);
}

// What is behind the link header and up to two VLAN tags, and its type. NULL if the frame ends before.
static ALWAYS_INLINE const void *behind_tags(const void *data, const void *end, __be16 *type)
{
	const struct ethhdr *eth = data;
	const void *at = eth + 1;

	if (at > end)
		return NULL;
	*type = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const struct vlan_tag *tag = at;

		if (*type != NET16(ETH_P_8021Q) && *type != NET16(ETH_P_8021AD))
			break;
		at = tag + 1;
		if (at > end)
			return NULL;
		*type = tag->type;
	}
	return at;
}

static ALWAYS_INLINE bool is_blocked(const void *data, const void *end)
{
	__be16 type;
	const void *at = behind_tags(data, end, &type);
	const __u8 *verdict = NULL;

	if (!at)
		return false;
	if (type == NET16(ETH_P_IP)) {
		const struct iphdr *ip = at;
		struct prefix4 from = { .length = 32 };

		if ((const void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(from.bytes, &ip->saddr, 4);
		verdict = lookup(&blocked4, &from);
	} else if (type == NET16(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = at;
		struct prefix6 from = { .length = 128 };

		if ((const void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(from.bytes, &ip->saddr, 16);
		verdict = lookup(&blocked6, &from);
	}
	return verdict && *verdict;
}

// Anything cut short, or not understood, is for the socket: the stages behind it count it.
static ALWAYS_INLINE bool is_for_kernel(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	__be16 type;
	const void *at = behind_tags(data, end, &type);

	if (!at)
		return false;
	// Group addresses: ARP, DHCP, RA, VRRP, OSPF, IGMP, LLDP, LACP. Nothing of it is forwarded.
	if (host_is_kernel && ((eth->h_dest[0] & 1) || (type != NET16(ETH_P_IP) && type != NET16(ETH_P_IPV6))))
		return true;
	// Of an 802.3 frame with LLC the field is a length; ETH_P_802_2 is the kernel's own name for these.
	__u16 ethertype = NET16(type) < ETH_P_802_3_MIN ? ETH_P_802_2 : NET16(type);
	if (match_ethertypes && is_match(ethertype))
		return true;
	if (!match_protocols && !host_is_kernel)
		return false;

	if (type == NET16(ETH_P_IP)) {
		const struct iphdr *ip = at;

		if ((const void *)(ip + 1) > end)
			return false;
		if (host_is_kernel && is_to_host4(ip, end))
			return true;
		bool is_first = !(ip->frag_off & NET16(0x1fff));
		return is_match_transport(ip->protocol, is_first ? at + ip->ihl * 4 : NULL, end);
	}
	if (type == NET16(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = at;

		if ((const void *)(ip + 1) > end)
			return false;
		if (host_is_kernel && is_to_host6(ip, end))
			return true;
		return is_match_transport(ip->nexthdr, (const void *)(ip + 1), end);
	}
	return false;
}

static ALWAYS_INLINE int counted(__u32 kind, __u64 bytes, int action)
{
	struct count *count = lookup(&passed, &kind);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
	return action;
}

static ALWAYS_INLINE int run(struct xdp_md *ctx, __u64 bytes)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;

	if (has_lists && is_blocked(data, end))
		return counted(BLOCKED, bytes, XDP_DROP);
	if (is_for_kernel(data, end))
		return counted(MATCHED, bytes, XDP_PASS);
	// The third argument is what a queue without a socket returns.
	int action = redirect_to(&sockets, ctx->rx_queue_index, XDP_PASS);
	return action == XDP_PASS ? counted(NO_SOCKET, bytes, XDP_PASS) : action;
}

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	return run(ctx, ctx->data_end - ctx->data);
}

// For devices whose frames may take several buffers (Linux 5.18). Only the first one's bytes can be looked at.
SEC("xdp.frags")
int redirect_frags(struct xdp_md *ctx)
{
	return run(ctx, buffer_length(ctx));
}

char _license[] SEC("license") = "Apache-2.0";
