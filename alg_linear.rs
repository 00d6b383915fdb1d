// SPDX-License-Identifier: GPL-2.0

//! Concatenation: every sector of the storage lies on exactly one node.

use crate::{
    alg::{
        Algorithm,
        LayoutError,
        Piece,
        Segment, //
    },
    sort,
};

/// `alg_linear`.
pub struct Linear;

impl Algorithm for Linear {
    fn name(&self) -> &'static str {
        "alg_linear"
    }

    fn place(&self, table: &[Segment], size: u64) -> Option<u64> {
        let start = match table.last() {
            Some(last) => last.start.checked_add(last.size)?,
            None => 0,
        };
        start.checked_add(size).map(|_| start)
    }

    fn check(&self, table: &mut [Segment]) -> Result<u64, LayoutError> {
        // Sorting in place keeps the table allocation-free.
        sort::by_key(table, |segment| segment.start);
        let mut end = 0u64;
        for segment in table.iter() {
            if segment.size == 0 {
                return Err(LayoutError::ZeroSize {
                    start: segment.start,
                });
            }
            if segment.start > end {
                return Err(LayoutError::Hole {
                    from: end,
                    to: segment.start,
                });
            }
            if segment.start < end {
                return Err(LayoutError::Overlap {
                    sector: segment.start,
                });
            }
            end = end.checked_add(segment.size).ok_or(LayoutError::TooLarge)?;
        }
        if end == 0 {
            return Err(LayoutError::Empty);
        }
        Ok(end)
    }

    fn has_copies(&self) -> bool {
        false
    }

    fn map(&self, table: &[Segment], sector: u64, sectors: u64, copy: u32) -> Option<Piece> {
        if copy != 0 {
            return None;
        }
        // Sorted and gapless (`check`), so the segment before the first one that starts behind `sector`
        // is the one that holds it.
        let index = table.partition_point(|segment| segment.start <= sector);
        let segment = table.get(index.checked_sub(1)?)?;
        let offset = sector - segment.start;
        let left = segment.size.checked_sub(offset)?;
        let sectors = sectors.min(left);
        (sectors != 0).then_some(Piece {
            node: segment.node,
            sector: offset,
            sectors,
        })
    }
}
