//! Messages as a kernel gave them (6.18): of a namespace in which a TCP connection from 127.0.0.1 to port 8000 got another destination
//! port and another source address, and in which something pinged.

use rtrb::{Consumer, RingBuffer};
use shunt_dataplane::conn::exchange::{Given, ToWorker};
use shunt_dataplane::conn::record::{Record, TcpRecord, TcpState};
use shunt_policy::Mark;
use shunt_policy::connection::{Endpoint, Tuple};

use super::attributes::{Append, CTA_HELP, CTA_MARK, CTA_ZONE};
use super::decode::{Gone, News, Told, news};
use super::encode;
use super::lines::{Line, Lines};
use super::table::{By, Table};
use crate::mirror::attributes::HEADER;

const NEW_PING: &str = "a4000000000100060000000000000000020000003c00018014000180080001007f000001080002007f00000124000280050001000100000006000400537f0000050005000800000005000600000000003c00028014000180080001007f000001080002007f00000124000280050001000100000006000400537f00000500050000000000050006000000000008000c000fd633cb0800030000000188080007000000001e";
const UPDATE_PING6: &str = "d40000000001000000000000000000000a000000540001802c0001801400030000000000000000000000000000000001140004000000000000000000000000000000000124000280050001003a000000060007005381000005000800800000000500090000000000540002802c0001801400030000000000000000000000000000000001140004000000000000000000000000000000000124000280050001003a00000006000700538100000500080081000000050009000000000008000c0046be6aab080003000000000a080007000000001e";
const NEW_TCP: &str = "c4000000000100060000000000000000020000003400018014000180080001007f000001080002007f0000011c000280050001000600000006000200d4260000060003001f4000003400028014000180080001007f000001080002007f0000021c0002800500010006000000060002002328000006000300d426000008000c00780cc8bc08000300000001b80800070000000078300004802c0001800500010001000000050002000a000000050003000000000006000400030000000600050000000000";
const DUMP_TCP: &str = "d40000000001020001000000c94368f9020000003400018014000180080001007f000001080002007f0000011c000280050001000600000006000200d4260000060003001f4000003400028014000180080001007f000001080002007f0000021c0002800500010006000000060002002328000006000300d426000008000300000001be080008000000000008000c00780cc8bc08000b0000000001080007000006977e300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000";
const DELETE_TCP: &str = "a4000000020100000000000063982da7020000003400018014000180080001007f000001080002007f0000011c000280050001000600000006000200d4260000060003001f4000003400028014000180080001007f000001080002007f0000021c0002800500010006000000060002002328000006000300d426000008000c00780cc8bc08000300000003be080007000006977e100004800c0001800500010003000000";
const ALL: [&str; 5] = [NEW_PING, UPDATE_PING6, NEW_TCP, DUMP_TCP, DELETE_TCP];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Tuple {
    let end = |(address, port): (&str, u16)| Endpoint { address: address.parse().unwrap(), port };
    Tuple { source: end(source), destination: end(destination), protocol }
}

/// The translated connection.
fn tcp() -> Record {
    Record {
        original: tuple(6, ("127.0.0.1", 54310), ("127.0.0.1", 8000)),
        reply: tuple(6, ("127.0.0.1", 9000), ("127.0.0.2", 54310)),
        status: 0x1be,
        mark: Mark(0),
        timeout: 0x6977e,
        tcp: Some(TcpRecord { state: TcpState::Established, scale: [10; 2], flags: [0x23; 2] }),
        kernels: false,
        masquerade: None,
    }
}

fn lives(message: &[u8]) -> (Told, bool) {
    match news(message) {
        Some(News::Lives { told, new }) => (told, new),
        other => panic!("{other:?}"),
    }
}

