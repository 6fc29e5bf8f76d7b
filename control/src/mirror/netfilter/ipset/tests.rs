//! What ipset prints, and what else may come.

use super::*;

const CORPUS: &str = include_str!("corpus/ipset.save");
/// Types of the corpus that we leave to the kernel.
const OPAQUE: [&str; 3] = ["bitmap:ip,mac", "hash:ip,port,net", "hash:net,iface"];

#[test]
fn the_corpus_prints_back_and_is_opaque_only_where_it_is_meant_to_be() {
    let all = parse(CORPUS);
    assert!(all.unread.is_empty() && !all.cut);
    for (ours, theirs) in all.to_string().lines().zip(CORPUS.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(all.to_string(), CORPUS);
    for set in &all.sets {
        assert_eq!(set.is_understood(), !OPAQUE.contains(&set.kind.as_str()), "{set:?}");
    }
    assert!(all.sets.len() > 25, "{}", all.sets.len());
}

#[test]
fn elements_as_ipset_prints_them() {
    let lone = |kind: &str, element: &str| {
        let text = format!("create s {kind}\nadd s {element}\n");
        let all = parse(&text);
        assert_eq!(all.to_string(), text);
        all.sets[0].members[0].clone()
    };
    let address = Net { address: "192.0.2.1".parse().unwrap(), length: 32 };
    let member = lone("hash:ip", "192.0.2.1 timeout 299 packets 5 bytes 10 comment \"a nomatch\"");
    assert_eq!(member.key, Key::Net(address));
    let comment = MemberOption::Comment("a nomatch".into());
    let (packets, bytes) = (MemberOption::Packets(5), MemberOption::Bytes(10));
    assert_eq!(member.options, [MemberOption::Timeout(299), packets, bytes, comment]);
    let Key::Net(net) = lone("hash:net", "192.0.2.0/24 nomatch").key else { panic!() };
    assert_eq!(net.length, 24);
    for (text, protocol, number) in
        [("tcp:80", 6, 80), ("icmp:echo-request", 1, 0x800), ("icmp:200/7", 1, 0xc807), ("253:0", 253, 0)]
    {
        let Key::NetPort(_, port) = lone("hash:ip,port", &format!("192.0.2.1,{text}")).key else { panic!("{text}") };
        assert_eq!((port.protocol.number, port.what.number()), (protocol, number), "{text}");
    }
    // As its library prints it: hexadecimal digits in capitals.
    let mac = lone("hash:mac", "02:00:00:00:00:AB").key;
    assert_eq!(mac, Key::Mac(Mac([2, 0, 0, 0, 0, 0xab])));
    for (kind, element) in [
        ("hash:ip", "192.0.2.1 unknown 5"),
        ("hash:ip", "192.0.2.1 comment never quoted"),
        ("hash:ip", "192.0.2.1 "),
        ("hash:ip", "192.0.2.1,tcp:5"),
        ("hash:ip", "192.0.2.1/32"),
        ("hash:net,iface", "192.0.2.0/24,eth0"),
    ] {
        assert_eq!(
            lone(kind, element),
            Member { key: Key::Opaque(element.into()), options: vec![] },
            "{kind} {element}"
        );
    }
}

#[test]
fn a_comment_of_two_lines_adds_no_element() {
    let text = "create s hash:ip comment\nadd s 192.0.2.1 comment \"x\nadd s 192.0.2.9\ny\"\nadd s 192.0.2.2\n";
    let all = parse(text);
    assert_eq!((all.sets[0].members.len(), all.sets[0].is_understood()), (2, true));
    assert_eq!(all.to_string(), text);
}

#[test]
fn doubtful_sets_are_known_as_such() {
    let all =
        parse("create a b hash:ip family inet\nadd a b 192.0.2.1\ncreate a hash:ip family inet\nadd c 192.0.2.1\n");
    assert_eq!((all.set("a"), &all.unread[..]), (None, &["add c 192.0.2.1".to_owned()][..]));
    assert!(!parse("create a hash:ip family inet colour red\n").sets[0].is_understood());
    assert!(parse("create a hash:ip\nadd a 192.0.2.1").cut && !parse("").cut);
    assert!(parse("create a hash:ip comment\nadd a 192.0.2.1 comment \"never closed\n").cut);
}

#[test]
fn what_the_kernel_counts_is_no_change() {
    let at = |seconds, packets| {
        let text =
            format!("create s hash:ip timeout 300\nadd s 192.0.2.1 timeout {seconds} packets {packets} bytes 5\n");
        parse(&text).without_counts()
    };
    assert_eq!(at(299, 1), at(7, 2));
    assert_ne!(at(299, 1), at(0, 1));
}

#[test]
fn nothing_makes_it_panic() {
    for end in (0..CORPUS.len()).filter(|end| CORPUS.is_char_boundary(*end)) {
        parse(&CORPUS[..end]);
    }
    for start in (0..CORPUS.len()).filter(|start| CORPUS.is_char_boundary(*start)) {
        parse(&CORPUS[start..(start + 200).min(CORPUS.len())]);
    }
}
