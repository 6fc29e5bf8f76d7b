//! The end of the process is not the end of the traffic. The network is that of [`TwoWays`].

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shunt_tests::lab::{Namespace, Stream, TwoWays, eventually, shunt_binary};

fn nothing_attached(router: &Namespace) -> bool {
    let links = router.run("ip -d link show");
    !links.contains("xdp") && !links.contains("shunt")
}

/// With the policy of the chapter, so that it shows whether the kernel goes on by the same rules.
fn marked_by_the_slow_link(net: &TwoWays) {
    net.router.run("iptables -t mangle -A PREROUTING -i eth0 -p udp --dport 5000 -j MARK --set-mark 1");
    net.router.run("ip rule add fwmark 1 table 201; ip route add default via 203.0.113.10 table 201");
}

#[test]
fn privileged_after_kill_9_the_kernel_forwards_within_50_ms() {
    let net = TwoWays::new();
    marked_by_the_slow_link(&net);
    // The best of three: one late wake-up of a busy machine is not the daemon's.
    let gap = (0..3)
        .map(|_| {
            let shunt = net.router.start_shunt("");
            let kernel = net.router.kernel_forwarded();
            let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(net.router.kernel_forwarded(), kernel, "{:#}", shunt.status());
            shunt.kill();
            std::thread::sleep(Duration::from_millis(500));
            let report = stream.finish();
            assert!(net.router.kernel_forwarded() > kernel + 500, "the kernel does not forward");
            assert_eq!(report.answers.keys().collect::<Vec<_>>(), ["slow"], "another rule after death");
            let clean = eventually(Duration::from_secs(1), || nothing_attached(&net.router).then_some(()));
            assert!(clean.is_some(), "{}", net.router.run("ip -d link show"));
            println!("{report:?}");
            report.longest_gap
        })
        .min()
        .expect("three");
    assert!(gap < Duration::from_millis(50), "a silence of {gap:?}");
}

#[test]
fn privileged_sigterm_drains_and_leaves_nothing() {
    let net = TwoWays::new();
    marked_by_the_slow_link(&net);
    let shunt = net.router.start_shunt("");
    let socket = shunt.socket().to_owned();
    assert!(!nothing_attached(&net.router), "the story tells nothing");
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(300));
    let end = shunt.terminate();
    std::thread::sleep(Duration::from_millis(300));
    let report = stream.finish();
    assert_eq!((end.code, end.stderr.as_str()), (0, ""));
    assert!(nothing_attached(&net.router), "{}", net.router.run("ip -d link show"));
    assert!(!std::path::Path::new(&socket).exists(), "the control socket is still there");
    println!("{report:?}");
    // veth itself drops what is in its ring when the program is taken away.
    assert!(report.lost() <= 20, "{report:?}");
}

/// systemd hears of it (sd_notify): ready when packets flow, stopping when asked to.
#[test]
fn privileged_systemd_is_told() {
    let net = TwoWays::new();
    let service = UnixDatagram::bind("/run/notify.sock").expect("a socket in the lab");
    service.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket of ours");
    let heard = || {
        let mut message = [0; 256];
        let length = service.recv(&mut message).expect("a word from shunt");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let mut shunt = net
        .router
        .command(&["env", "NOTIFY_SOCKET=/run/notify.sock", shunt_binary().to_str().expect("text"), "run"])
        .stdout(Stdio::null())
        .spawn()
        .expect("setpriv starts");
    assert!(heard().contains("READY=1"));
    let before = net.router.kernel_forwarded();
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");
    assert_eq!(net.router.kernel_forwarded(), before, "not ready");
    kill(Pid::from_raw(shunt.id() as i32), Signal::SIGINT).expect("it is there");
    assert!(heard().contains("STOPPING=1"));
    assert!(shunt.wait().expect("a child of ours").success());
}
