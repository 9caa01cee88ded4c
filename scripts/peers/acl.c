/* SPDX-License-Identifier: Apache-2.0 */
/* rte_acl with the widest vectors that the CPU has.  acl ... -- RULES TRACE */
#include "peer.h"

#include <rte_acl.h>
#include <rte_byteorder.h>

/* As in a packet: rte_acl reads network order. */
struct tuple {
	uint8_t protocol, zero[3];
	rte_be32_t src, dst;
	rte_be16_t src_port, dst_port;
};

enum { PROTOCOL, SRC, DST, SRC_PORT, DST_PORT, FIELDS };

#define FIELD(n, kind, bytes, input, member)                                                               \
	[n] = { .type = RTE_ACL_FIELD_TYPE_##kind, .size = bytes, .field_index = n, .input_index = input,      \
		.offset = offsetof(struct tuple, member) }

static const struct rte_acl_config config = {
	.num_categories = 1,
	.num_fields = FIELDS,
	.defs = {
		FIELD(PROTOCOL, BITMASK, 1, 0, protocol),
		FIELD(SRC, MASK, 4, 1, src),
		FIELD(DST, MASK, 4, 2, dst),
		FIELD(SRC_PORT, RANGE, 2, 3, src_port),
		FIELD(DST_PORT, RANGE, 2, 3, dst_port),
	},
};

RTE_ACL_RULE_DEF(rule, FIELDS);

static struct rte_acl_ctx *table;

static uint32_t add_rules(const char *path)
{
	FILE *file = open_file(path);
	unsigned int s[5], d[5], ports[4], protocol, mask, count = 0;

	while (fscanf(file, "%u.%u.%u.%u/%u %u.%u.%u.%u/%u %u:%u %u:%u %x/%x %*s", &s[0], &s[1], &s[2], &s[3], &s[4],
		      &d[0], &d[1], &d[2], &d[3], &d[4], &ports[0], &ports[1], &ports[2], &ports[3], &protocol,
		      &mask) == 16) {
		struct rule rule = { 0 };

		count++;
		rule.data.category_mask = 1;
		rule.data.userdata = count;
		rule.data.priority = RTE_ACL_MAX_PRIORITY - (int32_t)count;
		rule.field[PROTOCOL].value.u8 = (uint8_t)protocol;
		rule.field[PROTOCOL].mask_range.u8 = (uint8_t)mask;
		rule.field[SRC].value.u32 = s[0] << 24 | s[1] << 16 | s[2] << 8 | s[3];
		rule.field[SRC].mask_range.u32 = s[4];
		rule.field[DST].value.u32 = d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
		rule.field[DST].mask_range.u32 = d[4];
		rule.field[SRC_PORT].value.u16 = (uint16_t)ports[0];
		rule.field[SRC_PORT].mask_range.u16 = (uint16_t)ports[1];
		rule.field[DST_PORT].value.u16 = (uint16_t)ports[2];
		rule.field[DST_PORT].mask_range.u16 = (uint16_t)ports[3];
		if (rte_acl_add_rules(table, (struct rte_acl_rule *)&rule, 1) != 0)
			FAIL("rule %u is refused", count);
	}
	fclose(file);
	return count;
}

static void classify(void *context, uint32_t start, uint32_t end, uint64_t *sum)
{
	const struct tuple *tuples = context;
	const uint8_t *burst[BURST];
	uint32_t results[BURST];

	for (uint32_t i = start; i < end; i += BURST) {
		uint32_t n = end - i < BURST ? end - i : BURST;

		for (uint32_t j = 0; j < n; j++)
			burst[j] = (const uint8_t *)&tuples[i + j];
		rte_acl_classify(table, burst, results, n, 1);
		for (uint32_t j = 0; sum != NULL && j < n; j++)
			*sum += results[j];
	}
}

int main(int argc, char **argv)
{
	char **own = arguments(argc, argv, 2, "RULES TRACE");
	struct rte_acl_param parameters = {
		.name = "acl", .rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = 1 << 17,
	};
	struct figures f = { .table = "acl", .peer = "rte_acl", .pattern = "trace" };
	uint32_t count;
	struct header *headers = read_trace(own[1], &count);
	struct tuple *tuples = memory(count, sizeof(*tuples));

	for (uint32_t i = 0; i < count; i++)
		tuples[i] = (struct tuple){
			.protocol = headers[i].protocol,
			.src = rte_cpu_to_be_32(headers[i].src),
			.dst = rte_cpu_to_be_32(headers[i].dst),
			.src_port = rte_cpu_to_be_16(headers[i].src_port),
			.dst_port = rte_cpu_to_be_16(headers[i].dst_port),
		};
	table = rte_acl_create(&parameters);
	if (table == NULL)
		FAIL("no table");
	f.entries = add_rules(own[0]);

	uint64_t before = heap();
	double start = milliseconds();

	if (rte_acl_build(table, &config) != 0)
		FAIL("rte_acl cannot build this");
	f.build_ms = milliseconds() - start;
	f.bytes = heap() - before;
	while (asked()) {
		measure(&f, classify, tuples, count);
		answered();
	}
	rte_eal_cleanup();
	return 0;
}
