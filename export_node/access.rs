// SPDX-License-Identifier: GPL-2.0

//! Who may connect: a list of networks.

use core::net::{
    IpAddr,
    Ipv6Addr, //
};

use crate::{
    kern::net::Addr,
    uapi, //
};

/// A network: those addresses whose leading bits are the same.
#[derive(Clone, Copy)]
struct Network {
    /// IPv4 networks are kept as mapped IPv6 ones, and so are addresses compared.
    address: u128,
    mask: u128,
}

/// The networks that may connect to an export.
pub(crate) struct AccessList {
    networks: [Option<Network>; uapi::MAX_RULES],
    /// As they were given, to be shown.
    rules: [uapi::Rule; uapi::MAX_RULES],
    count: usize,
}

/// Makes IPv4 and IPv6 comparable.
fn bits(ip: IpAddr) -> u128 {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    u128::from_be_bytes(v6.octets())
}

impl Network {
    /// Understands a rule; says what is wrong with it otherwise.
    fn new(rule: &uapi::Rule) -> Result<Self, &'static str> {
        let bytes = rule.network.bytes;
        let (ip, width) = match rule.network.family {
            uapi::AF_INET => {
                let [a, b, c, d, ..] = bytes;
                (IpAddr::from([a, b, c, d]), 32)
            }
            uapi::AF_INET6 => (IpAddr::V6(Ipv6Addr::from(bytes)), 128),
            _ => return Err("a network of the access list is neither IPv4 nor IPv6"),
        };
        let free = match u32::checked_sub(width, rule.prefix) {
            Some(free) => free,
            None => return Err("a prefix of the access list is longer than its address"),
        };
        let mask = u128::MAX.checked_shl(free).unwrap_or(0);
        Ok(Self {
            // Bits behind the prefix have no meaning; people write 192.168.4.80/24.
            address: bits(ip) & mask,
            mask,
        })
    }
}

impl AccessList {
    /// Understands the rules of an ioctl; says what is wrong with them otherwise. No rule: everybody may connect.
    pub(crate) fn new(rules: &[uapi::Rule]) -> Result<Self, &'static str> {
        let mut list = Self {
            networks: [None; uapi::MAX_RULES],
            rules: [uapi::Rule::default(); uapi::MAX_RULES],
            count: rules.len(),
        };
        if rules.len() > uapi::MAX_RULES {
            return Err("the access list has too many networks");
        }
        let places = list.networks.iter_mut().zip(list.rules.iter_mut());
        for ((network, kept), rule) in places.zip(rules) {
            *network = Some(Network::new(rule)?);
            *kept = *rule;
        }
        Ok(list)
    }

    /// Whether a client at this address may connect.
    pub(super) fn allows(&self, client: &Addr) -> bool {
        let client = bits(client.ip());
        let mut networks = self.networks.iter().flatten();
        self.count == 0 || networks.any(|network| client & network.mask == network.address)
    }

    /// The rules as they were given, and how many of them count.
    pub(super) fn rules(&self) -> (&[uapi::Rule; uapi::MAX_RULES], u32) {
        // At most MAX_RULES.
        (&self.rules, self.count as u32)
    }
}
