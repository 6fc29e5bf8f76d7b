//! What the XDP program does to packets of known flows (`replay` of replay.h), done by a worker: where frames come to it anyhow, a decision
//! that has been made is not made again.

use std::sync::atomic::Ordering;

use shunt_policy::{Generation, Ifindex, PortId};

use super::flow::{ACTION, AMENDS, KEY, Key, LAST, TCP, TRACKED, TRANSLATES, UDP, VERIFY, VERSION, WINDOWS};
use super::places::Home;
use super::shared::{Entry, is_of, stamp};
use super::steps;
use crate::packet::{ETHERNET, checksum};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fff;

/// Bytes of the IP headers, and of the whole of what stands before a payload of UDP; TCP has more.
const HEADER4: usize = 20;
const HEADER6: usize = 40;
const HEAD4: usize = ETHERNET + HEADER4 + 8;
const HEAD6: usize = ETHERNET + HEADER6 + 8;

/// A packet that may be of a known flow. Small: there is one for each packet of a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    pub(super) home: Home,
    /// The entry of its flow, if it is known.
    pub(super) flow: u32,
    /// Bytes behind the IP header.
    payload: u16,
    six: bool,
}

/// A packet that is ready to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replayed {
    pub(crate) port: PortId,
    /// Of the frame, in bytes.
    pub(crate) length: usize,
}

impl Replayed {
    /// Of the IP packet, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.length - ETHERNET) as u64
    }
}

impl Sought {
    /// `None` for a packet that is a worker's to decide about, whatever its flow.
    #[inline(always)]
    pub(super) fn read(frame: &[u8], iif: Ifindex, last_bucket: u32) -> Option<Self> {
        let (key, header, payload) = match *frame.get(12..)?.first_chunk()? {
            IPV4 => {
                let head = frame.first_chunk()?;
                let total = u16::from_be_bytes(bytes(head, ETHERNET + 2));
                let fragment = u16::from_be_bytes(bytes(head, ETHERNET + 6)) & FRAGMENT;
                let ordinary = head[ETHERNET] == 0x45 && fragment == 0 && head[ETHERNET + 8] > 1;
                if !ordinary || checksum::fold(checksum::raw(&bytes::<HEADER4, _>(head, ETHERNET))) != 0xffff {
                    return None;
                }
                (key_of_ipv4(head, iif), HEADER4, total.checked_sub(HEADER4 as u16)?)
            }
            IPV6 => {
                let head = frame.first_chunk()?;
                if head[ETHERNET] >> 4 != 6 || head[ETHERNET + 7] <= 1 {
                    return None;
                }
                (key_of_ipv6(head, iif), HEADER6, u16::from_be_bytes(bytes(head, ETHERNET + 4)))
            }
            _ => return None,
        };
        let segment = frame.get(ETHERNET + header..ETHERNET + header + usize::from(payload))?;
        match key.protocol() {
            UDP if payload >= 8 => {}
            TCP if is_plain_tcp(segment) => {}
            _ => return None,
        }
        Some(Sought { home: Home::of(&key, last_bucket), flow: 0, payload, six: key.is_ipv6() })
    }
}

#[inline(always)]
fn key_of_ipv4(head: &[u8; HEAD4], iif: Ifindex) -> Key {
    let ends = [[word(head, ETHERNET + 12), 0, 0, 0], [word(head, ETHERNET + 16), 0, 0, 0]];
    let ports = word(head, ETHERNET + HEADER4);
    Key::new(iif, head[ETHERNET + 1].into(), (ports, head[ETHERNET + 9], 4), ends)
}

#[inline(always)]
fn key_of_ipv6(head: &[u8; HEAD6], iif: Ifindex) -> Key {
    let address = |at| [word(head, at), word(head, at + 4), word(head, at + 8), word(head, at + 12)];
    let ends = [address(ETHERNET + 8), address(ETHERNET + 24)];
    let ports = word(head, ETHERNET + HEADER6);
    Key::new(iif, word(head, ETHERNET), (ports, head[ETHERNET + 6], 6), ends)
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

/// Some of the bytes, at a place of which the compiler knows that it is inside.
#[inline]
fn bytes<const N: usize, const M: usize>(of: &[u8; M], at: usize) -> [u8; N] {
    let mut some = [0; N];
    some.copy_from_slice(&of[at..at + N]);
    some
}

#[inline]
fn word<const M: usize>(of: &[u8; M], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(of, at))
}

