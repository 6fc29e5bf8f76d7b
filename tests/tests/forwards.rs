//! The workers forward, and the kernel does not. The network is that of [`TwoWays`].

use std::time::Duration;

use shunt_tests::lab::{Daemon, Stream, TwoWays, eventually};

/// Runs `traffic` and asserts that the workers forwarded it: at least `packets`, and none by the kernel.
fn by_workers(net: &TwoWays, shunt: &Daemon, packets: u64, traffic: impl FnOnce()) {
    let before = (net.router.kernel_forwarded(), shunt.forwarded(), shunt.punted());
    traffic();
    let kernel = net.router.kernel_forwarded() - before.0;
    let workers = shunt.forwarded() - before.1;
    let punted = shunt.punted() - before.2;
    assert!(workers >= packets, "the workers forwarded {workers}, expected {packets}: {:#}", shunt.status());
    assert_eq!(kernel, 0, "the kernel forwarded, with {punted} punted: {:#}", shunt.status());
}

fn everything(net: &TwoWays, shunt: &Daemon) {
    for server in [TwoWays::SERVER, TwoWays::SERVER6] {
        by_workers(net, shunt, 10, || {
            net.client.run(&format!("ping -q -c5 -i0.05 -W1 {server}"));
        });
        by_workers(net, shunt, 10, || {
            assert_eq!(net.client.ask_tcp(server, 80).expect("an answer over TCP"), "fast");
            assert_eq!(net.client.ask_udp(server, 5000, Duration::from_secs(1)).expect("an answer over UDP"), "fast");
        });
    }
}

#[test]
fn privileged_ping_tcp_and_udp_of_both_families_by_two_workers() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("--workers 2");
    everything(&net, &shunt);
    let status = shunt.status();
    let names: Vec<_> = status["ports"].as_array().expect("ports").iter().map(|port| &port["name"]).collect();
    assert_eq!(names, ["eth0", "eth1", "ppp0"]);
    for port in status["ports"].as_array().expect("ports") {
        assert_eq!((&port["mode"], &port["queues"]), (&"native".into(), &1.into()), "{port}");
    }
    let workers = status["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert!(worker["forwarded"].as_u64() > Some(0), "an idle worker: {status:#}");
    }
    assert_eq!(shunt.terminate().code, 0);
}

#[test]
fn privileged_one_worker_serves_all_ports() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("--workers 1");
    everything(&net, &shunt);
    assert_eq!(shunt.terminate().code, 0);
}

#[test]
fn privileged_generic_mode_does_the_same() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("--xdp-mode generic");
    everything(&net, &shunt);
    assert_eq!(shunt.status()["ports"][0]["mode"], "generic");
    assert_eq!(shunt.terminate().code, 0);
}

#[test]
fn privileged_all_queues_of_a_port_are_served() {
    let net = TwoWays::with_queues(4);
    let shunt = net.router.start_shunt("--workers 2");
    assert_eq!(shunt.status()["ports"][0]["queues"], 4);
    // Many flows, so that every queue gets some.
    by_workers(&net, &shunt, 2 * 64, || {
        for _ in 0..64 {
            net.client.ask_udp(TwoWays::SERVER, 5000, Duration::from_secs(1)).expect("an answer");
        }
    });
    assert_eq!(shunt.terminate().code, 0);
}

/// TCP with every offload of both hosts at its default: segmentation, partial checksums. The bytes arrive whole, both ways.
#[test]
fn privileged_tcp_with_default_offloads_in_both_modes_and_families() {
    let net = TwoWays::new();
    for mode in ["native", "generic"] {
        let shunt = net.router.start_shunt(&format!("--xdp-mode {mode}"));
        for (server, back) in [("198.51.100.10", ""), ("2001:db8:2::10", ""), ("198.51.100.10", "-R")] {
            let mut iperf = net.fast.spawn(&["iperf3", "-s", "-1"]);
            let client = format!("iperf3 -c {server} {back} -n 20M -J --connect-timeout 2000");
            // Until the server listens; that it does not yet, iperf3 says in its report only.
            let report = eventually(Duration::from_secs(5), || {
                let output = net.client.try_run(&client);
                (output.code == 0 && !output.stdout.contains("\"error\"")).then_some(output.stdout)
            });
            let report = report.unwrap_or_else(|| panic!("{mode}: {client} fails"));
            let value: serde_json::Value = serde_json::from_str(&report).expect("iperf3 prints JSON");
            let received = value["end"]["sum_received"]["bytes"].as_u64();
            let received = received.unwrap_or_else(|| panic!("{mode}: {client}: {report}"));
            // What is under way when the sender is done is not counted.
            assert!(received >= 15 << 20, "{mode} {server} {back}: {received} bytes arrived");
            let _ = iperf.child().wait();
        }
        // Native mode turns segmentation off at the veth's peer. Generic mode sees frames longer than the MTU before the kernel
        // cuts them, and leaves these to the kernel.
        let (forwarded, oversize) = (shunt.forwarded(), shunt.counted("passed", "oversize"));
        assert!(forwarded > if mode == "native" { 10_000 } else { 100 }, "{mode}: {:#}", shunt.status());
        assert_eq!(oversize > 0, mode == "generic", "{mode}: {:#}", shunt.status());
        assert_eq!(shunt.terminate().code, 0);
    }
}

/// One packet each 20 ms must not wait for another one: nothing is left in a ring.
#[test]
fn privileged_a_lonely_packet_does_not_wait() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(20));
    std::thread::sleep(Duration::from_secs(2));
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
    assert!(report.longest_gap < Duration::from_millis(100), "{report:?}");
    drop(shunt);
}
