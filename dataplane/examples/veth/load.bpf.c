// SPDX-License-Identifier: Apache-2.0
// Both ends of a benchmark over veth: `load` sends, without end, what BPF_PROG_TEST_RUN hands it as live frames; `sink`
// counts UDP and drops it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define MAP_ATTR(name, value) int(*name)[value]
#define NET16(x) __builtin_bswap16(x)

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;

// The device to send on, the flows (by UDP source port, upwards from `first_port`), and the sum of all that the UDP
// checksum covers but that port.
const volatile __u32 ifindex = 0;
const volatile __u32 flows = 1;
const volatile __u32 first_port = 1024;
const volatile __u32 sum = 0;

enum { NEXT, SUNK, COUNTS };
struct {
	MAP_ATTR(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_ATTR(max_entries, COUNTS);
	__u32 *key;
	__u64 *value;
} counts SEC(".maps");

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static inline __u64 *count(__u32 index)
{
	return lookup(&counts, &index);
}

SEC("xdp")
int load(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	__u64 *next = count(NEXT);

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end || !next)
		return XDP_ABORTED;
	__u16 port = NET16(first_port + *next % flows);
	__u32 folded = sum + port;
	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	*next += 1;
	frame->udp.source = port;
	frame->udp.check = ~folded;
	return redirect(ifindex, 0);
}

// All but UDP over IPv4 (ARP, above all) is for the stack behind it.
SEC("xdp")
int sink(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	__u64 *sunk = count(SUNK);

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end || !sunk)
		return XDP_PASS;
	if (frame->eth.h_proto != NET16(ETH_P_IP) || frame->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	*sunk += 1;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