#[inline]
fn write<const N: usize>(to: &mut [u8], at: usize, value: [u8; N]) {
    to[at..at + N].copy_from_slice(&value);
}

/// RFC 1624, equation 3; `delta` is the inverted old and the new.
#[inline]
fn amended(sum: u16, delta: u16) -> u16 {
    !checksum::fold(u64::from(!sum) + u64::from(delta))
}

/// `struct action`, word by word.
struct Action([u64; ACTION.end - ACTION.start]);

impl Action {
    #[inline]
    fn low(&self, at: usize) -> u32 {
        self.0[at] as u32
    }

    #[inline]
    fn high(&self, at: usize) -> u32 {
        (self.0[at] >> 32) as u32
    }

    fn flags(&self) -> u8 {
        (self.0[7] >> 56) as u8
    }

    fn tos(&self) -> u8 {
        (self.0[7] >> 48) as u8
    }

    /// Writes addresses of IPv6, source and destination.
    #[inline]
    fn write_addresses(&self, to: &mut [u8; 32]) {
        write(to, 0, self.high(1).to_ne_bytes());
        write(to, 4, self.0[2].to_ne_bytes());
        write(to, 12, self.0[3].to_ne_bytes());
        write(to, 20, self.0[4].to_ne_bytes());
        write(to, 28, self.low(5).to_ne_bytes());
    }
}

/// Makes a packet ready to leave as this entry says, which is the worker's own: nobody else writes what it says. `None`, and the frame is as
/// it came, if it does not hold for the packet. Counts nothing. `now` is monotonic, ns.
#[inline]
pub(super) fn replay(
    entry: &Entry,
    frame: &mut [u8],
    (sought, iif): (&Sought, Ifindex),
    generation: Generation,
    now: u64,
) -> Option<Replayed> {
    match sought.six {
        false => replay_as::<false>(entry, frame, (sought, iif), generation, now),
        true => replay_as::<true>(entry, frame, (sought, iif), generation, now),
    }
}

/// The same for one family, IPv6 if it is `SIX`.
#[inline(always)]
fn replay_as<const SIX: bool>(
    entry: &Entry,
    frame: &mut [u8],
    (sought, iif): (&Sought, Ifindex),
    generation: Generation,
    now: u64,
) -> Option<Replayed> {
    let key = &if SIX { key_of_ipv6(frame.first_chunk()?, iif) } else { key_of_ipv4(frame.first_chunk()?, iif) };
    // Withdrawn it is of no generation.
    let version = entry[VERSION].load(Ordering::Relaxed);
    if (version >> 32) as u32 != stamp(generation) || !is_of(entry, key) {
        return None;
    }
    let action = Action(std::array::from_fn(|at| entry[ACTION.start + at].load(Ordering::Relaxed)));
    let (flags, payload) = (action.flags(), usize::from(sought.payload));
    let header = if SIX { HEADER6 } else { HEADER4 };
    let length = ETHERNET + header + payload;
    let clock = steps(now);
    let age = clock.wrapping_sub(action.high(6)) as i32;
    let is_late = i64::from(age) > i64::from(action.low(7));
    if header + payload > usize::from(longest(entry)) || flags & WINDOWS != 0 || is_late {
        return None;
    }
    let (head, segment) = frame.get_mut(..length)?.split_at_mut_checked(ETHERNET + header)?;
    let new_sum = new_checksum::<SIX>(head, segment, key, &action)?;
    if age != 0 {
        let last = entry[LAST].load(Ordering::Relaxed);
        entry[LAST].store(last & 0xffff_ffff | u64::from(clock) << 32, Ordering::Relaxed);
    }
    match SIX {
        true => rewrite_ipv6(head.first_chunk_mut()?, &action),
        false => rewrite_ipv4(head.first_chunk_mut()?, &action),
    }
    if flags & TRANSLATES != 0 {
        write(segment, 0, action.high(5).to_ne_bytes());
        if let Some((at, sum)) = new_sum {
            write(segment, at, sum.to_ne_bytes());
        }
    }
    Some(Replayed { port: PortId(action.high(7) as u16), length })
}

