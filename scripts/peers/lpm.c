/* SPDX-License-Identifier: Apache-2.0 */
/* rte_lpm, and rte_fib (DIR-24-8) with next hops of 2 and 4 bytes, by scalar code and by AVX-512.
 * lpm ... -- ROUTES TRACE...      a trace is named PATTERN.trace, with anything and a `-` ahead of the pattern */
#include "peer.h"

#include <rte_fib.h>
#include <rte_lpm.h>

/* Groups of 256 that go beyond 24 bits */
#define DEEP 16384

struct route {
	uint32_t ip;
	uint8_t length, next_hop;
};

struct trace {
	char pattern[32];
	uint32_t count, *ips;
};

static struct rte_lpm *lpm;
static struct rte_fib *fib;

static void look_up_lpm(void *context, uint32_t start, uint32_t end, uint64_t *sum)
{
	const struct trace *trace = context;
	uint32_t results[BURST];

	for (uint32_t i = start; i < end; i += BURST) {
		uint32_t n = end - i < BURST ? end - i : BURST;

		rte_lpm_lookup_bulk(lpm, &trace->ips[i], results, n);
		/* A result is the next hop plus one, or 0. */
		for (uint32_t j = 0; sum != NULL && j < n; j++)
			*sum += results[j] & RTE_LPM_LOOKUP_SUCCESS ? (results[j] & 0xffffff) + 1 : 0;
	}
}

static void look_up_fib(void *context, uint32_t start, uint32_t end, uint64_t *sum)
{
	const struct trace *trace = context;
	uint64_t results[BURST];

	for (uint32_t i = start; i < end; i += BURST) {
		uint32_t n = end - i < BURST ? end - i : BURST;

		rte_fib_lookup_bulk(fib, &trace->ips[i], results, (int)n);
		for (uint32_t j = 0; sum != NULL && j < n; j++)
			*sum += results[j] != 0 ? results[j] + 1 : 0;
	}
}

static struct route *read_routes(const char *path, uint32_t *count)
{
	FILE *file = open_file(path);
	struct route *routes = NULL;
	unsigned int a, b, c, d, length, next_hop;

	for (*count = 0; fscanf(file, "%u.%u.%u.%u/%u %u", &a, &b, &c, &d, &length, &next_hop) == 6; (*count)++) {
		if ((*count & (*count - 1)) == 0) {
			routes = realloc(routes, (*count == 0 ? 1 : 2 * *count) * sizeof(*routes));
			if (routes == NULL)
				FAIL("no memory");
		}
		routes[*count] =
			(struct route){ a << 24 | b << 16 | c << 8 | d, (uint8_t)length, (uint8_t)next_hop };
	}
	fclose(file);
	return routes;
}

static struct trace take_trace(const char *path)
{
	struct trace trace;
	struct header *headers = read_trace(path, &trace.count);
	const char *pattern = strrchr(path, '-');

	snprintf(trace.pattern, sizeof(trace.pattern), "v4 %.*s", (int)strcspn(pattern ? pattern + 1 : path, "."),
		 pattern ? pattern + 1 : path);
	trace.ips = memory(trace.count, sizeof(*trace.ips));
	for (uint32_t i = 0; i < trace.count; i++)
		trace.ips[i] = headers[i].dst;
	free(headers);
	return trace;
}

static void build_lpm(const struct route *routes, uint32_t count, struct figures *f)
{
	struct rte_lpm_config config = { .max_rules = count + 1, .number_tbl8s = DEEP };
	uint64_t before = heap();
	double start = milliseconds();

	lpm = rte_lpm_create("lpm", 0, &config);
	for (uint32_t i = 0; i < count; i++)
		if (lpm == NULL || rte_lpm_add(lpm, routes[i].ip, routes[i].length, routes[i].next_hop) != 0)
			FAIL("rte_lpm refuses route %u", i + 1);
	*f = (struct figures){ "lpm", "rte_lpm", "", count, heap() - before, milliseconds() - start };
}

static struct rte_fib *build_fib(const struct route *routes, uint32_t count, int bytes, struct figures *f)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8,
		.max_routes = (int)count + 1,
		.dir24_8 = { .nh_sz = bytes == 2 ? RTE_FIB_DIR24_8_2B : RTE_FIB_DIR24_8_4B, .num_tbl8 = DEEP },
	};
	uint64_t before = heap();
	double start = milliseconds();
	struct rte_fib *new = rte_fib_create(bytes == 2 ? "fib2" : "fib4", 0, &config);

	for (uint32_t i = 0; i < count; i++)
		if (new == NULL || rte_fib_add(new, routes[i].ip, routes[i].length, routes[i].next_hop) != 0)
			FAIL("rte_fib refuses route %u", i + 1);
	*f = (struct figures){ "lpm", "", "", count, heap() - before, milliseconds() - start };
	return new;
}

int main(int argc, char **argv)
{
	char **own = arguments(argc, argv, 2, "ROUTES TRACE...");
	uint32_t count, traces = 0;
	struct route *routes = read_routes(own[0], &count);
	struct trace trace[8];
	struct figures lpm_figures, fib_figures[2];
	struct rte_fib *fibs[2];

	for (char **path = own + 1; *path != NULL && traces < 8; path++)
		trace[traces++] = take_trace(*path);
	for (int i = 0; i < 2; i++)
		fibs[i] = build_fib(routes, count, i == 0 ? 2 : 4, &fib_figures[i]);
	build_lpm(routes, count, &lpm_figures);

	while (asked()) {
		for (uint32_t t = 0; t < traces; t++) {
			lpm_figures.pattern = trace[t].pattern;
			measure(&lpm_figures, look_up_lpm, &trace[t], trace[t].count);
			for (int i = 0; i < 4; i++) {
				static const char *const names[] = { "rte_fib 2 B scalar", "rte_fib 2 B avx512",
								     "rte_fib 4 B scalar", "rte_fib 4 B avx512" };

				fib = fibs[i / 2];
				fib_figures[i / 2].peer = names[i];
				fib_figures[i / 2].pattern = trace[t].pattern;
				if (rte_fib_select_lookup(fib, i % 2 ? RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512 :
								       RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO) == 0)
					measure(&fib_figures[i / 2], look_up_fib, &trace[t], trace[t].count);
			}
		}
		answered();
	}
	rte_eal_cleanup();
	return 0;
}
