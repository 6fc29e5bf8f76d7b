//! When the mirror cannot be kept: the last good policy stays, the fault is shown, and in the end the kernel takes over. The network
//! is that of [`TwoWays`].

use std::time::{Duration, Instant};

use shunt_tests::lab::{TwoWays, eventually, shunt_binary};

/// An nft that does as `/run/mode` says, and the other tools as they are: there is nothing else in the daemon's PATH.
const TOOLS: &str = r#"
mkdir -p /run/bin
for tool in iptables ip6tables; do
    for kind in nft legacy; do ln -s $(command -v $tool-$kind-save) /run/bin/; done
done
real=$(command -v nft)
cat > /run/bin/nft <<EOF
#!/bin/sh
export PATH=$PATH
case "\$(cat /run/mode 2>/dev/null)" in
    fails) echo no memory >&2; exit 1;;
    hangs) exec sleep 60;;
    half) $real "\$@" | head -c 200; exit 0;;
    endless) exec cat /dev/zero;;
esac
exec $real "\$@"
EOF
chmod +x /run/bin/nft
"#;

/// From the moment in which a command makes the tool useless, until another one makes it work again.
fn story(breaks: &str, mends: &str, words: &[&str]) {
    let net = TwoWays::new();
    net.router.run(TOOLS);
    let binary = shunt_binary();
    let socket = "/run/shunt-faults.sock";
    let mut shunt = net
        .router
        .command(&["env", "PATH=/run/bin", binary.to_str().expect("text"), "run", "--socket", socket])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("setpriv starts");
    let status = || -> serde_json::Value {
        let output = net.router.shunt(&format!("status --json --socket {socket}"));
        serde_json::from_str(&output.stdout).unwrap_or_default()
    };
    assert!(eventually(Duration::from_secs(10), || (status()["ports"].as_array()?.len() == 3).then_some(())).is_some());
    // None without an answer: where the one hands over to the other a packet may be lost.
    let by_kernel = || {
        let before = net.router.kernel_forwarded();
        let answer = net.client.ask_tcp(TwoWays::SERVER, 80).ok()?;
        assert_eq!(answer, "fast");
        Some(net.router.kernel_forwarded() > before)
    };
    assert_eq!(by_kernel(), Some(false));

    net.router.run(&format!("{breaks}; iptables -t mangle -A PREROUTING -p tcp --dport 9999 -j DROP"));
    let start = Instant::now();
    assert_eq!(by_kernel(), Some(false), "the last good policy stays in force");
    let fault = eventually(Duration::from_secs(6), || status()["mirror"]["fault"].as_str().map(str::to_owned));
    let fault = fault.expect("the fault is shown");
    assert!(words.iter().all(|word| fault.contains(word)), "{fault}");
    let metrics = || net.router.shunt(&format!("metrics --socket {socket}")).stdout;
    let says = |line: &str| metrics().lines().any(|own| own == line);
    assert!(says("shunt_mirror_fault 1"), "{}", metrics());
    let handed_over = eventually(Duration::from_secs(8), || by_kernel().filter(|kernel| *kernel));
    assert!(handed_over.is_some(), "{:#}", status());
    let took = start.elapsed();
    assert!(Duration::from_secs(4) < took && took < Duration::from_secs(9), "{took:?}");
    assert_eq!(status()["mirror"]["stale"], true);
    assert!(says("shunt_mirror_stale 1"), "{}", metrics());

    net.router.run(mends);
    // One that hangs is waited for.
    let back = eventually(Duration::from_secs(15), || by_kernel().filter(|kernel| !*kernel));
    assert!(back.is_some(), "{:#}", status());
    assert_eq!(status()["mirror"]["fault"], serde_json::Value::Null);
    shunt.kill().expect("it is there");
    shunt.wait().expect("a child of ours");
}

#[test]
fn privileged_a_failing_tool_is_shown_and_in_the_end_the_kernel_takes_over() {
    story("echo fails > /run/mode", "rm /run/mode", &["nft", "no memory"]);
}

#[test]
fn privileged_a_hanging_tool_is_shown_and_in_the_end_the_kernel_takes_over() {
    story("echo hangs > /run/mode", "rm /run/mode", &["have not answered for 4 s"]);
}

#[test]
fn privileged_half_an_output_is_shown_and_in_the_end_the_kernel_takes_over() {
    story("echo half > /run/mode", "rm /run/mode", &["nft", "not a ruleset"]);
}

#[test]
fn privileged_an_output_without_end_is_shown_and_in_the_end_the_kernel_takes_over() {
    story("echo endless > /run/mode", "rm /run/mode", &["nft", "more than 64 MiB"]);
}

#[test]
fn privileged_a_tool_that_has_gone_is_shown_and_in_the_end_the_kernel_takes_over() {
    story("mv /run/bin/nft /run/nft", "mv /run/nft /run/bin/nft", &["nft", "apt install nftables"]);
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

/// nft 1.0.6 does not print a table as JSON that has flags.
#[test]
fn privileged_a_table_that_is_asleep_is_no_fault_and_stops_nothing() {
    let net = TwoWays::new();
    let chain = "type filter hook forward priority 0; policy drop;";
    net.router.run(&format!("nft -f - <<'EOF'\ntable ip asleep {{\nflags dormant\nchain f {{\n{chain}\n}}\n}}\nEOF"));
    net.router.run(&format!(
        "nft 'table ip awake {{ chain f {{ {chain} tcp dport 80 accept; tcp sport {{ 25, 80 }} accept; }}; }}'"
    ));
    let shunt = net.router.start_shunt("");
    let kernel = net.router.kernel_forwarded();
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");
    net.router.run("nft add rule ip awake f tcp dport 25 accept");
    let heard = eventually(Duration::from_secs(3), || net.client.ask_tcp(TwoWays::SERVER, 25).ok());
    assert_eq!(heard.as_deref(), Some("fast"), "{:#}", shunt.status());
    assert_eq!(net.router.kernel_forwarded(), kernel, "{:#}", shunt.status());
    assert_eq!(shunt.status()["mirror"]["fault"], serde_json::Value::Null);
    assert!(shunt.checked("table ip asleep").is_empty() && !shunt.checked("table ip awake").is_empty());
}
