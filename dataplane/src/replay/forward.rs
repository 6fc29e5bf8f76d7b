//! What the XDP program does to packets of known flows (`replay` of replay.h), done by a worker: where frames come to it anyhow, a decision
//! that has been made is not made again.

use std::sync::atomic::{Ordering, fence};

use shunt_policy::{Generation, Ifindex, PortId};

use super::flow::{ACTION, AMENDS, KEY, Key, LAST, TCP, TRACKED, TRANSLATES, UDP, VERIFY, VERSION, WINDOWS};
use super::shared::{Entry, Flows, is_of, stamp};
use super::steps;
use crate::packet::{ETHERNET, checksum};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;

/// A packet that may be of a known flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    /// First of the entries in which it would stand.
    first: u32,
    key: [u64; KEY.len()],
    six: bool,
    protocol: u8,
    /// Bytes of the IP header and of what stands behind it.
    header: usize,
    payload: usize,
}

/// A packet that is ready to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replayed {
    /// Number of the entry.
    pub(super) flow: u32,
    pub(crate) port: PortId,
    /// Of the frame, in bytes.
    pub(crate) length: usize,
}

impl Replayed {
    /// Of the IP packet, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.length - ETHERNET) as u64
    }
}

impl Sought {
    /// `None` for a packet that is a worker's to decide about, whatever its flow.
    fn read(frame: &[u8], iif: Ifindex, flows: &Flows) -> Option<Self> {
        let kind = *frame.get(12..)?.first_chunk::<2>()?;
        let packet = frame.get(ETHERNET..)?;
        let (six, protocol, header, total) = match kind {
            IPV4 => {
                let header = packet.first_chunk::<20>()?;
                let ordinary = header[0] == 0x45 && number(header, 6) & FRAGMENT == 0 && header[8] > 1;
                let sound = ordinary && checksum::fold(checksum::sum(header)) == 0xffff;
                (false, header[9], 20, sound.then(|| usize::from(number(header, 2)))?)
            }
            IPV6 => {
                let header = packet.first_chunk::<40>()?;
                let ordinary = header[0] >> 4 == 6 && header[7] > 1;
                (true, header[6], 40, ordinary.then(|| 40 + usize::from(number(header, 4)))?)
            }
            _ => return None,
        };
        let payload = packet.get(header..total)?;
        match protocol {
            UDP if payload.len() >= 8 => {}
            TCP if is_plain_tcp(payload) => {}
            _ => return None,
        }
        let key = Key::read(packet, payload, iif, six)?;
        let (first, key) = (flows.first_place(&key), key.words());
        Some(Sought { first, key, six, protocol, header, payload: payload.len() })
    }
}

/// Neither FIN nor SYN nor RST, but ACK; without options, or with time stamps alone.
fn is_plain_tcp(segment: &[u8]) -> bool {
    let Some(header) = segment.first_chunk::<20>() else { return false };
    let options_are_plain = match header[12] >> 4 {
        5 => true,
        8 => segment.get(20..32).is_some_and(|options| options.starts_with(&[1, 1, 8, 10])),
        _ => false,
    };
    options_are_plain && header[13] & 0x17 == 0x10
}

fn number(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<2>).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// As it lies in memory: sums of the Internet checksum are the same in any order of bytes (RFC 1071, 2 B).
fn raw(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<2>).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

fn write<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..at + N) {
        field.copy_from_slice(&value);
    }
}

/// RFC 1624, equation 3; `delta` is the inverted old and the new.
fn amended(sum: u16, delta: u16) -> u16 {
    !checksum::fold(u64::from(!sum) + u64::from(delta))
}

impl Flows {
    /// Begins to look for the packet's flow, without waiting for memory.
    pub(crate) fn seek(&self, frame: &[u8], iif: Ifindex) -> Option<Sought> {
        let sought = Sought::read(frame, iif, self)?;
        self.prefetch(sought.first);
        Some(sought)
    }

