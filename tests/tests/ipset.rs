//! Sets that rules of iptables ask. The network is that of [`TwoWays`].

use std::time::{Duration, Instant};

use shunt_tests::lab::{Daemon, TwoWays, eventually};

const RULE: &str = "iptables-nft -t mangle -A PREROUTING -m set --match-set blocked dst,dst -j DROP";

fn answers(net: &TwoWays) -> bool {
    net.client.ask_udp(TwoWays::SERVER, 5000, Duration::from_millis(300)).is_ok()
}

fn by_workers(net: &TwoWays, shunt: &Daemon) -> bool {
    let before = shunt.forwarded();
    assert!(answers(net));
    shunt.forwarded() > before
}

/// A set gives no event: it is looked at again and again as long as a rule names it.
#[test]
fn privileged_a_set_is_followed_within_two_seconds() {
    let net = TwoWays::new();
    net.router.run(&format!("ipset create blocked hash:ip,port; {RULE}"));
    let shunt = net.router.start_shunt("");
    assert!(by_workers(&net, &shunt), "{:#}", shunt.status());
    for _ in 0..3 {
        net.router.run("ipset add blocked 198.18.0.25,udp:5000");
        let start = Instant::now();
        let stopped = eventually(Duration::from_secs(4), || (!answers(&net)).then_some(()));
        assert!(stopped.is_some() && start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        net.router.run("ipset flush blocked");
        let start = Instant::now();
        let back = eventually(Duration::from_secs(4), || answers(&net).then_some(()));
        assert!(back.is_some() && start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

/// The seconds that an element has left are no change.
#[test]
fn privileged_time_that_passes_is_no_change() {
    let net = TwoWays::new();
    net.router
        .run(&format!("ipset create blocked hash:ip,port timeout 600; ipset add blocked 198.18.0.99,udp:9; {RULE}"));
    let shunt = net.router.start_shunt("");
    std::thread::sleep(Duration::from_secs(1));
    let before = shunt.generation();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(shunt.generation(), before);
    assert!(by_workers(&net, &shunt));
}

/// The kernel fills the set with packets that it forwards: what asks it is the kernel's.
#[test]
fn privileged_a_set_that_rules_fill_is_left_to_the_kernel() {
    let net = TwoWays::new();
    net.router.run(&format!(
        "ipset create blocked hash:ip,port; {RULE}; iptables-legacy -A OUTPUT -p udp --dport 1 -j SET --add-set blocked dst,dst"
    ));
    let shunt = net.router.start_shunt("");
    assert!(!by_workers(&net, &shunt));
    let check = shunt.checked("--match-set blocked");
    assert!(check.iter().any(|item| item.to_string().contains("-j SET changes it")), "{check:?}");
}

#[test]
fn privileged_a_missing_tool_is_named() {
    let net = TwoWays::new();
    net.router.run(&format!("ipset create blocked hash:ip,port; {RULE}"));
    // All tools but ipset.
    net.router.run("mkdir -p /run/tools; for t in nft iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do ln -sf $(command -v $t) /run/tools/$t; done");
    let binary = shunt_tests::lab::shunt_binary();
    let output = net.router.try_run(&format!("PATH=/run/tools {} run --socket /run/none.sock", binary.display()));
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["cannot run ipset", "apt install ipset"] {
        assert!(output.stderr.contains(word), "{word} is not in {output:?}");
    }
}
