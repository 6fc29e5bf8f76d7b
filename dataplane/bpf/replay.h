/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Forwards packets of flows that a worker has decided about, by what it decided: it writes an entry into `flows` (replay/flow.rs), and
 * from then on the packets do not come to it. What an entry says holds for packets that differ in nothing that the rules look at; all
 * others, and whatever ends or changes a connection, are still the workers'.
 *
 * A worker writes an entry while the program may read it: `version` is odd meanwhile, and another one afterwards. The order of loads that
 * this needs is x86-64's own (loads are not reordered with other loads); elsewhere nothing is installed.
 */
#define WAYS 4

#define FLOW_TRACKED 1    /* conntrack would see the packet */
#define FLOW_VERIFY 2     /* and would look at its checksum */
#define FLOW_TRANSLATES 4 /* ends are written */
#define FLOW_AMENDS 8     /* the IPv4 header changes in more than its TTL */

#define FLOW_WINDOWS 16   /* conntrack would look at the windows of TCP */
#define FLOW_REPLY 32     /* the packets are answers */
#define FLOW_UNSENT 64    /* for workers alone: the driver of the egress takes no redirected frames */

#define COUNT_PACKETS 40 /* bit of the first packet in `count` */

/* Everything as it lies in the packet, unless it says otherwise. */
struct flow {
	__u32 version;
	__u32 generation; /* of the policy */
	__u32 iif;
	__u32 head;  /* IPv4: TOS; IPv6: the first word of the header */
	__u32 ports; /* source, destination */
	__u8 protocol;
	__u8 family;   /* 4 or 6; 0: the entry is free */
	__u16 longest; /* IP packet in bytes */
	__be32 source[4];
	__be32 destination[4];
	__u64 count; /* packets << COUNT_PACKETS, and bytes of IP packets, since it was read last */
	struct action {
		__u8 macs[12]; /* destination, source */
		__be32 source[4];
		__be32 destination[4];
		__u32 ports;
		__u16 transport; /* what is added to the inverted checksum of TCP or UDP, */
		__u16 header;    /* and to that of the IPv4 header (RFC 1624, equation 3) */
		__u32 last;      /* when the last packet came, in CLOCK_MONOTONIC >> 20 */
		__u32 idle;      /* so much later the entry does not hold any more; with FLOW_WINDOWS: place in `windows` */
		__u16 port;      /* place in `egress` */
		__u8 tos;
		__u8 flags;
	} action;
};

/*
 * Windows of a connection of TCP (conn/tcp): pairs are of the original and the reply direction. Written by the programs and the worker that
 * owns the connection, each while it has the lock; nobody waits for it: a program leaves the packet to the worker.
 */
struct windows {
	__u32 lock;
	__u32 last; /* when the last packet came, in CLOCK_MONOTONIC >> 20 */
	struct side {
		__u32 end;
		__u32 max_end;
		__u32 max_window;
		__u32 max_acknowledgement;
	} sides[2];
	__u32 last_sequence;
	__u32 last_acknowledgement;
	__u32 last_end;
	__u16 last_window;
	__u8 scale[2];
	__u8 flags[2];
	__u8 last_packet; /* with LAST_REPLY */
	__u8 retransmissions;
	__u8 most_retransmissions;
	__u8 unused[3];
	__u32 usual; /* time-outs, in the steps of `last` */
	__u32 unacknowledged;
	__u32 retransmitted;
	__u32 unused2;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct windows);
} windows SEC(".maps");

struct bucket {
	struct flow flows[WAYS];
};

/* Sized before load; written by the workers through a mapping, shared by all ports. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} flows SEC(".maps");

/*
 * Where a packet has been counted in an entry of which the worker had taken all: it looks at no others. A byte for each entry, set here and
 * taken down by the worker before it takes what has been counted.
 */
struct marks {
	__u8 flows[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct marks);
} marks SEC(".maps");

/* Written by the control side before any worker goes by a newer policy. */
struct replaying {
	__u32 generation;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct replaying);
} replaying SEC(".maps");

