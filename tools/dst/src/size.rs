// SPDX-License-Identifier: GPL-2.0

//! Sizes and times, as people write and read them.
//!
//! A size or position on the command line is a number of sectors of 512 bytes, as it was from the first
//! version on, or a number with a unit: `s` (sectors), `B` (bytes), `K`, `M`, `G`, `T`, `P` (powers of
//! 1024; `KiB` and so on mean the same). `KB` and its kin are refused: half the world reads them as 1000.

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// The largest position that a Linux block device has, in sectors.
const MAX_SECTORS: u64 = i64::MAX as u64 / SECTOR;

/// Reads a position, in sectors.
pub fn parse_start(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    if digits.is_empty() {
        return Err("write a number of sectors, or a number with a unit such as 20G".into());
    }
    let number: u64 = digits
        .parse()
        .map_err(|_| "it is beyond the largest block device".to_string())?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "s" => SECTOR,
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" | "mb" | "gb" | "tb" | "pb" => {
            let letter = unit[..1].to_ascii_uppercase();
            return Err(format!(
                "'{unit}' can mean powers of 1000 or of 1024; write {digits}{letter} for the latter"
            ));
        }
        _ if unit.starts_with('.') => {
            return Err("write a whole number with a smaller unit, 1536M for 1.5G".into());
        }
        _ => {
            return Err(format!(
                "unknown unit '{unit}'; there are s (sectors of 512 bytes), B, K, M, G, T and P"
            ));
        }
    };
    let bytes = u128::from(number) * u128::from(bytes);
    if bytes % u128::from(SECTOR) != 0 {
        return Err("it is not a multiple of 512 bytes".into());
    }
    match u64::try_from(bytes / u128::from(SECTOR)) {
        Ok(sectors) if sectors <= MAX_SECTORS => Ok(sectors),
        _ => Err("it is beyond the largest block device".into()),
    }
}

/// Reads a size, in sectors; at least one.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match parse_start(text)? {
        0 => Err("a size is at least one sector".into()),
        sectors => Ok(sectors),
    }
}

/// Reads a logical block size, in bytes: here a bare number is bytes.
pub fn parse_block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "1024" | "1K" | "1k" => Ok(1024),
        "2048" | "2K" | "2k" => Ok(2048),
        "4096" | "4K" | "4k" => Ok(4096),
        _ => Err("a block size is 512, 1024, 2048 or 4096 bytes".into()),
    }
}

/// Reads a time in milliseconds: a number of seconds, or one with `ms`, `s`, `m` or `h`.
pub fn parse_ms(text: &str) -> Result<u32, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1.0,
        "" | "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        _ => {
            return Err(format!(
                "unknown unit '{unit}' of time; there are ms, s, m and h"
            ))
        }
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "write a time such as 30s".to_string())?;
    let ms = (number * factor).round();
    if ms < 1.0 {
        return Err("a time is at least 1ms".into());
    }
    if ms > f64::from(u32::MAX) {
        return Err("a time is at most 1193h".into());
    }
    Ok(ms as u32)
}

/// Reads how long requests wait for a lost node, in milliseconds; `wait` (for ever) is 0.
pub fn parse_timeout(text: &str) -> Result<u32, String> {
    match text {
        "wait" => Ok(0),
        "0" | "0s" | "0ms" => Err("write 'wait' to wait for ever, or a time of at least 1ms; \
             'dst fail-now' ends the waiting at once"
            .into()),
        _ => parse_ms(text).map_err(|error| format!("{error} (or 'wait': for ever)")),
    }
}

/// Reads how long to wait for a first connection, in milliseconds.
pub fn parse_connect(text: &str) -> Result<u32, String> {
    match parse_ms(text)? {
        // The module would wait no longer, and not say so.
        600_001.. => Err("it is at most 10m".into()),
        ms => Ok(ms),
    }
}

/// Reads after how much silence a connection is given up, in whole seconds.
pub fn parse_keepalive(text: &str) -> Result<u32, String> {
    match parse_ms(text) {
        Ok(ms @ 1000..=3_600_000) if ms % 1000 == 0 => Ok(ms / 1000),
        Err(error) if !error.starts_with("a time is at") => Err(error),
        _ => Err("it is a number of whole seconds, 1s to 1h".into()),
    }
}

/// Reads how often something is to happen; at least once.
pub fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a number from 1 on".into()),
        Ok(count) => Ok(count),
    }
}

/// Reads how much may be copied each second, in sectors; 0: no bound.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    parse_start(size)
        .map_err(|error| format!("{error} (a size for each second, such as 50M; 0: no bound)"))
}

/// Writes what [`parse_rate`] reads, without losing any of it.
pub fn rate_text(sectors: u64) -> String {
    let units = [(1 << 31, "T"), (1 << 21, "G"), (1 << 11, "M"), (2, "K")];
    let whole = units
        .iter()
        .find(|(unit, _)| sectors != 0 && sectors % unit == 0);
    match whole {
        Some((unit, letter)) => format!("{}{letter}/s", sectors / unit),
        None if sectors == 0 => "0".into(),
        None => format!("{sectors}s/s"),
    }
}

