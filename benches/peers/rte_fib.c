/* DPDK's rte_fib (DIR-24-8) on the table and the addresses that `FIB_TABLE=file cargo bench --bench fib` leaves:
 *   rte_fib FILE -- prints the median ns of a look-up in bulks of 64 over seven passes, and the cost of an insertion.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_fib.h>

enum { BULK = 64, PASSES = 7, NONE = 0 };

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void fail(const char *what)
{
	fprintf(stderr, "rte_fib: %s\n", what);
	exit(2);
}

int main(int argc, char **argv)
{
	char *eal[] = {argv[0], "--no-huge", "-m", "1024", "--no-pci", "--log-level=3", "--no-shconf", "-l", "1", NULL};
	unsigned prefixes, addresses;
	FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
	if (!file || fscanf(file, "%u %u", &prefixes, &addresses) != 2)
		fail("a file of prefixes and addresses is needed");
	if (rte_eal_init(9, eal) < 0)
		fail("the EAL does not start");
	struct rte_fib_conf conf = {.type = RTE_FIB_DIR24_8, .default_nh = NONE, .max_routes = prefixes + 1,
		.dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = 1 << 15}};
	struct rte_fib *fib = rte_fib_create("bench", 0, &conf);
	if (!fib)
		fail("no memory for the table");
	double before = now();
	for (unsigned i = 0; i < prefixes; i++) {
		unsigned network, length, value;
		if (fscanf(file, "%u %u %u", &network, &length, &value) != 3 || rte_fib_add(fib, network, length, value))
			fail("a prefix is not taken");
	}
	printf("insertion, with reading: %.0f ns\n", (now() - before) / prefixes);
	uint32_t *asked = calloc(addresses, sizeof *asked), *wanted = calloc(addresses, sizeof *wanted);
	for (unsigned i = 0; i < addresses; i++)
		if (fscanf(file, "%" SCNu32 " %" SCNu32, &asked[i], &wanted[i]) != 2)
			fail("an address is missing");
	double took[PASSES];
	uint64_t found[BULK], wrong = 0;
	volatile uint64_t sum = 0;
	for (int pass = 0; pass < PASSES; pass++) {
		before = now();
		for (unsigned i = 0; i + BULK <= addresses; i += BULK) {
			rte_fib_lookup_bulk(fib, asked + i, found, BULK);
			for (int k = 0; k < BULK; k++)
				sum += found[k];
		}
		took[pass] = (now() - before) / addresses;
	}
	for (unsigned i = 0; i < addresses; i++) {
		uint64_t one;
		rte_fib_lookup_bulk(fib, asked + i, &one, 1);
		wrong += one != wanted[i];
	}
	qsort(took, PASSES, sizeof *took, by_value);
	printf("look-up in bulks of %d: %.1f ns (%.1f to %.1f)\nanswers that differ: %" PRIu64 " of %u\n", BULK,
		took[PASSES / 2], took[0], took[PASSES - 1], wrong, addresses);
	return wrong ? 1 : 0;
}
