// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Brings to the workers what they can own and leaves everything else to the kernel, counted by reason.
 *
 * Deliberately not an xdp.frags program: a driver then hands over linear frames only, and veth switches off its peer's
 * segmentation offload (veth_xdp_set clears NETIF_F_GSO_SOFTWARE of the peer).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "reasons.h"

#define IP_FRAGMENT 0x3fff /* IP_MF | IP_OFFSET */

#ifndef IPPROTO_SHIM6
#define IPPROTO_SHIM6 140
#endif
#ifndef IPPROTO_HIP
#define IPPROTO_HIP 139
#endif

/* What the control room may change while the program runs. Written by one thread of ours, read here. */
struct port {
	__u8 mac[ETH_ALEN];
	/*
	 * Stands in for mac in frames that a worker punted, if the program runs in generic mode: those come by here a second
	 * time (netif_receive_generic_xdp skips skb_is_redirected frames, but bpf_redirect does not mark them so). A random
	 * address that only this process knows.
	 */
	__u8 punted[ETH_ALEN];
	__u8 generic;
	__u8 serving;
	/* Connections are translated: an ICMP error to an address of the machine may be about one of them. */
	__u8 translates;
	/* Connections are tracked: also a packet whose TTL is used up is one of them. */
	__u8 tracks;
	/* Longest frame in bytes that a worker takes, Ethernet header included. */
	__u32 longest;
	/* Flows that a worker has decided about go on from here. */
	__u8 replays;
	__u8 unused[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port);
} port SEC(".maps");

/* The machine's own addresses; IPv4 as ::ffff:a.b.c.d. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct in6_addr);
	__type(value, __u8);
} local SEC(".maps");

/*
 * What of the packets to the machine's own addresses is for the workers all the same: answers to connections that they translate, and
 * what destination nat rules may take. By protocol and port (see served.rs); 0 is none. Shared by all ports; written by the workers and
 * by the control room through a mapping.
 */
#define SERVED_PORTS 65536
#define SERVED_TCP (0 * SERVED_PORTS)
#define SERVED_UDP (1 * SERVED_PORTS)
#define SERVED_ICMP (2 * SERVED_PORTS)
#define SERVED_ICMPV6 (3 * SERVED_PORTS)
#define SERVED_PROTOCOL (4 * SERVED_PORTS)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SERVED_PROTOCOL + 256);
	__type(key, __u32);
	__type(value, __u64);
} served SEC(".maps");

/* Frames left to the kernel, by enum pass_reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PASS_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} passed SEC(".maps");

/* One socket per receive queue; sized before load. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/*
 * Holds the program below while our process lives. The kernel empties an array of programs when its last descriptor is closed
 * (bpf_map_put_uref), at once and for all ports, whereas detaching programs and closing sockets takes it some 10 ms for each.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} alive SEC(".maps");

#include "replay.h"

static __always_inline int pass(enum pass_reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&passed, &key);

	if (count)
		*count += 1;
	return XDP_PASS;
}

static __always_inline int same_mac(const __u8 *one, const __u8 *other)
{
	const __u16 *a = (const __u16 *)one, *b = (const __u16 *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/* Whether the kernel has a say in a packet to this address that we do not: multicast, broadcast, loopback, reserved. */
static __always_inline int special4(__be32 address)
{
	__u32 host = bpf_ntohl(address);
	__u8 first = host >> 24;

	return first == 0 || first == 127 || first >= 224;
}

static __always_inline int special6(const struct in6_addr *address)
{
	const __be32 *word = address->in6_u.u6_addr32;

	if (address->in6_u.u6_addr8[0] == 0xff)
		return 1;
	/* fe80::/10 */
	if ((word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return 1;
	/* ::/96 with the unspecified and the loopback address, ::ffff:0:0/96 */
	return word[0] == 0 && word[1] == 0 && (word[2] == 0 || word[2] == bpf_htonl(0xffff));
}

/* The headers that the kernel or a hook of its may treat in ways of their own (RFC 8200 section 4, RFC 7045). */
static __always_inline int extension(__u8 next_header)
{
	switch (next_header) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_AH:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
		return 1;
	default:
		return 0;
	}
}

/* Whether the workers serve this packet, although it is addressed to the machine. data is what stands behind the IP header. */
static __always_inline int is_served(const struct port *own, __u8 protocol, const void *data, const void *end)
{
	const __be16 *word = data;
	__u64 *count;
	__u32 key;
	__u8 type;

	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		if ((void *)(word + 2) > end)
			return 0;
		key = (protocol == IPPROTO_TCP ? SERVED_TCP : SERVED_UDP) + bpf_ntohs(word[1]);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((void *)(word + 4) > end)
			return 0;
		type = *(__u8 *)data;
		if (protocol == IPPROTO_ICMP ? type == 3 || type == 4 || type == 5 || type == 11 || type == 12 : type < 128)
			return own->translates;
		key = (protocol == IPPROTO_ICMP ? SERVED_ICMP : SERVED_ICMPV6) + bpf_ntohs(word[2]);
		break;
	default:
		key = SERVED_PROTOCOL + protocol;
	}
	count = bpf_map_lookup_elem(&served, &key);
	return count && *count;
}

