/* SPDX-License-Identifier: Apache-2.0 */
/* rte_sched: into a queue and out again, with rates that no packet has to wait for.  sched ... -- PIPES SEED */
/* rte_sched.h takes in rte_pie.h. */
#define ALLOW_EXPERIMENTAL_API
#include "peer.h"

#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_sched.h>

#define PACKETS 32768u
#define SHAPER_BURST 32u
#define SHAPER_WINDOW 32768u
#define WINDOWS 200u
#define WARM_UP 16u
/* Bytes a second: 100 Gbit/s, which is more than packets of 64 bytes at 140 million a second */
#define FAST UINT64_C(12500000000)
#define LEN 64u

static struct rte_sched_port *port;
static uint32_t pipes;

static void make_port(void)
{
	static struct rte_sched_pipe_params pipe = {
		.tb_rate = FAST, .tb_size = 100000000, .tc_period = 10, .tc_ov_weight = 1,
	};
	static struct rte_sched_subport_profile_params profile = {
		.tb_rate = FAST, .tb_size = 100000000, .tc_period = 10,
	};
	struct rte_sched_subport_params subport = {
		.n_pipes_per_subport_enabled = pipes, .pipe_profiles = &pipe, .n_pipe_profiles = 1,
		.n_max_pipe_profiles = 1,
	};
	struct rte_sched_port_params params = {
		.name = "port", .socket = 0, .rate = FAST, .mtu = 1522, .frame_overhead = RTE_SCHED_FRAME_OVERHEAD_DEFAULT,
		.n_subports_per_port = 1, .subport_profiles = &profile, .n_subport_profiles = 1,
		.n_max_subport_profiles = 1, .n_pipes_per_subport = pipes,
	};

	for (uint32_t i = 0; i < RTE_SCHED_TRAFFIC_CLASSES_PER_PIPE; i++) {
		pipe.tc_rate[i] = profile.tc_rate[i] = FAST;
		subport.qsize[i] = 64;
	}
	for (uint32_t i = 0; i < RTE_SCHED_BE_QUEUES_PER_PIPE; i++)
		pipe.wrr_weights[i] = 1;
	port = rte_sched_port_config(&params);
	if (port == NULL || rte_sched_subport_config(port, 0, &subport, 0) != 0)
		FAIL("no scheduler for %u pipes", pipes);
	for (uint32_t i = 0; i < pipes; i++)
		if (rte_sched_pipe_config(port, 0, i, 0) != 0)
			FAIL("pipe %u cannot be configured", i);
}

/* Packets go round: those that come out are the last to go in again. */
struct ring {
	struct rte_mbuf *packets[PACKETS];
	uint32_t head, tail;
};

static void fill(struct ring *ring)
{
	if (rte_sched_port_enqueue(port, &ring->packets[ring->head % PACKETS], SHAPER_BURST) != (int)SHAPER_BURST)
		FAIL("packets were dropped");
	ring->head += SHAPER_BURST;
}

static void empty(struct ring *ring)
{
	struct rte_mbuf *out[SHAPER_BURST];

	for (uint32_t left = SHAPER_BURST; left > 0;) {
		int count = rte_sched_port_dequeue(port, out, left);

		for (int i = 0; i < count; i++)
			ring->packets[ring->tail++ % PACKETS] = out[i];
		left -= (uint32_t)count;
	}
}

/* Each packet's pipe and class at random, as each queue's flow is on our side. */
static void run(const char *pattern, struct rte_mbuf **all, uint32_t standing, uint64_t seed)
{
	static struct ring ring;
	static double taken[WINDOWS];
	struct figures f = { "shaper", "rte_sched", pattern, pipes, 0, 0 };
	double began = milliseconds();
	uint64_t before = heap();

	make_port();
	f.build_ms = milliseconds() - began;
	f.bytes = heap() - before;
	ring.head = ring.tail = 0;
	for (uint32_t i = 0; i < PACKETS; i++) {
		uint32_t pipe = i < standing * pipes ? i % pipes : (uint32_t)draw_below(&seed, pipes);
		uint32_t class = (uint32_t)draw_below(&seed, RTE_SCHED_TRAFFIC_CLASSES_PER_PIPE);
		uint32_t queue = class == RTE_SCHED_TRAFFIC_CLASS_BE
					 ? (uint32_t)draw_below(&seed, RTE_SCHED_BE_QUEUES_PER_PIPE)
					 : 0;

		rte_sched_port_pkt_write(port, all[i], 0, pipe, class, queue, RTE_COLOR_GREEN);
		ring.packets[ring.tail++ % PACKETS] = all[i];
	}
	for (uint32_t i = 0; i < standing * pipes; i += SHAPER_BURST)
		fill(&ring);
	for (uint32_t w = 0; w < WARM_UP + WINDOWS; w++) {
		uint64_t start = rte_rdtsc_precise();

		for (uint32_t i = 0; i < SHAPER_WINDOW; i += SHAPER_BURST) {
			fill(&ring);
			empty(&ring);
		}
		if (w >= WARM_UP)
			taken[w - WARM_UP] = (double)(rte_rdtsc_precise() - start) / SHAPER_WINDOW;
	}
	report(&f, taken, WINDOWS, 0);
	rte_sched_port_free(port);
}

int main(int argc, char **argv)
{
	char **own = arguments(argc, argv, 2, "PIPES SEED");
	uint64_t seed = strtoull(own[1], NULL, 0);
	static struct rte_mbuf *all[PACKETS];
	struct rte_mempool *pool;

	pipes = (uint32_t)strtoul(own[0], NULL, 0);
	pool = rte_pktmbuf_pool_create("packets", PACKETS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
	if (pool == NULL || rte_pktmbuf_alloc_bulk(pool, all, PACKETS) != 0)
		FAIL("no packets");
	for (uint32_t i = 0; i < PACKETS; i++)
		all[i]->pkt_len = all[i]->data_len = LEN;
	while (asked()) {
		run("nearly empty", all, 0, seed);
		if (8 * pipes + SHAPER_BURST <= PACKETS)
			run("8 standing", all, 8, seed);
		answered();
	}
	rte_eal_cleanup();
	return 0;
}
