//! The end of the daemon is not the end of what it has translated. Told of shunt only: the kernel does not die.

use std::time::Duration;

use shunt_tests::lab::{Stream, Witness, eventually};

use crate::by::By;
use crate::network::Edge;

/// Bytes, and as many a second.
const FILE: u64 = 36_000_000;
const RATE: &str = "3M";

/// The kernel goes on, then a new daemon.
#[test]
fn privileged_a_masqueraded_download_goes_on_through_kill_9_and_a_new_start() {
    let edge = Edge::new();
    edge.masquerade();
    // Else all that is to come would stand in the client's buffers at once, and nobody have anything to forward.
    edge.alice.run("sysctl -qw net.ipv4.tcp_rmem='4096 65536 131072'");
    let _witness = Witness::serve(&edge.server, &["[::]:80"]);
    let first = By::Shunt.start(&edge.router);
    let download = |server: &str| {
        let url = format!("http://{server}/{FILE}");
        let words =
            ["curl", "-sS", "-g", "-m", "30", "--limit-rate", RATE, "-o", "/dev/null", "-w", "%{size_download}", &url];
        edge.alice.command(&words).stdout(std::process::Stdio::piped()).spawn().expect("curl")
    };
    let downloads = [download(Edge::SERVER), download(&format!("[{}]", Edge::SERVER6))];
    first.forwards(50, || std::thread::sleep(Duration::from_millis(1000)));
    first.0.expect("shunt").kill();
    let kernel = edge.router.kernel_forwarded();
    std::thread::sleep(Duration::from_millis(800));
    assert!(edge.router.kernel_forwarded() > kernel + 50, "the kernel does not go on");
    let second = By::Shunt.start(&edge.router);
    // The kernel has filled the client's buffers: for a while it has nothing to ask for.
    second.forwards(50, || std::thread::sleep(Duration::from_millis(4000)));
    for download in downloads {
        let output = download.wait_with_output().expect("a child of ours");
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), FILE.to_string().as_str())
        );
    }
}

/// As a call: datagrams both ways at a steady pace, 1000 a second. What is lost at each change is less than 20 ms of it, in the best of
/// three.
#[test]
fn privileged_a_masqueraded_call_loses_less_than_20_ms_by_kill_9_and_by_a_new_start() {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:5060"]);
    let mut lost = Vec::new();
    for _ in 0..3 {
        let first = By::Shunt.start(&edge.router);
        let stream = Stream::start(&edge.alice, Edge::SERVER, 5060, Duration::from_millis(1));
        assert!(eventually(Duration::from_secs(3), || (stream.received() > 100).then_some(())).is_some(), "no answers");
        first.forwards(400, || std::thread::sleep(Duration::from_millis(400)));
        first.0.expect("shunt").kill();
        std::thread::sleep(Duration::from_millis(400));
        let second = By::Shunt.start(&edge.router);
        second.forwards(400, || std::thread::sleep(Duration::from_millis(600)));
        let report = stream.finish();
        println!("{report:?}");
        assert_eq!(report.answers.len(), 1, "another source: {report:?}");
        lost.push(report.lost());
        assert_eq!(second.0.expect("shunt").terminate().code, 0);
        if report.lost() < 40 {
            break;
        }
    }
    assert!(lost.iter().min() < Some(&40), "{lost:?}");
}