/// With attributes behind what the message has.
fn with(hex: &str, append: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = bytes(hex);
    append(&mut message);
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

#[test]
fn what_the_kernel_tells_is_read() {
    assert_eq!(lives(&bytes(DUMP_TCP)), (Told { record: tcp(), zone: 0, port: 0xf968_43c9 }, false));
    let (new, is_new) = lives(&bytes(NEW_TCP));
    let first = TcpRecord { state: TcpState::SynSent, scale: [10, 0], flags: [3, 0] };
    assert_eq!((new.record.tcp, new.record.status, new.port, is_new), (Some(first), 0x1b8, 0, true));
    let Record { original, reply, .. } = tcp();
    let gone = Gone { original, reply, zone: 0, port: 0xa72d_9863, run_out: false };
    assert_eq!(news(&bytes(DELETE_TCP)), Some(News::Ended(gone)));
    let (ping, _) = lives(&bytes(NEW_PING));
    assert_eq!(ping.record.original, tuple(1, ("127.0.0.1", 0x537f), ("127.0.0.1", 0x0800)));
    assert_eq!(ping.record.reply, tuple(1, ("127.0.0.1", 0x537f), ("127.0.0.1", 0)));
    let (ping, _) = lives(&bytes(UPDATE_PING6));
    assert_eq!(ping.record.original, tuple(58, ("::1", 0x5381), ("::1", 128 << 8)));
    assert_eq!(ping.record.reply, tuple(58, ("::1", 0x5381), ("::1", 129 << 8)));
    assert_eq!((ping.record.status, ping.record.timeout, ping.record.tcp), (0xa, 30, None));
}

#[test]
fn what_a_worker_cannot_go_on_with_is_the_kernels() {
    for (what, message) in [
        ("a helper", with(DUMP_TCP, |message| message.nested(CTA_HELP, |help| help.attribute(1, b"ftp\0")))),
        ("a zone", with(DUMP_TCP, |message| message.attribute(CTA_ZONE, &7u16.to_be_bytes()))),
    ] {
        assert!(lives(&message).0.record.kernels, "{what}");
    }
    // EXPECTED, SEQ_ADJUST, FIXED_TIMEOUT, HELPER, OFFLOAD, HW_OFFLOAD
    for bit in [0, 6, 10, 13, 14, 15] {
        let status = DUMP_TCP.replace("08000300000001be", &format!("08000300{:08x}", 0x1be | 1 << bit));
        assert!(lives(&bytes(&status)).0.record.kernels, "status bit {bit}");
    }
    assert!(!lives(&bytes(DUMP_TCP)).0.record.kernels);
    assert_eq!(lives(&with(DUMP_TCP, |message| message.be32(CTA_MARK, 9))).0.record.mark, Mark(9));
}

#[test]
fn what_we_ask_is_what_the_kernel_would_say() {
    let mut batch = Vec::new();
    let untranslated = Record { reply: tcp().original.inverse().unwrap(), status: 0xe, ..tcp() };
    encode::create(&mut batch, 5, &untranslated);
    let (told, new) = lives(&batch);
    assert!(new);
    let liberal = Some(TcpRecord { flags: [0x2b; 2], ..tcp().tcp.unwrap() });
    assert_eq!(told, Told { record: Record { tcp: liberal, ..untranslated }, zone: 0, port: 0 });
    // With translation the reply is what it would be without.
    batch.clear();
    encode::create(&mut batch, 5, &tcp());
    assert_eq!(lives(&batch).0.record.reply, untranslated.reply);
    let length = u32::from_ne_bytes(batch[..4].try_into().unwrap()) as usize;
    assert_eq!(length, batch.len());
    assert!(length < 400, "{length}");
    let mut longest = Vec::new();
    let six = |address: &str, port| (address.to_owned(), port);
    let (a, b) = (six("2001:db8::1", 1), six("2001:db8::2", 2));
    let original = tuple(6, (&a.0, a.1), (&b.0, b.1));
    encode::create(&mut longest, 5, &Record { original, reply: original, ..tcp() });
    assert!(longest.len() <= 400, "{}", longest.len());
    assert!(encode::dump().finish(1).len() == HEADER + 4);
}

#[test]
fn junk_is_no_news_and_no_panic() {
    // As in Marsaglia's Xorshift RNGs.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as usize % bound
    };
    let messages = ALL.map(bytes);
    let mut understood = 0;
    for _ in 0..300_000 {
        let mut message = messages[below(messages.len())].clone();
        for _ in 0..=below(4) {
            let at = below(message.len());
            match below(4) {
                0 => message[at] = [0, 1, 4, 5, 0x80, 0xff][below(6)],
                1 => message[at] ^= 1 << below(8),
                2 => message.truncate(at.max(1)),
                _ => message.extend_from_slice(&messages[below(messages.len())][..at.min(40)]),
            }
        }
        understood += u32::from(news(&message).is_some());
    }
    assert!(understood > 1000, "damage must not be all that is tried");
    for message in &messages {
        for length in 0..message.len() {
            assert_eq!(news(&message[..length]), None, "cut to {length}");
        }
    }
}

