// SPDX-License-Identifier: GPL-2.0

//! Addresses, between the standard library, the module's interface and the command line.

use std::net::{
    IpAddr,
    Ipv4Addr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6, //
};

use dst_core::uapi::{
    Address,
    Rule,
    AF_INET,
    AF_INET6,
    NBD_PORT, //
};

use crate::error::{
    failed,
    Result, //
};
use crate::uri::{
    split_port,
    Remote, //
};
use crate::world::World;

/// Puts an address in the form that the module reads.
pub fn to_module(address: SocketAddr) -> Address {
    let mut bytes = [0; 16];
    let (family, scope) = match address {
        SocketAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.ip().octets());
            (AF_INET, 0)
        }
        SocketAddr::V6(v6) => {
            bytes = v6.ip().octets();
            (AF_INET6, v6.scope_id())
        }
    };
    Address {
        family,
        port: address.port(),
        scope,
        bytes,
    }
}

/// Reads an address from the module; `None` when it gives none.
pub fn from_module(address: &Address) -> Option<SocketAddr> {
    let port = address.port;
    match address.family {
        AF_INET => {
            let [a, b, c, d, ..] = address.bytes;
            Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into())
        }
        AF_INET6 => {
            let ip = Ipv6Addr::from(address.bytes);
            Some(SocketAddrV6::new(ip, port, 0, address.scope).into())
        }
        _ => None,
    }
}

/// Finds the addresses of a server, best first, none twice.
pub fn resolve(world: &dyn World, remote: &Remote) -> Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = match world.resolve(&remote.host, remote.port) {
        Ok(addresses) => addresses,
        Err(error) => {
            return failed(format!(
                "the name '{}' can't be resolved: {}; check the name, or write the address",
                remote.host,
                resolver_text(&error.to_string())
            ))
        }
    };
    if addresses.is_empty() {
        return failed(format!("the name '{}' has no address", remote.host));
    }
    let mut seen = Vec::new();
    addresses.retain(|address| {
        let new = !seen.contains(address);
        seen.push(*address);
        new
    });
    Ok(addresses)
}

/// Takes the standard library's own words off the resolver's.
fn resolver_text(text: &str) -> &str {
    text.strip_prefix("failed to lookup address information: ")
        .unwrap_or(text)
}

/// Reads an address to listen on: `ADDR`, `ADDR:PORT`, `:PORT`, `[V6]:PORT`, a bare IPv6 address.
pub fn parse_listen(text: &str) -> std::result::Result<Remote, String> {
    let listen = |host: &str, port: Option<u16>| Remote {
        host: host.into(),
        port: port.unwrap_or(NBD_PORT),
        export: String::new(),
    };
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(listen(text, None));
    }
    match split_port(text)? {
        ("", None) => Err(
            "write an address of this machine (0.0.0.0: all of IPv4, [::]: all of IPv6) and a port, \
             such as 0.0.0.0:10809"
                .into(),
        ),
        ("" | "*", port) => Ok(listen("0.0.0.0", port)),
        (host, port) => Ok(listen(host, port)),
    }
}

/// A network that may connect to an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub address: IpAddr,
    /// Leading bits that are the same for all of its addresses.
    pub prefix: u32,
}

/// Reads `ADDRESS/PREFIX`, or an address alone.
pub fn parse_network(text: &str) -> std::result::Result<Network, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| "write a network such as 192.168.4.0/24 or 2001:db8::/32".to_string())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(text) => match text.parse::<u32>() {
            Ok(prefix) if prefix <= bits => prefix,
            _ => return Err(format!("behind '/' stands a number from 0 to {bits}")),
        },
    };
    let network = Network { address, prefix };
    let masked = network.masked();
    if masked != address {
        return Err(format!(
            "{address} has bits set behind the first {prefix}; write {masked}/{prefix}, or {address} \
             for the one machine"
        ));
    }
    Ok(network)
}

impl Network {
    /// The address with all bits behind the prefix cleared.
    fn masked(self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }

    /// Puts the network in the form that the module reads.
    pub fn to_rule(self) -> Rule {
        Rule {
            network: to_module(SocketAddr::new(self.address, 0)),
            prefix: self.prefix,
            reserved: 0,
        }
    }

    /// Writes a network that the module gave.
    pub fn text_of(rule: &Rule) -> Option<String> {
        let address = from_module(&rule.network)?;
        Some(format!("{}/{}", address.ip(), rule.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for text in ["192.168.4.80:1025", "[::1]:1025", "[fe80::1%3]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_module(&to_module(address)), Some(address));
        }
        assert_eq!(from_module(&Address::default()), None);
        let v4 = to_module("1.2.3.4:5".parse().unwrap());
        assert_eq!(
            (v4.family, v4.port, v4.bytes[..4].to_vec()),
            (2, 5, vec![1, 2, 3, 4])
        );
    }

    #[test]
    fn listening() {
        for (text, host, port) in [
            ("0.0.0.0", "0.0.0.0", 10809),
            ("0.0.0.0:1025", "0.0.0.0", 1025),
            (":1025", "0.0.0.0", 1025),
            ("*:1025", "0.0.0.0", 1025),
            ("kano:1025", "kano", 1025),
            ("::", "::", 10809),
            ("[::]", "::", 10809),
            ("[::1]:1025", "::1", 1025),
        ] {
            let listen = parse_listen(text).unwrap();
            assert_eq!((listen.host.as_str(), listen.port), (host, port), "{text}");
        }
        for text in ["", "0.0.0.0:0", "[::1]:0", "[::1", "::1:x"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, prefix) in [
            ("192.168.4.0/24", 24),
            ("192.168.4.80", 32),
            ("0.0.0.0/0", 0),
            ("::/0", 0),
            ("2001:db8::/32", 32),
            ("::1", 128),
        ] {
            let network = parse_network(text).unwrap();
            assert_eq!(network.prefix, prefix, "{text}");
            let rule = network.to_rule();
            assert!(Network::text_of(&rule).unwrap().starts_with(text), "{text}");
        }
        for (text, part) in [
            ("kano", "such as"),
            ("192.168.4.0/33", "0 to 32"),
            ("192.168.4.80/24", "192.168.4.0/24"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/129", "0 to 128"),
            ("1.2.3.4/", "0 to 32"),
        ] {
            let error = parse_network(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