static __always_inline int ipv4(const struct port *own, void *data, void *end)
{
	const struct iphdr *ip = data;
	struct in6_addr key = {};
	__u16 total;

	if (data + sizeof(*ip) > end)
		return PASS_MALFORMED;
	if (ip->version != 4 || ip->ihl < 5)
		return PASS_MALFORMED;
	if (ip->ihl != 5)
		return PASS_OPTIONS;
	total = bpf_ntohs(ip->tot_len);
	if (total < sizeof(*ip) || total > end - data)
		return PASS_MALFORMED;
	if (ip->frag_off & bpf_htons(IP_FRAGMENT))
		return PASS_FRAGMENT;
	if (special4(ip->daddr))
		return PASS_NOT_UNICAST;
	key.in6_u.u6_addr32[2] = bpf_htonl(0xffff);
	key.in6_u.u6_addr32[3] = ip->daddr;
	if (bpf_map_lookup_elem(&local, &key) && !is_served(own, ip->protocol, ip + 1, end))
		return PASS_LOCAL;
	if (ip->ttl <= 1 && !own->tracks)
		return PASS_TTL_EXPIRED;
	return PASS_REASONS;
}

static __always_inline int ipv6(const struct port *own, void *data, void *end)
{
	const struct ipv6hdr *ip = data;
	struct in6_addr key;
	__u16 payload;

	if (data + sizeof(*ip) > end)
		return PASS_MALFORMED;
	if (ip->version != 6)
		return PASS_MALFORMED;
	payload = bpf_ntohs(ip->payload_len);
	if (payload + sizeof(*ip) > end - data)
		return PASS_MALFORMED;
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return PASS_FRAGMENT;
	if (extension(ip->nexthdr))
		return PASS_OPTIONS;
	key = ip->daddr;
	if (special6(&key))
		return PASS_NOT_UNICAST;
	if (bpf_map_lookup_elem(&local, &key) && !is_served(own, ip->nexthdr, ip + 1, end))
		return PASS_LOCAL;
	if (ip->hop_limit <= 1 && !own->tracks)
		return PASS_TTL_EXPIRED;
	return PASS_REASONS;
}

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	const struct port *own;
	__u32 zero = 0;
	int reason;

	if (data + sizeof(*ethernet) > end)
		return pass(PASS_MALFORMED);
	own = bpf_map_lookup_elem(&port, &zero);
	if (!own)
		return XDP_PASS;
	if (own->generic && same_mac(ethernet->h_dest, own->punted)) {
		/* As it came from the wire; the stack then sees PACKET_HOST (bpf_prog_run_generic_xdp). */
		__builtin_memcpy(ethernet->h_dest, own->mac, ETH_ALEN);
		return XDP_PASS;
	}
	if (!own->serving)
		return pass(PASS_STANDBY);

	switch (ethernet->h_proto) {
	case bpf_htons(ETH_P_IP):
	case bpf_htons(ETH_P_IPV6):
		break;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return pass(PASS_VLAN);
	default:
		return pass(PASS_NOT_IP);
	}
	if (ethernet->h_dest[0] & 1)
		return pass(PASS_NOT_UNICAST);
	if (!same_mac(ethernet->h_dest, own->mac))
		return pass(PASS_FOREIGN_MAC);

	if (own->replays) {
		int verdict;

		if (ethernet->h_proto == bpf_htons(ETH_P_IP) ? replay(ctx, own, 0, &verdict) : replay(ctx, own, 1, &verdict))
			return verdict;
	}

	data += sizeof(*ethernet);
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		reason = ipv4(own, data, end);
	else
		reason = ipv6(own, data, end);
	if (reason != PASS_REASONS)
		return pass(reason);
	/* Also what generic mode hands over before it is segmented. */
	if (end - (data - sizeof(*ethernet)) > own->longest)
		return pass(PASS_OVERSIZE);

	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
}

/* What is attached. */
SEC("xdp")
int entry(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &alive, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
