/* SPDX-License-Identifier: Apache-2.0 */
/* What the peer programs have in common. Each fills its table, and then answers each line on its input with its
 * figures, a line of JSON each, and a line with a dot. The data and the order of random numbers are those of `sluice bench
 * table` (control/src/bench/table/), so that both can be held against each other by their checksums. */
#ifndef PEER_H
#define PEER_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_malloc.h>

#define WINDOW 16384u
#define BURST 64u

#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

/* SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) */
static inline uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline uint64_t draw_below(uint64_t *state, uint64_t n)
{
	return (unsigned __int128)draw(state) * n >> 64;
}

static inline void *memory(size_t count, size_t size)
{
	void *start = calloc(count, size);

	if (start == NULL)
		FAIL("no memory for %zu times %zu bytes", count, size);
	return start;
}

static inline double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* Bytes that DPDK's own heap has given out. */
static inline uint64_t heap(void)
{
	struct rte_malloc_socket_stats stats = { 0 };

	rte_malloc_get_socket_stats(0, &stats);
	return stats.heap_allocsz_bytes;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Does the operations from `start` up to `end`, and adds to the sum of their results where that is not NULL. */
typedef void pass_fn(void *context, uint32_t start, uint32_t end, uint64_t *sum);

struct figures {
	const char *table, *peer, *pattern;
	uint64_t entries, bytes;
	double build_ms;
};

/* Prints the median of what an operation took in each window, in cycles. */
static inline void report(const struct figures *f, double *taken, uint32_t windows, uint64_t sum)
{
	qsort(taken, windows, sizeof(*taken), compare);
	printf("{\"table\": \"%s\", \"peer\": \"%s\", \"case\": \"%s\", \"entries\": %" PRIu64
	       ", \"ns_per_op\": %.3f, \"build_ms\": %.1f, \"bytes\": %" PRIu64 ", \"checksum\": %" PRIu64 "}\n",
	       f->table, f->peer, f->pattern, f->entries, taken[windows / 2] * 1e9 / rte_get_tsc_hz(), f->build_ms,
	       f->bytes, sum);
}

static inline void measure(const struct figures *f, pass_fn *pass, void *context, uint32_t operations)
{
	static double taken[1 << 10];
	uint32_t windows = 0;
	uint64_t sum = 0;

	/* The first pass is for the caches, and for the sum. */
	pass(context, 0, operations, &sum);
	for (uint32_t start = 0; start < operations && windows < 1 << 10; start += WINDOW) {
		uint32_t end = start + WINDOW < operations ? start + WINDOW : operations;
		uint64_t before = rte_rdtsc_precise();

		pass(context, start, end, NULL);
		taken[windows++] = (double)(rte_rdtsc_precise() - before) / (end - start);
	}
	report(f, taken, windows, sum);
}

/* Starts DPDK, and leaves the program's own arguments. */
static inline char **arguments(int argc, char **argv, int wanted, const char *usage)
{
	int used = rte_eal_init(argc, argv);

	if (used < 0)
		FAIL("DPDK does not start");
	if (argc - used - 1 < wanted)
		FAIL("usage: %s EAL-OPTIONS -- %s", argv[0], usage);
	return argv + used + 1;
}

/* Waits to be asked; 0 at the end. */
static inline int asked(void)
{
	char line[64];

	return fgets(line, sizeof(line), stdin) != NULL;
}

static inline void answered(void)
{
	puts(".");
	fflush(stdout);
}

static inline FILE *open_file(const char *path)
{
	FILE *file = fopen(path, "r");

	if (file == NULL)
		FAIL("cannot read %s", path);
	return file;
}

/* A record of a trace. */
struct header {
	uint32_t src, dst;
	uint16_t src_port, dst_port;
	uint8_t protocol, zero[3];
};

static inline struct header *read_trace(const char *path, uint32_t *count)
{
	FILE *file = open_file(path);
	struct header *headers;

	fseek(file, 0, SEEK_END);
	*count = (uint32_t)(ftell(file) / (long)sizeof(*headers));
	rewind(file);
	headers = memory(*count, sizeof(*headers));
	if (fread(headers, sizeof(*headers), *count, file) != *count)
		FAIL("cannot read %s", path);
	fclose(file);
	return headers;
}

#endif