/* By the number of the port. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} egress SEC(".maps");

/* Number of buckets, a power of two, less one; set before load. */
const volatile __u32 last_bucket = 0;

#define barrier() asm volatile("" ::: "memory")

/* The compiler is not to compute with it in advance: the verifier would not follow. */
#define unknown(value) asm volatile("" : "+r"(value))

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

static __always_inline __u64 mixed(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
	return hash ^ (hash >> 32);
}

/* As in replay/flow.rs. */
static __always_inline __u32 hashed(const struct flow *key)
{
	__u64 hash = mixed(0, ((__u64)key->destination[0] << 32) | key->source[0]);

	if (key->family == 6) {
		hash = mixed(hash, ((__u64)key->source[2] << 32) | key->source[1]);
		hash = mixed(hash, ((__u64)key->destination[2] << 32) | key->destination[1]);
		hash = mixed(hash, ((__u64)key->destination[3] << 32) | key->source[3]);
	}
	/* Not with the addresses at once: they often count up together, and would undo each other. */
	return mixed(hash, ((__u64)key->iif << 32) | key->ports) >> 32;
}

static __always_inline int same_flow(const struct flow *a, const struct flow *b)
{
	if (a->iif != b->iif || a->head != b->head || a->ports != b->ports || a->protocol != b->protocol ||
	    a->family != b->family || a->source[0] != b->source[0] || a->destination[0] != b->destination[0])
		return 0;
	if (b->family == 4)
		return 1;
	return a->source[1] == b->source[1] && a->source[2] == b->source[2] && a->source[3] == b->source[3] &&
	       a->destination[1] == b->destination[1] && a->destination[2] == b->destination[2] &&
	       a->destination[3] == b->destination[3];
}

/* The entry of a flow that holds for this generation; its version and its way are told. */
static __always_inline struct flow *search(struct bucket *bucket, const struct flow *key, __u32 generation, __u32 *version, __u32 *way)
{
	int i;

#pragma unroll
	for (i = 0; i < WAYS; i++) {
		struct flow *flow = &bucket->flows[i];

		*version = *(volatile __u32 *)&flow->version;
		barrier();
		if (flow->generation == generation && same_flow(flow, key)) {
			*way = i;
			return flow;
		}
	}
	return NULL;
}

/* A function of its own, since it is seldom wanted. */
__noinline int mark(__u32 flow)
{
	__u32 block = flow / 8;
	struct marks *found = bpf_map_lookup_elem(&marks, &block);

	if (found)
		*(volatile __u8 *)&found->flows[flow % 8] = 1;
	return 0;
}

/*
 * Whether the checksum of TCP or UDP is right, in a packet whose transport header starts `offset` bytes into the frame and which has `length`
 * bytes from there on. `sum` is that of the pseudo-header. A function of its own for the verifier, which else would go through its loops on
 * each way on which they can be reached.
 */
__noinline int is_sound(struct xdp_md *ctx, __u32 offset, __u32 length, __u32 sum)
{
	const void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 total = sum;
	int i;

	if (offset > 128)
		return 0;
	at += offset;
	/* One call for as much as may be said in advance; 512 bytes are the most that older kernels take. */
	for (i = 0; i < 16 && length >= 256; i++) {
		unknown(at);
		if (at + 256 > end)
			return 0;
		total += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)at, 256, 0);
		at += 256;
		length -= 256;
	}
	for (i = 0; i < 16 && length >= 16; i++) {
		const __u32 *word = at;

		unknown(word);
		if ((void *)(word + 4) > end)
			return 0;
		total += (__u64)word[0] + word[1] + word[2] + word[3];
		at = word + 4;
		length -= 16;
	}
	for (i = 0; i < 4 && length >= 4; i++) {
		unknown(at);
		if (at + 4 > end)
			return 0;
		total += *(__u32 *)at;
		at += 4;
		length -= 4;
	}
	if (length >= 2) {
		if (at + 2 > end)
			return 0;
		total += *(__u16 *)at;
		at += 2;
		length -= 2;
	}
	if (length == 1) {
		if (at + 1 > end)
			return 0;
		/* The first of two bytes in memory is the lower one of a little-endian word. */
		total += *(__u8 *)at;
		length = 0;
	}
	return length == 0 && folded(total) == 0xffff;
}