/// Two workers that have room for so many messages.
fn table(room: usize) -> (Table, Vec<Consumer<ToWorker>>) {
    let mut heard = Vec::new();
    let lines = (0..2).map(|_| {
        let (to, end) = RingBuffer::new(room);
        heard.push(end);
        Line { to, from: RingBuffer::new(1).1, given: Given::default(), doorbell: Box::new(|| ()) }
    });
    let lines = Lines::new(lines.collect());
    let mut table = Table::default();
    table.own = 77;
    table.connect(lines);
    table.local.set(Vec::new());
    table.begin();
    (table, heard)
}

fn told(record: Record) -> Told {
    Told { record, zone: 0, port: 0 }
}

fn gone(record: &Record, port: u32, run_out: bool) -> Gone {
    Gone { original: record.original, reply: record.reply, zone: 0, port, run_out }
}

fn all(heard: &mut [Consumer<ToWorker>]) -> Vec<ToWorker> {
    heard.iter_mut().flat_map(|end| std::iter::from_fn(|| end.pop().ok()).collect::<Vec<_>>()).collect()
}

/// Forwarded, with one owner.
fn udp(port: u16) -> Record {
    let original = tuple(17, ("192.0.2.10", port), ("198.51.100.25", 53));
    Record { original, reply: original.inverse().unwrap(), status: 0xa, tcp: None, timeout: 30, ..tcp() }
}

fn ended(record: &Record) -> ToWorker {
    ToWorker::Ended { original: record.original, reply: record.reply }
}

#[test]
fn a_dump_tells_what_is_new_and_ends_what_is_gone() {
    let (mut table, mut heard) = table(16);
    let (stays, goes) = (Record { kernels: true, ..udp(40000) }, Record { kernels: true, ..udp(40001) });
    table.lives(told(stays), By::Dump);
    table.lives(told(goes), By::Dump);
    table.sweep();
    assert_eq!(all(&mut heard).len(), 2);
    table.begin();
    table.lives(told(Record { timeout: 20, ..stays }), By::Dump);
    table.sweep();
    assert_eq!(all(&mut heard), [ended(&goes)]);
    table.begin();
    table.lives(told(Record { mark: Mark(3), ..stays }), By::Dump);
    table.sweep();
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record: Record { mark: Mark(3), ..stays }, whole: false }]);
}

#[test]
fn what_runs_out_in_the_kernel_ends_only_if_it_was_the_kernels() {
    let (mut table, mut heard) = table(16);
    let (kernels, workers) = (Record { kernels: true, ..udp(40000) }, udp(40001));
    for record in [kernels, workers] {
        table.lives(told(record), By::Event);
        table.ended(&gone(&record, 0, true));
    }
    assert!(table.known.is_empty());
    let messages = all(&mut heard);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages.contains(&ended(&kernels)));
    // Deleted by somebody, that is another thing.
    table.lives(told(workers), By::Event);
    table.ended(&gone(&workers, 4, true));
    assert_eq!(all(&mut heard).last(), Some(&ended(&workers)));
}

