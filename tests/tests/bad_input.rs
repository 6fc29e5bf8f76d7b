//! Mistakes: a clear message, exit code 2, and nothing changed on the machine. The network is that of [`TwoWays`].

use shunt_tests::lab::{Output, TwoWays, shunt_binary};

/// The command fails as it should: code 2, one line that holds all `words`, nothing attached.
fn refused(net: &TwoWays, output: &Output, words: &[&str]) {
    assert_eq!(output.code, 2, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is not in {:?}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    let links = net.router.run("ip -d link show");
    assert!(!links.contains("xdp") && !links.contains("shunt"), "something is left attached:\n{links}");
}

fn run(net: &TwoWays, arguments: &str) -> Output {
    net.router.shunt(&format!("run --socket /run/shunt-bad.sock {arguments}"))
}

#[test]
fn privileged_interfaces_that_cannot_be_taken_are_named() {
    let net = TwoWays::new();
    refused(&net, &run(&net, "--dev eth7"), &["eth7", "no such interface", "eth0"]);
    net.router.run("ip tuntap add dev tun0 mode tun; ip link set tun0 up");
    refused(&net, &run(&net, "--dev tun0"), &["tun0", "not an Ethernet interface"]);
    refused(&net, &run(&net, "--dev lo"), &["lo", "loopback"]);
    net.router.run("ip link set ppp0 down");
    refused(&net, &run(&net, "--dev ppp0"), &["ppp0", "down", "ip link set up dev ppp0"]);
    net.router.run("ip link add br0 type bridge; ip link set ppp0 up master br0");
    refused(&net, &run(&net, "--dev ppp0"), &["ppp0", "member of br0"]);
}

#[test]
fn privileged_an_interface_of_another_program_is_left_to_it() {
    let net = TwoWays::new();
    // Another shunt is another program.
    let other = net.router.start_shunt("--dev eth0");
    let output = run(&net, "--dev eth0");
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["eth0", "another XDP program", "id "] {
        assert!(output.stderr.contains(word), "{word:?} is not in {:?}", output.stderr);
    }
    // And it goes on.
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");
    assert_eq!(other.status()["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(other.terminate().code, 0);
}

#[test]
fn privileged_a_missing_capability_is_named() {
    let net = TwoWays::new();
    for (without, named) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-net_raw", "CAP_NET_RAW"),
        ("-ipc_lock", "CAP_IPC_LOCK"),
        ("-bpf,-sys_admin", "CAP_BPF"),
    ] {
        let binary = shunt_binary();
        let command = format!(
            "setpriv --bounding-set {without} --inh-caps {without} {} run --socket /run/shunt-bad.sock",
            binary.display()
        );
        refused(&net, &net.router.try_run(&command), &["missing capability", named]);
    }
}

#[test]
fn privileged_the_socket_must_be_writable_and_free() {
    let net = TwoWays::new();
    refused(&net, &net.router.shunt("run --socket /nowhere/shunt.sock"), &["/nowhere/shunt.sock", "--socket"]);
    net.router.run("touch /run/a-file");
    refused(&net, &net.router.shunt("run --socket /run/a-file"), &["/run/a-file", "another kind"]);
    let shunt = net.router.start_shunt("");
    let output = net.router.shunt(&format!("run --socket {}", shunt.socket()));
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("another shunt is running"), "{output:?}");
    // A socket that a dead daemon left is in nobody's way.
    let socket = shunt.socket().to_owned();
    shunt.kill();
    assert!(std::path::Path::new(&socket).exists(), "the story tells nothing");
    let shunt = net.router.start_shunt("");
    assert_eq!(shunt.socket(), socket);
}

#[test]
fn privileged_a_bad_config_file_is_shown_with_line_and_column() {
    let net = TwoWays::new();
    net.router.run("printf 'dev = [\"eth0\"]\\nworkers = many\\n' > /run/bad.toml");
    refused(&net, &run(&net, "--config /run/bad.toml"), &["/run/bad.toml", "line 2, column 11"]);
    net.router.run("printf 'xdp_mode = \"fast\"\\n' > /run/bad.toml");
    refused(&net, &run(&net, "--config /run/bad.toml"), &["xdp_mode", "auto, native or generic"]);
    refused(&net, &run(&net, "--config /run/none.toml"), &["/run/none.toml", "No such file"]);
    // And a good one is obeyed.
    net.router.run("printf 'dev = [\"eth0\", \"eth1\"]\\nworkers = 1\\nxdp_mode = \"generic\"\\n' > /run/good.toml");
    let shunt = net.router.start_shunt("--config /run/good.toml");
    let status = shunt.status();
    assert_eq!(status["ports"].as_array().map(Vec::len), Some(2), "{status:#}");
    assert_eq!(status["ports"][0]["mode"], "generic");
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(1));
}

#[test]
fn privileged_wrong_words_and_wrong_questions_are_refused() {
    let net = TwoWays::new();
    refused(&net, &run(&net, "--speed 9"), &["--speed"]);
    refused(&net, &run(&net, "--workers 0"), &["workers", "from 1 to 64"]);
    refused(&net, &run(&net, "--zero-copy require"), &["zero-copy", "eth0"]);
    refused(&net, &net.router.shunt("status --socket /run/none.sock"), &["/run/none.sock", "running"]);
    let shunt = net.router.start_shunt("");
    let ask = |question: &str| net.router.shunt(&format!("explain {question} --socket {}", shunt.socket()));
    let output = ask("--iif eth9 --src 192.0.2.10 --dst 198.18.0.25 --proto tcp");
    assert!(output.code == 2 && output.stderr.contains("eth9"), "{output:?}");
    let output = ask("--iif eth0 --src 192.0.2.10 --dst 2001:db8::1 --proto tcp");
    assert!(output.code == 2 && output.stderr.contains("two address families"), "{output:?}");
    // Without a daemon, `check` reads the kernel itself.
    let output = net.router.shunt("check --json --socket /run/none.sock");
    assert!(output.code == 0 && output.stdout.contains("32766: from all lookup main"), "{output:?}");
}