/// Where the checksum of UDP or TCP stands in the segment and what it becomes where ends are translated, if it has one; `None` if the packet
/// is a worker's to decide about.
#[inline]
#[allow(clippy::option_option)]
fn new_checksum<const SIX: bool>(
    head: &[u8],
    segment: &[u8],
    key: &Key,
    action: &Action,
) -> Option<Option<(usize, u16)>> {
    let (flags, is_tcp) = (action.flags(), key.protocol() == TCP);
    let at = if is_tcp { 16 } else { 6 };
    let [a, b] = *segment.get(at..)?.first_chunk()?;
    let sum = u16::from_ne_bytes([a, b]);
    if flags & TRACKED != 0 && !is_tcp {
        let said = u16::from_be_bytes(*segment.get(4..)?.first_chunk()?);
        if !(8..=segment.len()).contains(&usize::from(said)) {
            return None;
        }
    }
    if !is_tcp && sum == 0 {
        return Some(None);
    }
    let addresses = match SIX {
        true => checksum::raw(head.last_chunk::<32>()?),
        false => checksum::raw(head.last_chunk::<8>()?),
    };
    // In the order of memory, as all these sums.
    let [protocol, length] = [u16::from(key.protocol()), segment.len() as u16].map(|word| u64::from(word.to_be()));
    let pseudo = addresses + protocol + length;
    // The sender has left it to its hardware.
    if sum == checksum::fold(pseudo) {
        return None;
    }
    if flags & VERIFY != 0 && checksum::fold(pseudo + checksum::raw(segment)) != 0xffff {
        return None;
    }
    Some(Some(match amended(sum, action.low(6) as u16) {
        0 if !is_tcp => (at, 0xffff),
        new => (at, new),
    }))
}

#[inline]
fn rewrite_ipv4(head: &mut [u8; ETHERNET + HEADER4], action: &Action) {
    write(head, 0, action.0[0].to_ne_bytes());
    write(head, 8, action.low(1).to_ne_bytes());
    let mut sum = u16::from_ne_bytes(bytes(head, ETHERNET + 10));
    if action.flags() & AMENDS != 0 {
        head[ETHERNET + 1] = action.tos();
        write(head, ETHERNET + 12, action.high(1).to_ne_bytes());
        write(head, ETHERNET + 16, action.high(3).to_ne_bytes());
        sum = amended(sum, (action.low(6) >> 16) as u16);
    }
    // ip_decrease_ttl
    let decremented = u32::from(sum) + u32::from(0x0100_u16.to_be());
    write(head, ETHERNET + 10, ((decremented + u32::from(decremented >= 0xffff)) as u16).to_ne_bytes());
    head[ETHERNET + 8] -= 1;
}

#[inline]
fn rewrite_ipv6(head: &mut [u8; ETHERNET + HEADER6], action: &Action) {
    write(head, 0, action.0[0].to_ne_bytes());
    write(head, 8, action.low(1).to_ne_bytes());
    let tos = action.tos();
    head[ETHERNET] = 0x60 | tos >> 4;
    head[ETHERNET + 1] = head[ETHERNET + 1] & 0x0f | tos << 4;
    head[ETHERNET + 7] -= 1;
    if action.flags() & TRANSLATES != 0
        && let Some(addresses) = head.last_chunk_mut()
    {
        action.write_addresses(addresses);
    }
}

/// The longest packet that it is for, in bytes.
fn longest(entry: &Entry) -> u16 {
    (entry[KEY[1]].load(Ordering::Relaxed) >> 48) as u16
}
