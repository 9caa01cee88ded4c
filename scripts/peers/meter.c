/* SPDX-License-Identifier: Apache-2.0 */
/* rte_meter, colour-blind, with and without the meters of a burst prefetched.  meter ... -- METERS SEED */
#include "peer.h"

#include <rte_meter.h>
#include <rte_prefetch.h>

#define PACKETS (1u << 18)
/* Ways through the packets, so that the bursts are used up and packets of each colour come */
#define REPEAT 64u
#define AHEAD 16u
#define TOKENS 64000
/* Half of what 150 million packets of 780 bytes a second are, in bytes, for all meters together */
#define RATE UINT64_C(60000000000)

struct packet {
	uint32_t meter;
	uint16_t bytes;
};

static struct packet *packets;
static struct rte_meter_srtcm *single;
static struct rte_meter_srtcm_profile single_profile;
static struct rte_meter_trtcm *two;
static struct rte_meter_trtcm_profile two_profile;

/* Colours depend on the clock, so there is no sum. */
static volatile uint64_t colors;

#define PASS(name, meters, check, profile, ahead)                                                          \
	static void name(void *context, uint32_t start, uint32_t end, uint64_t *sum)                           \
	{                                                                                                      \
		uint64_t seen = 0;                                                                                 \
                                                                                                           \
		(void)context, (void)sum;                                                                          \
		for (uint32_t i = start; i < end; i += BURST) {                                                    \
			const struct packet *burst = &packets[i % PACKETS];                                            \
			uint64_t now = rte_rdtsc();                                                                    \
                                                                                                           \
			for (uint32_t j = 0; ahead && j < AHEAD; j++)                                                  \
				rte_prefetch0(&meters[burst[j].meter]);                                                    \
			for (uint32_t j = 0; j < BURST; j++) {                                                         \
				if (ahead && j + AHEAD < BURST)                                                            \
					rte_prefetch0(&meters[burst[j + AHEAD].meter]);                                        \
				seen += check(&meters[burst[j].meter], &profile, now, burst[j].bytes);                     \
			}                                                                                              \
		}                                                                                                  \
		colors += seen;                                                                                    \
	}

PASS(single_plain, single, rte_meter_srtcm_color_blind_check, single_profile, 0)
PASS(single_ahead, single, rte_meter_srtcm_color_blind_check, single_profile, 1)
PASS(two_plain, two, rte_meter_trtcm_color_blind_check, two_profile, 0)
PASS(two_ahead, two, rte_meter_trtcm_color_blind_check, two_profile, 1)

int main(int argc, char **argv)
{
	char **own = arguments(argc, argv, 2, "METERS SEED");
	uint32_t meters = (uint32_t)strtoul(own[0], NULL, 0);
	uint64_t state = strtoull(own[1], NULL, 0);
	struct rte_meter_srtcm_params one = { .cir = RATE / meters, .cbs = TOKENS, .ebs = TOKENS };
	struct rte_meter_trtcm_params both = {
		.cir = RATE / meters, .pir = RATE / meters * 3 / 2, .cbs = TOKENS, .pbs = TOKENS,
	};
	static const struct {
		const char *peer, *pattern;
		pass_fn *pass;
		size_t bytes;
	} kinds[] = {
		{ "rte_meter", "srTCM (RFC 2697)", single_plain, sizeof(*single) },
		{ "rte_meter prefetched", "srTCM (RFC 2697)", single_ahead, sizeof(*single) },
		{ "rte_meter", "trTCM (RFC 2698)", two_plain, sizeof(*two) },
		{ "rte_meter prefetched", "trTCM (RFC 2698)", two_ahead, sizeof(*two) },
	};

	packets = memory(PACKETS, sizeof(*packets));
	for (uint32_t i = 0; i < PACKETS; i++) {
		packets[i].meter = (uint32_t)draw_below(&state, meters);
		packets[i].bytes = (uint16_t)(64 + draw_below(&state, 1437));
	}
	single = rte_zmalloc(NULL, meters * sizeof(*single), 64);
	two = rte_zmalloc(NULL, meters * sizeof(*two), 64);
	if (single == NULL || two == NULL || rte_meter_srtcm_profile_config(&single_profile, &one) != 0 ||
	    rte_meter_trtcm_profile_config(&two_profile, &both) != 0)
		FAIL("no %u meters", meters);
	for (uint32_t i = 0; i < meters; i++) {
		rte_meter_srtcm_config(&single[i], &single_profile);
		rte_meter_trtcm_config(&two[i], &two_profile);
	}
	while (asked()) {
		for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
			struct figures f = { "meter", kinds[i].peer, kinds[i].pattern, meters, kinds[i].bytes * meters, 0 };

			measure(&f, kinds[i].pass, NULL, REPEAT * PACKETS);
		}
		answered();
	}
	rte_eal_cleanup();
	return 0;
}
