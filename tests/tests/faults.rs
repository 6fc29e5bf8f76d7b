//! When the mirror cannot be kept: the last good policy stays, the fault is shown, and in the end the kernel takes over. The network
//! is that of [`TwoWays`].

use std::time::{Duration, Instant};

use shunt_tests::lab::{TwoWays, eventually, shunt_binary};

#[test]
fn privileged_a_failing_tool_is_shown_and_in_the_end_the_kernel_takes_over() {
    let net = TwoWays::new();
    // An nft that fails on demand, found before the real one.
    net.router.run("mkdir -p /run/bin; real=$(command -v nft); printf '#!/bin/sh\\n[ -e /run/broken ] && { echo no memory >&2; exit 1; }\\nexec %s \"$@\"\\n' $real > /run/bin/nft; chmod +x /run/bin/nft");
    let path = format!("PATH=/run/bin:{}", std::env::var("PATH").expect("a PATH"));
    let binary = shunt_binary();
    let socket = "/run/shunt-faults.sock";
    let mut shunt = net
        .router
        .command(&["env", &path, binary.to_str().expect("text"), "run", "--socket", socket])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("setpriv starts");
    let status = || -> serde_json::Value {
        let output = net.router.shunt(&format!("status --json --socket {socket}"));
        serde_json::from_str(&output.stdout).unwrap_or_default()
    };
    assert!(eventually(Duration::from_secs(10), || (status()["ports"].as_array()?.len() == 3).then_some(())).is_some());
    let by_kernel = || {
        let before = net.router.kernel_forwarded();
        assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");
        net.router.kernel_forwarded() > before
    };
    assert!(!by_kernel());

    net.router.run("touch /run/broken; iptables -t mangle -A PREROUTING -p tcp --dport 9999 -j DROP");
    let start = Instant::now();
    let fault = eventually(Duration::from_secs(2), || status()["mirror"]["fault"].as_str().map(str::to_owned));
    let fault = fault.expect("the fault is shown");
    assert!(fault.contains("nft") && fault.contains("no memory"), "{fault}");
    assert!(!by_kernel(), "the last good policy stays in force");
    let handed_over = eventually(Duration::from_secs(8), || by_kernel().then_some(()));
    assert!(handed_over.is_some(), "{:#}", status());
    assert!(start.elapsed() > Duration::from_secs(4), "too early: {:?}", start.elapsed());
    assert_eq!(status()["mirror"]["stale"], true);

    net.router.run("rm /run/broken");
    let back = eventually(Duration::from_secs(3), || (!by_kernel()).then_some(()));
    assert!(back.is_some(), "{:#}", status());
    assert_eq!(status()["mirror"]["fault"], serde_json::Value::Null);
    shunt.kill().expect("it is there");
    shunt.wait().expect("a child of ours");
}

/// A tool that is not there at the start: nothing can be known of the rules, so nothing is taken.
#[test]
fn privileged_without_its_tools_it_does_not_start() {
    let net = TwoWays::new();
    let binary = shunt_binary();
    let output = net.router.try_run(&format!("PATH=/nowhere {} run --socket /run/none.sock", binary.display()));
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["nft", "apt install nftables"] {
        assert!(output.stderr.contains(word), "{word} is not in {output:?}");
    }
    assert!(!net.router.run("ip -d link show").contains("xdp"));
}
