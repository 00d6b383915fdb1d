// SPDX-License-Identifier: GPL-2.0

//! CRC-32C (Castagnoli), eight bytes at a time by tables.
//!
//! It finds every error of up to five bits and every burst of up to 32 bits in a block of 4 KiB.

/// The polynomial, its bits in reverse order.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Entry `byte` of table `n` is the checksum of that byte with `n` zero bytes behind it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
            bit += 1;
        }
        let mut table = 0;
        while table < 8 {
            tables[table][byte] = crc;
            // One zero byte more; table 0 is not complete yet, so bit by bit.
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
                bit += 1;
            }
            table += 1;
        }
        byte += 1;
    }
    tables
}

/// A checksum that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc(u32);

impl Crc {
    /// Of nothing.
    #[expect(clippy::new_without_default, reason = "one way to write it is enough")]
    pub const fn new() -> Self {
        Self(!0)
    }

    /// With `bytes` behind what there was.
    pub fn with(self, bytes: &[u8]) -> Self {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
        // A table has an entry for every byte, so the compiler leaves no check here.
        let at = |table: &[u32; 256], byte: u8| table[usize::from(byte)];
        let mut crc = self.0;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let Ok(chunk) = <[u8; 8]>::try_from(chunk) else {
                continue;
            };
            let mixed = u64::from_le_bytes(chunk) ^ u64::from(crc);
            let [b0, b1, b2, b3, b4, b5, b6, b7] = mixed.to_le_bytes();
            crc = at(t7, b0)
                ^ at(t6, b1)
                ^ at(t5, b2)
                ^ at(t4, b3)
                ^ at(t3, b4)
                ^ at(t2, b5)
                ^ at(t1, b6)
                ^ at(t0, b7);
        }
        for byte in chunks.remainder() {
            let [low, ..] = crc.to_le_bytes();
            crc = (crc >> 8) ^ at(t0, low ^ byte);
        }
        Self(crc)
    }

    /// The checksum.
    pub const fn value(self) -> u32 {
        !self.0
    }
}

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    Crc::new().with(bytes).value()
}
