//! A standby router takes over with connections that conntrackd has brought to it.
//!
//! ```text
//!                    eth0 [one] wan0
//!  client .10 [lan] <      |sync    > [net] --- 198.51.100.254 server, 198.18.0.25
//!                    eth0 [two] wan0
//! ```
//!
//! Both routers share 192.0.2.1 and 198.51.100.1, which an operator moves by hand, and translate to the latter.

use std::process::Stdio;
use std::time::Duration;

use shunt_tests::lab::{Lab, Namespace, Process, Witness, eventually};

use crate::by::{By, Forwarder, stories};

stories![privileged_a_download_goes_on_through_the_standby];

const FILE: u64 = 12_000_000;
const SHARED: &str = "ip addr VERB 192.0.2.1/24 dev eth0; ip addr VERB 198.51.100.1/24 dev wan0";

struct Router {
    namespace: Namespace,
    conntrackd: Process,
}

impl Router {
    /// With its own addresses `.2` and `.3`, and conntrackd towards the other.
    fn prepare(lab: &Lab, name: &str, number: u8) -> Namespace {
        let namespace = lab.namespace(name);
        namespace.run("sysctl -qw net.ipv4.ip_forward=1");
        std::fs::write(configuration_path(name), configuration(name, number, 5 - number)).expect("the lab's /run");
        namespace
    }

    fn set_up(namespace: Namespace, number: u8) -> Router {
        namespace.run(&format!(
            "ip addr add 192.0.2.{number}/24 dev eth0; ip addr add 198.51.100.{number}/24 dev wan0
            ip addr add 203.0.113.{number}/24 dev sync
            ip route add default via 198.51.100.254
            iptables -t nat -A POSTROUTING -o wan0 -s 192.0.2.0/24 -j SNAT --to-source 198.51.100.1"
        ));
        let conntrackd = namespace.spawn(&["conntrackd", "-C", &configuration_path(namespace.name())]);
        Router { namespace, conntrackd }
    }

    /// Asks or tells conntrackd something.
    fn conntrackd(&self, option: &str) -> String {
        self.namespace.run(&format!("conntrackd -C {} {option}", configuration_path(self.namespace.name())))
    }

    fn shared(&self, verb: &str) {
        self.namespace.run(&SHARED.replace("VERB", verb));
        if verb == "add" {
            self.namespace.run("ip route replace default via 198.51.100.254");
        }
    }
}

fn configuration_path(name: &str) -> String {
    format!("/run/conntrackd-{name}.conf")
}

fn configuration(name: &str, own: u8, other: u8) -> String {
    format!(
        "Sync {{
            Mode FTFW {{
            }}
            UDP {{
                IPv4_address 203.0.113.{own}
                IPv4_Destination_Address 203.0.113.{other}
                Port 3780
                Interface sync
                Checksum on
            }}
        }}
        General {{
            HashSize 8192
            HashLimit 65535
            LogFile off
            Syslog off
            LockFile /run/conntrackd-{name}.lock
            UNIX {{
                Path /run/conntrackd-{name}.ctl
            }}
            NetlinkBufferSize 2097152
            NetlinkBufferSizeMaxGrowth 8388608
            Filter From Userspace {{
                Protocol Accept {{
                    TCP
                    UDP
                }}
                Address Ignore {{
                    IPv4_address 127.0.0.1
                    IPv4_address 203.0.113.0/24
                }}
            }}
        }}
        "
    )
}

fn bridge(namespace: &Namespace, ports: &[&str]) {
    namespace.run("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
    for port in ports {
        namespace.run(&format!("ip link set {port} master br0"));
    }
}

fn privileged_a_download_goes_on_through_the_standby(by: By) {
    let lab = Lab::new();
    let [client, lan, net, server] = ["client", "lan", "net", "server"].map(|name| lab.namespace(name));
    let [one, two] = [Router::prepare(&lab, "one", 2), Router::prepare(&lab, "two", 3)];
    lab.veth((&client, "eth0"), (&lan, "p0"));
    lab.veth((&one, "eth0"), (&lan, "p1"));
    lab.veth((&two, "eth0"), (&lan, "p2"));
    lab.veth((&server, "eth0"), (&net, "p0"));
    lab.veth((&one, "wan0"), (&net, "p1"));
    lab.veth((&two, "wan0"), (&net, "p2"));
    lab.veth((&one, "sync"), (&two, "sync"));
    bridge(&lan, &["p0", "p1", "p2"]);
    bridge(&net, &["p0", "p1", "p2"]);
    client.run("ip addr add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1");
    // Else all of the file could stand in the client's buffers before the standby takes over.
    client.run("sysctl -qw net.ipv4.tcp_rmem='4096 65536 131072'");
    server.run("ip addr add 198.51.100.254/24 dev eth0; ip addr add 198.18.0.25/32 dev lo");
    let [one, two] = [Router::set_up(one, 2), Router::set_up(two, 3)];
    one.shared("add");
    let _witness = Witness::serve(&server, &["198.18.0.25:80"]);
    for router in [&one, &two] {
        router.namespace.run("ping -q -c1 -W2 192.0.2.10; ping -q -c1 -W2 198.51.100.254");
        let path = format!("/run/conntrackd-{}.ctl", router.namespace.name());
        let ready = eventually(Duration::from_secs(5), || std::path::Path::new(&path).exists().then_some(()));
        assert!(ready.is_some(), "conntrackd {} does not start", router.conntrackd.id());
    }
    let forwarders: [Forwarder; 2] = [by.start(&one.namespace), by.start(&two.namespace)];

    let url = format!("http://198.18.0.25/{FILE}");
    let words = ["curl", "-sS", "-m", "30", "--limit-rate", "3M", "-o", "/dev/null", "-w", "%{size_download}", &url];
    let download = client.command(&words).stdout(Stdio::piped()).spawn().expect("curl");
    forwarders[0].forwards(50, || std::thread::sleep(Duration::from_millis(800)));
    let known = eventually(Duration::from_secs(3), || two.conntrackd("-e").contains("dst=198.18.0.25").then_some(()));
    assert!(known.is_some(), "the standby knows nothing: {} {}", one.conntrackd("-s"), two.conntrackd("-s"));

    one.shared("del");
    two.conntrackd("-c");
    let committed = two.namespace.run("conntrack -L -p tcp 2>/dev/null");
    let runs = committed.contains("ESTABLISHED") && committed.contains("dst=198.18.0.25");
    assert!(runs, "no running download is committed: {committed}");
    two.shared("add");
    for host in [&client, &server] {
        host.run("ip neigh flush all");
    }
    let output = forwarders[1].forwards(50, || download.wait_with_output().expect("a child of ours"));
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(0), FILE.to_string().as_str())
    );
}