#[test]
fn what_we_ended_does_not_end_what_came_after_it() {
    let (mut table, mut heard) = table(16);
    let record = udp(40000);
    // The event comes when the kernel has been given another with the same packets.
    table.exported(&record, true);
    table.ended(&gone(&record, 77, false));
    assert_eq!(all(&mut heard), [ToWorker::Exported { original: record.original }]);
    assert!(table.known.contains_key(&(0, record.original)));
}

#[test]
fn another_connection_with_the_same_packets_ends_the_first() {
    let (mut table, mut heard) = table(16);
    let first = udp(40000);
    let second = Record { reply: tuple(17, ("198.51.100.25", 53), ("203.0.113.1", 40000)), ..first };
    table.lives(told(first), By::Event);
    table.lives(told(second), By::Event);
    let messages = all(&mut heard);
    assert_eq!(messages[1..], [ended(&first), ToWorker::Kernel { record: second, whole: true }]);
    table.ended(&gone(&first, 0, false));
    assert!(all(&mut heard).is_empty(), "that was long ago");
}

#[test]
fn events_are_completed_and_what_we_set_is_hidden() {
    let (mut table, mut heard) = table(16);
    let original = tuple(6, ("192.0.2.10", 40000), ("198.51.100.25", 25));
    let record = Record { original, reply: original.inverse().unwrap(), status: 0xe, ..tcp() };
    table.exported(&record, true);
    assert_eq!(all(&mut heard), [ToWorker::Exported { original }]);
    let liberal = record.tcp.map(|tcp| TcpRecord { flags: tcp.flags.map(|flags| flags | 8), ..tcp });
    table.lives(told(Record { tcp: liberal, ..record }), By::Dump);
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record, whole: true }]);
    table.lives(told(Record { tcp: None, mark: Mark(4), ..record }), By::Event);
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record: Record { mark: Mark(4), ..record }, whole: true }]);
    // Brought about by us.
    table.lives(Told { port: 77, ..told(Record { mark: Mark(5), ..record }) }, By::Event);
    assert!(all(&mut heard).is_empty());
}

#[test]
fn a_full_queue_is_made_good_by_the_next_dump() {
    let (mut table, mut heard) = table(1);
    let place = table.place();
    let mut records = (40000..).map(|port| Record { kernels: true, ..udp(port) });
    let mut of_first = || records.find(|record| place.owner(&record.original) == 0).unwrap();
    let (first, second, third) = (of_first(), of_first(), of_first());
    table.lives(told(first), By::Event);
    table.lives(told(second), By::Event);
    assert!(table.lines.any_lost() && table.counts.lost == 1);
    // Its end is not heard either.
    table.ended(&gone(&first, 0, false));
    assert_eq!(all(&mut heard).len(), 1);
    table.begin();
    table.lives(told(second), By::Dump);
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record: second, whole: false }]);
    table.sweep();
    assert_eq!(all(&mut heard), [ended(&first)]);
    assert!(!table.lines.any_lost());
    table.lives(told(third), By::Event);
    assert_eq!(all(&mut heard).len(), 1);
}

#[test]
fn zones_do_not_mix() {
    let (mut table, mut heard) = table(16);
    let record = udp(40000);
    let zoned = Told { zone: 3, ..told(Record { kernels: true, ..record }) };
    table.lives(zoned.clone(), By::Event);
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record: zoned.record, whole: false }]);
    table.lives(told(record), By::Event);
    assert_eq!(all(&mut heard), [ToWorker::Kernel { record, whole: true }]);
    table.lives(zoned, By::Event);
    table.ended(&Gone { zone: 3, ..gone(&record, 0, false) });
    assert!(all(&mut heard).is_empty(), "the one without a zone goes on");
}
