// SPDX-License-Identifier: GPL-2.0

//! Names of nodes: a path, `host:port[/export]` or `nbd://host[:port][/export]`.

use std::fmt;
use std::path::Path;

use dst_core::uapi::{
    NBD_PORT,
    PATH_LEN, //
};

/// A node as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A block device of this machine.
    Local(String),
    /// An export of an NBD server.
    Remote(Remote),
}

/// An export of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Name or address of the server, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the export; empty: the server's default.
    pub export: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(path),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        if !self.export.is_empty() {
            write!(f, "/{}", printable(&self.export))?;
        }
        Ok(())
    }
}

/// Reads the name of a node.
pub fn parse_node(text: &str) -> Result<Node, String> {
    if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
        return parse_disk(text).map(Node::Local);
    }
    if !text.contains("://") && !text.contains(':') {
        return Err(
            "it is neither a disk (a path such as /dev/sdb) nor a remote node \
             (host:port or nbd://host:port/export)"
                .into(),
        );
    }
    parse_remote(text).map(Node::Remote)
}

/// Reads the path of a local disk and makes it absolute, without following links: names such as
/// `/dev/disk/by-id/...` stay what they are.
pub fn parse_disk(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a disk is a path such as /dev/sdb".into());
    }
    let path = std::path::absolute(Path::new(text))
        .map_err(|error| format!("it can't be made an absolute path: {error}"))?;
    let path = path.to_str().ok_or("the path is not UTF-8")?;
    if path.len() >= PATH_LEN {
        return Err(format!(
            "the path has more than {} bytes; use a shorter one, a symbolic link for example",
            PATH_LEN - 1
        ));
    }
    Ok(path.into())
}