static __always_inline __u16 amended(__u16 checksum, __u16 delta)
{
	return ~folded((__u64)(__u16)~checksum + delta);
}

/* As conn/tcp/mod.rs has them. */
#define DATA_UNACKNOWLEDGED 0x10
#define MAXACK_SET 0x20
#define LAST_ACK 3
#define LAST_REPLY 0x80
#define MAX_ACK_WINDOW 66000

static __always_inline int before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

static __always_inline int after(__u32 a, __u32 b)
{
	return before(b, a);
}

/* When the connection ends without another packet, from the last one on. */
static __always_inline __u32 lifetime(const struct windows *windows)
{
	if (windows->retransmissions >= windows->most_retransmissions && windows->usual > windows->retransmitted)
		return windows->retransmitted;
	if ((windows->flags[0] | windows->flags[1]) & DATA_UNACKNOWLEDGED && windows->usual > windows->unacknowledged)
		return windows->unacknowledged;
	if (windows->last_window == 0 && windows->usual > windows->retransmitted)
		return windows->retransmitted;
	return windows->usual;
}

/*
 * tcp_in_window for a segment with ACK and without SACK of an established connection, both sides of which have been seen: whether it lies
 * within the windows, which then follow it. All others are the worker's, who knows what they are.
 */
static __always_inline int follows(struct windows *windows, __u32 from, __u32 sequence, __u32 end, __u32 ack, __u16 raw, __u32 clock)
{
	struct side *sender = &windows->sides[from & 1], *receiver = &windows->sides[~from & 1];
	__u32 window = (__u32)raw << (windows->scale[from & 1] & 15), ack_window, age = clock - windows->last;
	__u8 *flags = &windows->flags[from & 1], *others = &windows->flags[~from & 1];

	if (age > lifetime(windows) && (__s32)age > 0)
		return 0;
	if (!sender->max_window || !receiver->max_window)
		return 0;
	ack_window = sender->max_window > MAX_ACK_WINDOW ? sender->max_window : MAX_ACK_WINDOW;
	if (!before(sequence, sender->max_end + 1) || !after(end, sender->end - receiver->max_window - 1) ||
	    !before(ack, receiver->end + 1) || !after(ack, receiver->end - ack_window - 1))
		return 0;
	if (sender->max_window < window)
		sender->max_window = window;
	if (after(end, sender->end)) {
		sender->end = end;
		*flags |= DATA_UNACKNOWLEDGED;
	}
	if (!(*flags & MAXACK_SET) || after(ack, sender->max_acknowledgement)) {
		sender->max_acknowledgement = ack;
		*flags |= MAXACK_SET;
	}
	if (after(end, sender->max_end))
		receiver->max_window += end - sender->max_end;
	if (after(ack + window, receiver->max_end - 1))
		receiver->max_end = ack + window + (window == 0);
	if (ack == receiver->end)
		*others &= ~DATA_UNACKNOWLEDGED;
	if (!(windows->last_packet & LAST_REPLY) == !(from & 1) && windows->last_sequence == sequence &&
	    windows->last_acknowledgement == ack && windows->last_end == end && windows->last_window == raw) {
		windows->retransmissions += 1;
	} else {
		windows->last_sequence = sequence;
		windows->last_acknowledgement = ack;
		windows->last_end = end;
		windows->last_window = raw;
		windows->retransmissions = 0;
	}
	windows->last_packet = LAST_ACK | (from & 1 ? LAST_REPLY : 0);
	windows->last = clock;
	return 1;
}

