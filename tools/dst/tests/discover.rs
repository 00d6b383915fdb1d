// SPDX-License-Identifier: GPL-2.0

//! `dst discover` against a small NBD server, which can be made to misbehave.

mod fake;

use std::io::{
    Read,
    Write, //
};
use std::net::{
    TcpListener,
    TcpStream, //
};
use std::thread;
use std::time::{
    Duration,
    Instant, //
};

use fake::Fake;
use serde_json::Value;

const REPLY: u64 = 0x0003_e889_0455_65a9;
const ACK: u32 = 1;
const UNSUPPORTED: u32 = (1 << 31) + 1;
const FORBIDDEN: u32 = (1 << 31) + 2;
const UNKNOWN: u32 = (1 << 31) + 6;

/// Starts a server for one connection; gives its port.
fn serve(f: impl FnOnce(TcpStream) -> std::io::Result<()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // The client may go at any time.
        let _ = f(stream);
    });
    port
}

fn greet(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    assert_eq!(flags, [0, 0, 0, 1]);
    Ok(())
}

/// Reads an option: its number and its data.
fn option(stream: &mut TcpStream) -> std::io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    assert_eq!(&head[..8], b"IHAVEOPT");
    let number = u32::from_be_bytes(head[8..12].try_into().unwrap());
    let length = u32::from_be_bytes(head[12..].try_into().unwrap());
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((number, data))
}

fn reply(stream: &mut TcpStream, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    let mut bytes = REPLY.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes)
}

/// A server that behaves, with the exports "vol" and the default one; `listed`: whether it tells.
fn good(mut stream: TcpStream, listed: bool) -> std::io::Result<()> {
    greet(&mut stream)?;
    loop {
        let (number, data) = option(&mut stream)?;
        match number {
            3 if !listed => reply(&mut stream, 3, FORBIDDEN, b"not for you\x1b[2J")?,
            3 => {
                reply(&mut stream, 3, 2, b"\0\0\0\x03vola volume")?;
                reply(&mut stream, 3, 2, b"\0\0\0\0")?;
                reply(&mut stream, 3, ACK, b"")?;
            }
            6 => {
                let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                let name = data[4..4 + length].to_vec();
                assert_eq!(data[4 + length..], [0, 2, 0, 3, 0, 2]);
                if name == b"gone" {
                    reply(&mut stream, 6, UNKNOWN, b"")?;
                    continue;
                }
                let mut export = vec![0, 0];
                export.extend((1_u64 << 30).to_be_bytes());
                export.extend(0x016d_u16.to_be_bytes());
                reply(&mut stream, 6, 3, &export)?;
                if name == b"vol" {
                    let blocks = b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0";
                    reply(&mut stream, 6, 3, blocks)?;
                    reply(&mut stream, 6, 3, b"\0\x02the volume")?;
                }
                reply(&mut stream, 6, ACK, b"")?;
            }
            2 => return reply(&mut stream, 2, ACK, b""),
            _ => reply(&mut stream, number, UNSUPPORTED, b"")?,
        }
    }
}

#[test]
fn listing() {
    let fake = Fake::new();
    let port = serve(|stream| good(stream, true));
    let out = fake.ok(&format!("dst discover 127.0.0.1:{port}"));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], format!("127.0.0.1 (127.0.0.1:{port})"));
    let words: Vec<_> = lines[2].split_whitespace().collect();
    assert_eq!(
        words,
        [
            "vol",
            "1.0",
            "GiB",
            "1073741824",
            "512/4096/32.0",
            "MiB",
            "flush,fua,trim,write-zeroes,multi-conn",
            "the",
            "volume"
        ]
    );
    assert!(lines[3].trim_start().starts_with("(default)"), "{out}");
    let port = serve(|stream| good(stream, true));
    let out = fake.ok(&format!("dst discover nbd://127.0.0.1:{port} --json"));
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["exports"][0]["block_sizes"][1], 4096);
    assert_eq!(value["exports"][1]["name"], "");
}

#[test]
fn one_export_and_none() {
    let fake = Fake::new();
    let port = serve(|stream| good(stream, true));
    let out = fake.ok(&format!("dst discover nbd://127.0.0.1:{port}/vol"));
    assert_eq!(out.lines().count(), 3, "{out}");
    let port = serve(|stream| good(stream, true));
    let out = fake.ok(&format!("dst discover nbd://127.0.0.1:{port}/gone"));
    assert!(out.contains("no such export"), "{out}");
    let port = serve(|stream| good(stream, false));
    let out = fake.ok(&format!("dst discover 127.0.0.1:{port}"));
    assert!(
        out.contains("does not list its exports (forbidden by the server"),
        "{out}"
    );
    assert!(out.contains("1.0 GiB") && !out.contains('\x1b'), "{out}");
}

#[test]
fn servers_that_are_none() {
    let fake = Fake::new();
    let fail = |f: fn(TcpStream) -> std::io::Result<()>| {
        let port = serve(f);
        fake.fail(&format!("dst discover 127.0.0.1:{port} --timeout 2s"))
    };
    let error = fail(|mut s| s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!(error.contains("no NBD server"), "{error}");
    let error = fail(|mut s| s.write_all(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"));
    assert!(error.contains("old style"), "{error}");
    let error = fail(|mut s| s.write_all(b"NBDMAGICIHAVEOPT\0\0"));
    assert!(error.contains("too old"), "{error}");
    let error = fail(|_| Ok(()));
    assert!(error.contains("closed the connection"), "{error}");
    let error = fail(|mut s| {
        greet(&mut s)?;
        option(&mut s)?;
        reply(&mut s, 3, 2, b"\0\0\0\x09vol")
    });
    assert!(error.contains("too short"), "{error}");
    let error = fail(|mut s| {
        greet(&mut s)?;
        option(&mut s)?;
        s.write_all(
            &[
                REPLY.to_be_bytes().as_slice(),
                &[0, 0, 0, 3, 0, 0, 0, 2, 255, 255, 255, 255],
            ]
            .concat(),
        )
    });
    assert!(error.contains("a reply of 4294967295 bytes"), "{error}");
    let error = fail(|mut s| {
        greet(&mut s)?;
        loop {
            // For ever.
            reply(&mut s, 3, 2, b"\0\0\0\x01x")?;
        }
    });
    assert!(error.contains("more than 10000 exports"), "{error}");
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = fake.fail(&format!("dst discover 127.0.0.1:{port}"));
    assert!(error.contains("nothing listens there"), "{error}");
}

#[test]
fn silence_ends_in_time() {
    let fake = Fake::new();
    // One byte now and then must not keep the command waiting either.
    let port = serve(|mut stream| loop {
        stream.write_all(b"N")?;
        thread::sleep(Duration::from_millis(50));
    });
    let begin = Instant::now();
    fake.fail(&format!("dst discover 127.0.0.1:{port} --timeout 300ms"));
    let port = serve(|_stream| {
        thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    let error = fake.fail(&format!("dst discover 127.0.0.1:{port} --timeout 300ms"));
    assert!(error.contains("did not answer in time"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}