/// Writes a number of bytes with the unit that fits: `20.0 GiB`.
pub fn human(bytes: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Writes a number of sectors with the unit that fits.
pub fn human_sectors(sectors: u64) -> String {
    human(sectors as f64 * SECTOR as f64)
}

/// Writes a time in milliseconds: `300ms`, `12s`, `5m`, `3h 20m`, `4d 1h`.
pub fn human_ms(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..=119 => format!("{s}s"),
        120..=7199 => format!("{}m", s / 60),
        7200..=172_799 => format!("{}h {}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86400, s / 3600 % 24),
    }
}

/// Writes a timeout, without losing any of it.
pub fn timeout_text(ms: u32) -> String {
    match ms {
        0 => "wait".into(),
        _ if ms % 1000 == 0 => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, sectors) in [
            ("0", 0),
            ("800", 800),
            ("800s", 800),
            ("512B", 1),
            ("1024b", 2),
            ("1K", 2),
            ("1k", 2),
            ("1KiB", 2),
            ("3M", 6144),
            ("20G", 41_943_040),
            ("20GiB", 41_943_040),
            ("4T", 1 << 33),
            ("1P", 1 << 41),
            ("18014398509481983", MAX_SECTORS),
        ] {
            assert_eq!(parse_start(text), Ok(sectors), "{text}");
        }
    }

    #[test]
    fn wrong_sizes() {
        for (text, part) in [
            ("", "write a number"),
            ("G", "write a number"),
            ("-1", "write a number"),
            ("+1", "write a number"),
            ("1x", "unknown unit 'x'"),
            ("1 G", "unknown unit ' G'"),
            ("100B", "multiple of 512"),
            ("1GB", "write 1G"),
            ("1.5G", "1536M"),
            ("18014398509481984", "largest block device"),
            ("99999999999999999999999999", "largest block device"),
            ("16384P", "largest block device"),
            ("1é", "unknown unit"),
        ] {
            let error = parse_start(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse_size("0").is_err());
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_block_size("4096"), Ok(4096));
        assert_eq!(parse_block_size("4K"), Ok(4096));
        assert!(parse_block_size("520").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(parse_ms("30s"), Ok(30_000));
        assert_eq!(parse_ms("30"), Ok(30_000));
        assert_eq!(parse_ms("1.5"), Ok(1500));
        assert_eq!(parse_ms("250ms"), Ok(250));
        assert_eq!(parse_ms("2m"), Ok(120_000));
        assert_eq!(parse_ms("1h"), Ok(3_600_000));
        for text in ["", "s", "-1s", "1d", "0.0001ms", "9999h", "1.2.3", "inf"] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
        assert_eq!(parse_timeout("wait"), Ok(0));
        assert!(parse_timeout("0").unwrap_err().contains("fail-now"));
        assert_eq!(parse_connect("10m"), Ok(600_000));
        assert!(parse_connect("11m").unwrap_err().contains("10m"));
        for (text, s) in [("1", 1), ("15s", 15), ("15000ms", 15), ("1h", 3600)] {
            assert_eq!(parse_keepalive(text), Ok(s), "{text}");
        }
        for text in ["0", "0s", "999ms", "1500ms", "3601s", "61m", "9999h"] {
            assert!(
                parse_keepalive(text).unwrap_err().contains("1s to 1h"),
                "{text}"
            );
        }
        assert!(parse_keepalive("1d").unwrap_err().contains("unknown unit"));
        assert_eq!(parse_count("3"), Ok(3));
        for text in ["0", "-1", "x", "99999999999999999999"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, sectors, written) in [
            ("0", 0, "0"),
            ("50M", 102_400, "50M/s"),
            ("50M/s", 102_400, "50M/s"),
            ("1024K", 2048, "1M/s"),
            ("7", 7, "7s/s"),
            ("7s/s", 7, "7s/s"),
            ("2T", 1 << 32, "2T/s"),
        ] {
            assert_eq!(parse_rate(text), Ok(sectors), "{text}");
            assert_eq!(rate_text(sectors), written, "{text}");
        }
        for text in ["", "/s", "none", "50MB", "-1", "1.5M", "50M/m"] {
            let error = parse_rate(text).unwrap_err();
            assert!(error.contains("such as 50M"), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_rate(sectors in 0..=MAX_SECTORS) {
            proptest::prop_assert_eq!(parse_rate(&rate_text(sectors)), Ok(sectors));
        }

        #[test]
        fn garbage_is_no_size(text in "\\PC{0,12}") {
            // Whatever is accepted is what is written.
            if let Ok(sectors) = parse_rate(&text) {
                proptest::prop_assert!(sectors <= MAX_SECTORS);
                proptest::prop_assert_eq!(parse_rate(&rate_text(sectors)), Ok(sectors));
            }
        }
    }

    #[test]
    fn people_read() {
        assert_eq!(human(0.0), "0 B");
        assert_eq!(human(1023.0), "1023 B");
        assert_eq!(human(1024.0), "1.0 KiB");
        assert_eq!(human(1048570.0), "1.0 MiB");
        assert_eq!(human_sectors(41_943_040), "20.0 GiB");
        assert_eq!(human_sectors(1), "512 B");
        assert_eq!(human_ms(300), "300ms");
        assert_eq!(human_ms(12_345), "12s");
        assert_eq!(human_ms(300_000), "5m");
        assert_eq!(human_ms(12_000_000), "3h 20m");
        assert_eq!(human_ms(349_200_000), "4d 1h");
        assert_eq!(timeout_text(0), "wait");
        assert_eq!(timeout_text(30_000), "30s");
        assert_eq!(timeout_text(1500), "1500ms");
    }
}
