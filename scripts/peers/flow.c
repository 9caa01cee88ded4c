/* SPDX-License-Identifier: Apache-2.0 */
/* rte_hash with keys of 16 bytes and values of 8, and room for twice the entries.  flow ... -- ENTRIES SEED */
#include "peer.h"

#include <rte_hash.h>
#include <rte_hash_crc.h>

/* Windows of deletes and inserts */
#define CHANGES 48

struct key {
	uint64_t words[2];
};

static struct rte_hash *table;
static struct key *keys;
static uint32_t entries, *order;
static double *zipf;

static struct key draw_key(uint64_t *state)
{
	uint64_t addresses = draw(state), rest = draw(state);

	return (struct key){ { addresses, (rest & UINT32_MAX) | (rest >> 32 & 1 ? UINT64_C(6) : 17) << 32 } };
}

static uint32_t draw_rank(uint64_t *state)
{
	double wanted = (double)(draw(state) >> 11) / (double)(UINT64_C(1) << 53) * zipf[entries - 1];
	uint32_t low = 0, high = entries - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (zipf[middle] < wanted)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void look_up(void *context, uint32_t start, uint32_t end, uint64_t *sum)
{
	const struct key *asked_for = context;
	const void *burst[BURST];
	void *values[BURST];

	for (uint32_t i = start; i < end; i += BURST) {
		uint32_t n = end - i < BURST ? end - i : BURST;
		uint64_t hits = 0;

		for (uint32_t j = 0; j < n; j++)
			burst[j] = &asked_for[i + j];
		rte_hash_lookup_bulk_data(table, burst, n, &hits, values);
		for (uint32_t j = 0; sum != NULL && j < n; j++)
			*sum += hits >> j & 1 ? (uintptr_t)values[j] : 0;
	}
}

/* Deletes entries in random order and inserts them again, a few thousand at a time. */
static void change(struct figures *f)
{
	static double taken[2][CHANGES + 1];
	uint32_t chunk = entries / 2 < WINDOW ? entries / 2 : WINDOW, start = 0;
	uint64_t sum = 0;
	void *value;

	for (uint32_t window = 0; window <= CHANGES; window++) {
		uint32_t end = entries - start < chunk ? entries : start + chunk;
		uint64_t before = rte_rdtsc_precise(), between;

		for (uint32_t i = start; i < end; i++)
			if (rte_hash_del_key(table, &keys[order[i]]) < 0)
				FAIL("entry %u cannot be deleted", order[i]);
		between = rte_rdtsc_precise();
		for (uint32_t i = start; i < end; i++)
			if (rte_hash_add_key_data(table, &keys[order[i]], (void *)(uintptr_t)(order[i] + 1)) < 0)
				FAIL("entry %u cannot be inserted again", order[i]);
		/* The first one is for the caches. */
		if (window > 0) {
			taken[0][window - 1] = (double)(between - before) / (end - start);
			taken[1][window - 1] = (double)(rte_rdtsc_precise() - between) / (end - start);
		}
		start = end < entries ? end : 0;
	}
	for (uint32_t i = 0; i < entries; i++) {
		if (rte_hash_lookup_data(table, &keys[i], &value) < 0)
			FAIL("entry %u is lost", i);
		sum += (uintptr_t)value;
	}
	for (int i = 0; i < 2; i++) {
		f->pattern = i == 0 ? "delete" : "insert";
		report(f, taken[i], CHANGES, sum);
	}
}

int main(int argc, char **argv)
{
	char **own = arguments(argc, argv, 2, "ENTRIES SEED");
	uint64_t state = strtoull(own[1], NULL, 0), before;
	double start, sum = 0;
	struct key *asked_for[3];

	entries = (uint32_t)strtoul(own[0], NULL, 0);
	uint32_t count = entries <= 65536 ? 1u << 20 : 1u << 22;
	struct rte_hash_parameters parameters = {
		.name = "flows", .entries = 2 * entries, .key_len = sizeof(struct key), .hash_func = rte_hash_crc,
	};
	struct figures f = { .table = "flow", .peer = "rte_hash", .entries = entries };

	keys = memory(entries, sizeof(*keys));
	for (uint32_t i = 0; i < entries; i++)
		keys[i] = draw_key(&state);
	before = heap();
	start = milliseconds();
	table = rte_hash_create(&parameters);
	if (table == NULL)
		FAIL("no table for %u entries", entries);
	for (uint32_t i = 0; i < entries; i++)
		if (rte_hash_add_key_data(table, &keys[i], (void *)(uintptr_t)(i + 1)) < 0)
			FAIL("the table is full at %u", i);
	f.build_ms = milliseconds() - start;
	f.bytes = heap() - before;

	order = memory(entries, sizeof(*order));
	zipf = memory(entries, sizeof(*zipf));
	for (uint32_t i = 0; i < entries; i++) {
		order[i] = i;
		zipf[i] = sum += 1.0 / (i + 1.0);
	}
	for (uint32_t i = entries; i > 1; i--) {
		uint32_t j = (uint32_t)draw_below(&state, i), other = order[i - 1];

		order[i - 1] = order[j];
		order[j] = other;
	}
	for (int pattern = 0; pattern < 3; pattern++) {
		uint64_t misses = ~draw(&state);

		asked_for[pattern] = memory(count, sizeof(struct key));
		for (uint32_t i = 0; i < count; i++) {
			draw_below(&state, 100);
			asked_for[pattern][i] = pattern == 0 ? keys[draw_below(&state, entries)] :
				pattern == 1 ? keys[order[draw_rank(&state)]] : draw_key(&misses);
		}
	}
	while (asked()) {
		static const char *const names[] = { "uniform hit 100 %", "zipf hit 100 %", "uniform hit 0 %" };

		for (int pattern = 0; pattern < 3; pattern++) {
			f.pattern = names[pattern];
			measure(&f, look_up, asked_for[pattern], count);
		}
		change(&f);
		answered();
	}
	rte_eal_cleanup();
	return 0;
}
