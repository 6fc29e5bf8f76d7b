// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A closed loop: frames that go round through a router, `generator -- router -- sink`. Every frame that arrives at the sink is made
 * a fresh one (the headers of the next flow, a time stamp) and sent by the generator again. Nothing is lost, nothing overloaded.
 *
 * The payload begins with the time of sending and its complement: together they add nothing to a checksum, so a flow's checksum
 * is the same whenever it is sent.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef NULL
#define NULL ((void *)0)
#endif

/* Ethernet, IPv4 or IPv6, UDP */
#define HEAD4 42
#define HEAD6 62

#define SIZES 3
#define SUBSTEPS 16 /* of each power of two */
#define STEPS (48 * SUBSTEPS)

/* The headers of one flow in one size of frames; a cache line. */
struct flow {
	__u8 head[HEAD6];
	__u8 unused[2];
};

struct stamp {
	__u64 sent; /* ns */
	__u64 complement;
};

/* All flows in the first size, then all in the second, ... Sized and written before the program is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} generator SEC(".maps");

/* What one core has seen. */
struct seen {
	__u64 arrived;
	__u64 bytes;
	__u64 drained; /* arrived while the loop was being stopped */
	__u64 next;    /* flow to be sent */
	__u64 latency[STEPS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

/* Written by the control room while the programs run. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} stopping SEC(".maps");

const volatile struct {
	__u32 flows;        /* in each size */
	__u32 cores;        /* that send, each its own flows */
	__u32 head;         /* length of the headers in bytes */
	__u32 sizes[SIZES]; /* of frames in bytes; unused ones are 0 */
} settings = {};

/* The step of a histogram with SUBSTEPS steps to each power of two; what is below SUBSTEPS ns has a step each. */
static __always_inline __u32 step(__u64 ns)
{
	__u32 power = 0;
	__u64 rest = ns;

	if (rest >> 32) { rest >>= 32; power += 32; }
	if (rest >> 16) { rest >>= 16; power += 16; }
	if (rest >> 8) { rest >>= 8; power += 8; }
	if (rest >> 4) { rest >>= 4; power += 4; }
	if (rest >> 2) { rest >>= 2; power += 2; }
	if (rest >> 1) { power += 1; }
	if (power < 4)
		return ns;
	return (power - 3) * SUBSTEPS + ((ns >> (power - 4)) & (SUBSTEPS - 1));
}

/* Number of the next flow to be sent. With several cores each has every so many-th, so that a flow keeps to its queue. */
static __always_inline __u32 next_flow(struct seen *own)
{
	__u32 core = settings.cores > 1 ? bpf_get_smp_processor_id() % settings.cores : 0;
	__u32 flow = own->next * settings.cores + core;

	if (flow >= settings.flows) {
		own->next = 0;
		flow = core;
	}
	own->next += 1;
	return flow;
}

/* Makes the frame one of the next flow and sends it. */
static __always_inline int send(struct xdp_md *ctx, struct seen *own, __u64 now)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 size = end - data, key = next_flow(own);
	struct stamp *stamp;
	struct flow *flow;

	if (size == settings.sizes[1])
		key += settings.flows;
	else if (size == settings.sizes[2])
		key += 2 * settings.flows;
	else if (size != settings.sizes[0])
		return XDP_DROP;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return XDP_DROP;
	if (settings.head == HEAD6) {
		if (data + HEAD6 + sizeof(*stamp) > end)
			return XDP_DROP;
		__builtin_memcpy(data, flow->head, HEAD6);
		stamp = data + HEAD6;
	} else {
		if (data + HEAD4 + sizeof(*stamp) > end)
			return XDP_DROP;
		__builtin_memcpy(data, flow->head, HEAD4);
		stamp = data + HEAD4;
	}
	stamp->sent = now;
	stamp->complement = ~now;
	return bpf_redirect_map(&generator, 0, XDP_DROP);
}

/* The time stamp of a frame of ours, or NULL. */
static __always_inline struct stamp *stamp_of(void *data, void *end)
{
	struct stamp *stamp = data + (settings.head == HEAD6 ? HEAD6 : HEAD4);

	if ((void *)(stamp + 1) > end || stamp->sent != ~stamp->complement)
		return NULL;
	return stamp;
}

/* At the sink. What is not of the loop (neighbour discovery, say) is the kernel's. */
SEC("xdp")
int arrive(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct stamp *stamp = stamp_of(data, end);
	__u64 now = bpf_ktime_get_ns();
	__u32 zero = 0, *stop, at;
	struct seen *own;

	own = bpf_map_lookup_elem(&seen, &zero);
	stop = bpf_map_lookup_elem(&stopping, &zero);
	if (!stamp || !own || !stop)
		return XDP_PASS;
	if (*stop) {
		own->drained += 1;
		return XDP_DROP;
	}
	own->arrived += 1;
	own->bytes += end - data;
	at = step(now - stamp->sent);
	if (at < STEPS)
		own->latency[at] += 1;
	return send(ctx, own, now);
}

/* The first frames, by BPF_PROG_RUN. */
SEC("xdp")
int inject(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct seen *own = bpf_map_lookup_elem(&seen, &zero);

	return own ? send(ctx, own, bpf_ktime_get_ns()) : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
