// SPDX-License-Identifier: GPL-2.0

//! Sorting a few things in place.

/// Sorts by `key`, keeping the order of what is equal.
///
/// An insertion sort: what is sorted here is short, or sorted but for a few, and is sorted seldom. That of `core` is
/// faster for a thousand and more, but it can panic, on an order that contradicts itself.
pub fn by_key<T, K: Ord>(things: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..things.len() {
        let Some((last, sorted)) = things.get(..=end).and_then(<[T]>::split_last) else {
            return;
        };
        let last = key(last);
        let at = sorted.partition_point(|thing| key(thing) <= last);
        if let Some(moved) = things.get_mut(at..=end) {
            moved.rotate_right(1);
        }
    }
}