    /// Makes a packet ready to leave as an entry of this generation says. `None`, and the frame is as it came, if there is none that holds for
    /// it. Counts nothing. `now` is monotonic, ns.
    pub(super) fn replay(
        &self,
        frame: &mut [u8],
        sought: &Sought,
        generation: Generation,
        now: u64,
        is_ours: impl FnOnce(u32) -> bool,
    ) -> Option<Replayed> {
        let (flow, entry, action) = self.action(sought, generation)?;
        if !is_ours(flow) {
            return None;
        }
        let Sought { six, protocol, header, payload, .. } = *sought;
        let action = Bytes::of(action);
        let (flags, total) = (action.byte(63), header + payload);
        let clock = steps(now);
        let age = clock.wrapping_sub(action.word(52)) as i32;
        let is_late = i64::from(age) > i64::from(action.word(56));
        if total > usize::from(longest(entry)) || flags & WINDOWS != 0 || is_late {
            return None;
        }
        let packet = frame.get(ETHERNET..ETHERNET + total)?;
        let sum_at = header + if protocol == TCP { 16 } else { 6 };
        let sum = raw(packet, sum_at);
        if protocol == TCP || sum != 0 {
            let addresses = if six { packet.get(8..40)? } else { packet.get(12..20)? };
            let pseudo = checksum::sum(addresses) + u64::from(protocol) + payload as u64;
            // The sender has left it to its hardware.
            if u16::from_be(sum) == checksum::fold(pseudo) {
                return None;
            }
            if flags & VERIFY != 0 && checksum::fold(pseudo + checksum::sum(packet.get(header..)?)) != 0xffff {
                return None;
            }
        }
        if flags & TRACKED != 0 && protocol == UDP && !(8..=payload).contains(&usize::from(number(packet, header + 4)))
        {
            return None;
        }
        if age != 0 {
            let last = entry[LAST].load(Ordering::Relaxed);
            entry[LAST].store(last & 0xffff_ffff | u64::from(clock) << 32, Ordering::Relaxed);
        }
        write(frame, 0, action.bytes::<12>(0));
        let packet = frame.get_mut(ETHERNET..ETHERNET + total)?;
        let tos = action.byte(62);
        if six {
            packet[0] = 0x60 | tos >> 4;
            packet[1] = packet[1] & 0x0f | tos << 4;
            packet[7] -= 1;
            if flags & TRANSLATES != 0 {
                write(packet, 8, action.bytes::<32>(12));
            }
        } else {
            let mut header_sum = raw(packet, 10);
            if flags & AMENDS != 0 {
                packet[1] = tos;
                write(packet, 12, action.bytes::<4>(12));
                write(packet, 16, action.bytes::<4>(28));
                header_sum = amended(header_sum, action.half(50));
            }
            // ip_decrease_ttl
            let decremented = u32::from(header_sum) + u32::from(0x0100_u16.to_be());
            write(packet, 10, ((decremented + u32::from(decremented >= 0xffff)) as u16).to_ne_bytes());
            packet[8] -= 1;
        }
        if flags & TRANSLATES != 0 {
            write(packet, header, action.bytes::<4>(44));
            if protocol == TCP || sum != 0 {
                let new = match amended(sum, action.half(48)) {
                    0 if protocol == UDP => 0xffff,
                    new => new,
                };
                write(packet, sum_at, new.to_ne_bytes());
            }
        }
        Some(Replayed { flow, port: PortId(action.half(60)), length: ETHERNET + total })
    }

    /// The entry of this generation for the packet's flow, and a copy of what it does.
    fn action(
        &self,
        sought: &Sought,
        generation: Generation,
    ) -> Option<(u32, &Entry, [u64; ACTION.end - ACTION.start])> {
        let wanted = u64::from(stamp(generation)) << 32;
        let (flow, entry, version) = self.ways(sought.first).find_map(|(flow, entry)| {
            let version = entry[VERSION].load(Ordering::Acquire);
            let holds = version & !0xffff_ffff == wanted && is_of(entry, &sought.key);
            holds.then_some((flow, entry, version))
        })?;
        let action = std::array::from_fn(|at| entry[ACTION.start + at].load(Ordering::Relaxed));
        // What was read is read before the version is looked at again.
        fence(Ordering::Acquire);
        // What is being written has no generation.
        (entry[VERSION].load(Ordering::Relaxed) == version).then_some((flow, entry, action))
    }
}

/// The longest packet that it is for, in bytes.
fn longest(entry: &Entry) -> u16 {
    (entry[KEY[1]].load(Ordering::Relaxed) >> 48) as u16
}

/// `struct action`, by the places of its bytes.
struct Bytes([u8; 8 * (ACTION.end - ACTION.start)]);

impl Bytes {
    fn of(words: [u64; ACTION.end - ACTION.start]) -> Self {
        let mut bytes = [0; _];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        Bytes(bytes)
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }
}
