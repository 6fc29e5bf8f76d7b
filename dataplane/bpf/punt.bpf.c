// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Sits at the clsact ingress of a punt tap. What a worker writes to the tap enters the stack as if it had arrived on
 * the port itself: iif, rp_filter, PREROUTING and the ICMP errors are those of the port (__bpf_rx_skb, which is
 * dev_forward_skb_nomtu).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* Set before load. */
const volatile __u32 port_ifindex = 0;

SEC("tc")
int punt(struct __sk_buff *skb)
{
	return bpf_redirect(port_ifindex, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
