//! Netlink messages byte by byte, for what no library decodes in full: a message that we do not understand has to be seen as such.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlmsghdr` in bytes.
pub const HEADER: usize = 16;

/// One attribute (`struct nlattr`).
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Without the bits that flag nesting and byte order.
    pub kind: u16,
    pub value: &'a [u8],
}

/// The attributes in a run of bytes. `None` stands for a run that is cut short, and ends it.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Option<Attribute<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = split(rest);
        rest = one.map(|(_, rest)| rest).unwrap_or_default();
        Some(one.map(|(attribute, _)| attribute))
    })
}

fn split(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let [a, b, c, d] = *bytes.first_chunk::<4>()?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    let value = bytes.get(4..length)?;
    // NLA_TYPE_MASK
    let attribute = Attribute { kind: u16::from_ne_bytes([c, d]) & 0x3fff, value };
    Some((attribute, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Values in host byte order; `None` where the length is another.
impl Attribute<'_> {
    pub fn u8(&self) -> Option<u8> {
        let [value] = *self.value.first_chunk::<1>()?;
        (self.value.len() == 1).then_some(value)
    }

    pub fn u16(&self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_ne_bytes)
    }

    pub fn u32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_ne_bytes)
    }

    /// In network byte order in the message.
    pub fn be32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn be64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn name(&self) -> Option<String> {
        let text = self.value.strip_suffix(&[0]).unwrap_or(self.value);
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    pub fn address(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.value).ok()?).into()),
            16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(self.value).ok()?).into()),
            _ => None,
        }
    }
}

/// A message under construction.
#[derive(Clone, Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// Starts a message (`RTM_*`, `NLM_F_*`) whose fixed part is `payload`. The sequence number is filled in when it is sent.
    pub fn new(kind: u16, flags: u16, payload: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        Request(bytes)
    }

    /// Adds an attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an address, which [`Attribute::address`] reads.
    pub fn with_address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.with(kind, &address.octets()),
            IpAddr::V6(address) => self.with(kind, &address.octets()),
        }
    }

    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_seen_as_such() {
        let request = Request::new(1, 2, &[9; 12]).with(15, &201u32.to_ne_bytes()).with(3, b"eth0\0").finish(7);
        assert_eq!(request.len() % 4, 0);
        let body = &request[HEADER + 12..];
        let read: Vec<_> = attributes(body).map(|one| one.map(|one| (one.kind, one.value.to_vec()))).collect();
        let table = Some((15, 201u32.to_ne_bytes().to_vec()));
        assert_eq!(read, [table.clone(), Some((3, b"eth0\0".to_vec()))]);
        let cut: Vec<_> = attributes(&body[..body.len() - 4]).map(|one| one.map(|one| one.kind)).collect();
        assert_eq!(cut, [Some(15), None]);
    }
}