/* The transport header's parts that are looked at or written; all but the ports may be absent with UDP. */
struct udp_or_tcp {
	__u32 ports;
	union {
		struct {
			__be16 length; /* UDP */
			__be16 check;  /* UDP */
		};
		__be32 sequence; /* TCP */
	};
	__be32 acknowledgement;
	__u8 offset; /* TCP */
	__u8 flags;  /* TCP */
	__be16 window;
	__be16 tcp_check;
	__be16 urgent;
};

/* Neither FIN nor SYN nor RST, but ACK, which all have that belong to what is established. */
#define TCP_FLAGS_ASKED 0x17
#define TCP_FLAGS_WANTED 0x10
/* NOP, NOP, time stamps: the only options that nobody looks at. */
#define TCP_TIMESTAMPS 0x0101080a

/* Whether the frame goes on from here, and then what the program returns. If not, it is as it came. */
static __always_inline int replay(struct xdp_md *ctx, const struct port *own, int six, int *verdict)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);
	struct udp_or_tcp *transport = six ? (void *)(ip6 + 1) : (void *)(ip + 1);
	const struct replaying *now;
	struct action action;
	struct flow key = {};
	struct bucket *bucket;
	struct flow *found = NULL;
	__u32 zero = 0, total, length, version = 0, way = 0, clock, index, age, i;
	__u64 sum;
	__u16 check;

	if (six) {
		if ((void *)(ip6 + 1) + 8 > end)
			return 0;
		key.head = *(__u32 *)ip6;
		if ((bpf_ntohl(key.head) >> 28) != 6)
			return 0;
		key.protocol = ip6->nexthdr;
		key.family = 6;
		__builtin_memcpy(key.source, &ip6->saddr, 16);
		__builtin_memcpy(key.destination, &ip6->daddr, 16);
		length = bpf_ntohs(ip6->payload_len);
		total = length + sizeof(*ip6);
		if (ip6->hop_limit <= 1)
			return 0;
	} else {
		const __u32 *word = (__u32 *)ip;

		if ((void *)(ip + 1) + 8 > end)
			return 0;
		if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_FRAGMENT) || ip->ttl <= 1)
			return 0;
		sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
		total = bpf_ntohs(ip->tot_len);
		if (folded(sum) != 0xffff || total < sizeof(*ip))
			return 0;
		key.head = ip->tos;
		key.protocol = ip->protocol;
		key.family = 4;
		key.source[0] = ip->saddr;
		key.destination[0] = ip->daddr;
		length = total - sizeof(*ip);
	}
	if (total > end - (void *)ip || end - data > own->longest || length > 0xffff)
		return 0;
	key.iif = ctx->ingress_ifindex;
	key.ports = transport->ports;
	switch (key.protocol) {
	case IPPROTO_UDP:
		if (length < 8)
			return 0;
		check = transport->check;
		break;
	case IPPROTO_TCP:
		if (length < 20 || (void *)(transport + 1) > end)
			return 0;
		if ((transport->flags & TCP_FLAGS_ASKED) != TCP_FLAGS_WANTED)
			return 0;
		if (transport->offset >> 4 != 5) {
			const __be32 *options = (void *)(transport + 1);

			if (transport->offset >> 4 != 8 || length < 32 || (void *)(options + 3) > end ||
			    options[0] != bpf_htonl(TCP_TIMESTAMPS))
				return 0;
		}
		check = transport->tcp_check;
		break;
	default:
		return 0;
	}

	index = hashed(&key) & last_bucket;
	bucket = bpf_map_lookup_elem(&flows, &index);
	now = bpf_map_lookup_elem(&replaying, &zero);
	if (!bucket || !now)
		return 0;
	found = search(bucket, &key, now->generation, &version, &way);
	if (!found) {
		/* What its bucket had no room for stands in the one beside it. */
		index ^= 1;
		bucket = bpf_map_lookup_elem(&flows, &index);
		found = bucket ? search(bucket, &key, now->generation, &version, &way) : NULL;
	}
	if (!found || version & 1)
		return 0;
	if (total > found->longest)
		return 0;
	action = found->action;
	barrier();
	if (*(volatile __u32 *)&found->version != version || action.flags & FLOW_UNSENT)
		return 0;
	clock = bpf_ktime_get_coarse_ns() >> 20;
	age = clock - action.last;
	/* A clock that a worker has read may be ahead of the coarse one. */
	if (!(action.flags & FLOW_WINDOWS) && age > action.idle && (__s32)age > 0)
		return 0;

	if (key.protocol != IPPROTO_UDP || check) {
		__u64 pseudo = bpf_htons(key.protocol) + (__u64)bpf_htons(length);

#pragma unroll
		for (i = 0; i < 4; i++)
			pseudo += (__u64)key.source[i] + key.destination[i];
		/* The sender has left it to its hardware: a worker completes it. */
		if (check == folded(pseudo))
			return 0;
		if (action.flags & FLOW_VERIFY) {
			if (!is_sound(ctx, (void *)transport - data, length, folded(pseudo)))
				return 0;
		}
	}
	if (action.flags & FLOW_TRACKED && key.protocol == IPPROTO_UDP) {
		__u16 said = bpf_ntohs(transport->length);

		if (said < 8 || said > length)
			return 0;
	}

	if (action.flags & FLOW_WINDOWS) {
		struct windows *own_windows = bpf_map_lookup_elem(&windows, &action.idle);
		__u32 sequence, end_of, is_in;

		if (!own_windows || key.protocol != IPPROTO_TCP || (void *)(transport + 1) > end)
			return 0;
		if (__sync_val_compare_and_swap(&own_windows->lock, 0, 1) != 0)
			return 0;
		sequence = bpf_ntohl(transport->sequence);
		end_of = sequence + length - (transport->offset >> 4) * 4;
		is_in = follows(own_windows, !!(action.flags & FLOW_REPLY), sequence, end_of,
				bpf_ntohl(transport->acknowledgement), bpf_ntohs(transport->window), clock);
		barrier();
		*(volatile __u32 *)&own_windows->lock = 0;
		if (!is_in)
			return 0;
	}

	/* Whoever finds nothing counted marks the entry: seldom, so packets do not wait for one more place in memory. */
	if (!__sync_fetch_and_add(&found->count, (1ull << COUNT_PACKETS) + total))
		mark(index * WAYS + way);
	if (action.last != clock)
		*(volatile __u32 *)&found->action.last = clock;

	__builtin_memcpy(ethernet, action.macs, sizeof(action.macs));
	if (six) {
		__u32 head = bpf_ntohl(key.head);

		*(__u32 *)ip6 = bpf_htonl((head & 0xf00fffff) | ((__u32)action.tos << 20));
		ip6->hop_limit -= 1;
		if (action.flags & FLOW_TRANSLATES) {
			__builtin_memcpy(&ip6->saddr, action.source, 16);
			__builtin_memcpy(&ip6->daddr, action.destination, 16);
		}
	} else {
		__u32 decremented;

		if (action.flags & FLOW_AMENDS) {
			ip->tos = action.tos;
			ip->saddr = action.source[0];
			ip->daddr = action.destination[0];
			ip->check = amended(ip->check, action.header);
		}
		/* ip_decrease_ttl */
		decremented = (__u32)ip->check + bpf_htons(0x0100);
		ip->check = decremented + (decremented >= 0xffff);
		ip->ttl -= 1;
	}
	if (action.flags & FLOW_TRANSLATES) {
		transport->ports = action.ports;
		if (key.protocol == IPPROTO_TCP) {
			if ((void *)(transport + 1) > end)
				return 0; /* looked at above */
			transport->tcp_check = amended(check, action.transport);
		} else if (check) {
			check = amended(check, action.transport);
			transport->check = check ? check : 0xffff;
		}
	}
	/* Padding does not leave; a shorter frame is never refused. */
	if (end - (void *)ip > total)
		bpf_xdp_adjust_tail(ctx, (int)total - (int)(end - (void *)ip));
	/* The driver of the port takes it: else its flows are not installed. */
	*verdict = bpf_redirect_map(&egress, action.port, XDP_DROP);
	return 1;
}