/// Reads `host`, `host:port`, `host:port/export` or an NBD URI.
pub fn parse_remote(text: &str) -> Result<Remote, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let (authority, export) = text.split_once('/').unwrap_or((text, ""));
        return remote(authority.into(), None, export.into());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "nbd" => {}
        "nbds" => {
            return Err(
                "TLS is not supported yet; use nbd:// on a network that you trust, or a \
                        tunnel (WireGuard, IPsec)"
                    .into(),
            );
        }
        "nbd+unix" | "nbds+unix" | "nbd+vsock" | "nbds+vsock" => {
            return Err(format!(
                "{scheme}:// is not supported: a remote node is reached over TCP, \
                 nbd://host:port/export"
            ));
        }
        _ => {
            return Err(format!(
                "unknown scheme '{scheme}'; a remote node is nbd://host:port/export"
            ))
        }
    }
    if rest.contains('#') {
        return Err("a '#' part has no meaning here; write %23 for a '#' in a name".into());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if let Some(parameter) = query.split('&').find(|parameter| !parameter.is_empty()) {
        let key = parameter.split('=').next().unwrap_or(parameter);
        return Err(if key.starts_with("tls-") {
            format!("the parameter '{key}' needs TLS, which is not supported yet")
        } else if key == "socket" {
            "the parameter 'socket' belongs to nbd+unix://; a remote node is reached over TCP"
                .into()
        } else {
            format!("unknown parameter '{key}'; no parameter is supported")
        });
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    remote(authority.into(), Some(decode), decode(path)?)
}

/// A function that undoes an encoding.
type Decode = fn(&str) -> Result<String, String>;

/// Puts a remote node together from `host[:port]` and the name of the export.
fn remote(authority: String, decode: Option<Decode>, export: String) -> Result<Remote, String> {
    if let Some((user, _)) = authority.split_once('@') {
        return Err(format!("NBD knows no users; leave '{user}@' out"));
    }
    let (host, port) = split_port(&authority)?;
    let host = match decode {
        Some(decode) => decode(host)?,
        None => host.into(),
    };
    if host.is_empty() {
        return Err("the host is missing; write host:port or nbd://host:port/export".into());
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(format!("'{}' can't be a host", printable(&host)));
    }
    check_export(&export)?;
    Ok(Remote {
        host,
        port: port.unwrap_or(NBD_PORT),
        export,
    })
}

/// Refuses names of exports that the module has no room for.
fn check_export(export: &str) -> Result<(), String> {
    if export.contains('\0') {
        return Err("a name of an export holds no NUL".into());
    }
    if export.len() >= PATH_LEN {
        return Err(format!(
            "the name of the export has {} bytes; the limit is {}",
            export.len(),
            PATH_LEN - 1
        ));
    }
    Ok(())
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` into the host without brackets and the port.
pub fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("the ']' behind the IPv6 address is missing")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(parse_port(port)?))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(format!(
                "'{after}' behind ']' is not a port; write [{host}]:port"
            )),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, after)) if after.contains(':') => Err(format!(
            "an IPv6 address stands in brackets: [{text}] or [address]:port"
        )),
        Some((host, port)) => Ok((host, Some(parse_port(port)?))),
    }
}

/// Reads a TCP port.
pub fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port != 0 && !text.starts_with('+') => Ok(port),
        _ => Err(format!(
            "'{}' is not a port, a number from 1 to 65535",
            printable(text)
        )),
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|b| (*b as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("behind a '%' stand two hexadecimal digits; write %25 for '%'".into());
        };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 when decoded".into())
}

/// Makes text that came from elsewhere safe for a terminal: control characters are escaped.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Direction overrides can make a line read as another one.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(host: &str, port: u16, export: &str) -> Remote {
        Remote {
            host: host.into(),
            port,
            export: export.into(),
        }
    }

    #[test]
    fn nodes() {
        for (text, node) in [
            ("kano:1025", remote("kano", 1025, "")),
            ("kano:1025/disk0", remote("kano", 1025, "disk0")),
            ("192.168.4.80:1025", remote("192.168.4.80", 1025, "")),
            ("[::1]:1025", remote("::1", 1025, "")),
            ("[fe80::1%eth0]:1025", remote("fe80::1%eth0", 1025, "")),
            ("nbd://kano", remote("kano", 10809, "")),
            ("nbd://kano/", remote("kano", 10809, "")),
            ("NBD://kano:1025", remote("kano", 1025, "")),
            ("nbd://kano:1025/disk0", remote("kano", 1025, "disk0")),
            ("nbd://kano//vol/1", remote("kano", 10809, "/vol/1")),
            ("nbd://[2001:db8::1]/x", remote("2001:db8::1", 10809, "x")),
            ("nbd://[2001:db8::1]:7/", remote("2001:db8::1", 7, "")),
            ("nbd://[fe80::1%25eth0]/", remote("fe80::1%eth0", 10809, "")),
            ("nbd://kano/a%20b%C3%A9", remote("kano", 10809, "a bé")),
            ("nbd://kano/x?", remote("kano", 10809, "x")),
        ] {
            assert_eq!(parse_node(text), Ok(Node::Remote(node)), "{text}");
        }
        assert_eq!(parse_node("/dev/sdb"), Ok(Node::Local("/dev/sdb".into())));
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            parse_node("./x"),
            Ok(Node::Local(here.join("x").to_str().unwrap().into()))
        );
        assert_eq!(parse_remote("kano"), Ok(remote("kano", 10809, "")));
    }

    #[test]
    fn wrong_nodes() {
        let long = format!("nbd://kano/{}", "x".repeat(256));
        for (text, part) in [
            ("", "neither a disk"),
            ("sdb", "neither a disk"),
            ("nbds://kano", "TLS is not supported yet"),
            ("nbds://kano/x?tls-type=x509", "TLS is not supported yet"),
            ("nbd://kano/x?tls-type=psk", "needs TLS"),
            ("nbd://kano/x?foo=1", "unknown parameter 'foo'"),
            ("nbd://kano/x?x-foo", "unknown parameter 'x-foo'"),
            ("nbd+unix:///x?socket=/s", "over TCP"),
            ("http://kano", "unknown scheme 'http'"),
            ("nbd://", "host is missing"),
            ("nbd:///x", "host is missing"),
            (":1025", "host is missing"),
            ("kano:", "not a port"),
            ("kano:0", "not a port"),
            ("kano:+1", "not a port"),
            ("kano:65536", "not a port"),
            ("kano:port", "not a port"),
            ("::1:1025", "brackets"),
            ("nbd://::1/x", "brackets"),
            ("[::1:1025", "']'"),
            ("[::1]1025", "not a port"),
            ("nbd://me@kano/", "no users"),
            ("nbd://kano/x#y", "%23"),
            ("nbd://kano/%zz", "hexadecimal"),
            ("nbd://kano/%", "hexadecimal"),
            ("nbd://kano/%ff", "UTF-8"),
            ("nbd://kano/a%00", "NUL"),
            ("nbd://ka no/", "can't be a host"),
            (&long, "limit is 255"),
        ] {
            let error = parse_node(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn shown() {
        for text in ["kano:1025", "kano:1025/x", "[::1]:1025", "/dev/sdb"] {
            assert_eq!(parse_node(text).unwrap().to_string(), text);
        }
        assert_eq!(printable("a\x1b[31m\u{202e}b"), "a\\u{1b}[31m\\u{202e}b");
    }
}
