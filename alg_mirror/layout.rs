// SPDX-License-Identifier: GPL-2.0

//! Where the nodes of a mirror go: all to the same place.

use crate::alg::{
    Algorithm,
    LayoutError,
    Piece,
    Segment, //
};

use super::MAX_COPIES;

/// `alg_mirror`.
pub struct Mirrored;

impl Algorithm for Mirrored {
    fn name(&self) -> &'static str {
        "alg_mirror"
    }

    fn place(&self, _table: &[Segment], _size: u64) -> Option<u64> {
        Some(0)
    }

    fn check(&self, table: &mut [Segment]) -> Result<u64, LayoutError> {
        if table.len() > MAX_COPIES as usize {
            return Err(LayoutError::TooMany { most: MAX_COPIES });
        }
        for segment in table.iter() {
            if segment.start != 0 {
                return Err(LayoutError::NotAtZero {
                    start: segment.start,
                });
            }
            if segment.size == 0 {
                return Err(LayoutError::ZeroSize { start: 0 });
            }
        }
        let smallest = table.iter().map(|segment| segment.size).min();
        smallest.ok_or(LayoutError::Empty)
    }

    fn has_copies(&self) -> bool {
        true
    }

    fn map(&self, table: &[Segment], sector: u64, sectors: u64, copy: u32) -> Option<Piece> {
        let smallest = table.iter().map(|segment| segment.size).min()?;
        let segment = table.get(copy as usize)?;
        let sectors = sectors.min(smallest.checked_sub(sector)?);
        (sectors != 0).then_some(Piece {
            node: segment.node,
            sector,
            sectors,
        })
    }
}
