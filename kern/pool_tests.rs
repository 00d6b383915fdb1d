// SPDX-License-Identifier: GPL-2.0

//! Tests of the pool, which run in a kernel that has KUnit.

use kernel::prelude::*;

#[kunit_tests(dst_pool)]
mod tests {
    use crate::kern::pool::{
        Claim,
        Pool,
        Slot,
        Stack,
        MAX_CAPACITY, //
    };
    use kernel::{
        prelude::*,
        sync::Arc, //
    };

    fn pool(capacity: u32) -> Arc<Pool<u32, u32>> {
        Pool::new(capacity, 7, |index| Ok(index * 10)).unwrap()
    }

    fn claimed(claim: Claim<u32, u32>) -> Option<Slot<u32, u32>> {
        match claim {
            Claim::Slot(slot) => Some(slot),
            _ => None,
        }
    }

    #[test]
    fn each_object_is_taken_once() {
        let pool = pool(70);
        assert_eq!(pool.used(), 0);
        let mut seen = [false; 70];
        let mut slots = KVec::new();
        while let Some(slot) = pool.try_take() {
            assert_eq!(*slot, slot.index() * 10);
            assert!(!core::mem::replace(&mut seen[slot.index() as usize], true));
            assert_eq!(*slot.ctx(), 7);
            slots.push(slot, GFP_KERNEL).unwrap();
        }
        assert_eq!(slots.len(), 70);
        assert_eq!(pool.used(), 70);
        drop(slots);
        assert_eq!(pool.used(), 0);
        drop(pool.take());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Pool::new(0, 7, Ok).is_err());
        assert!(Pool::new(MAX_CAPACITY + 1, 7, Ok).is_err());
        assert_eq!(
            Pool::new(MAX_CAPACITY, 7, Ok).unwrap().capacity(),
            MAX_CAPACITY
        );
        assert!(Pool::new(2, 7, |_| Err::<u32, _>(EIO)).is_err());
    }

    #[test]
    fn a_cookie_is_good_once() {
        let pool = pool(3);
        let mut slot = pool.take();
        *slot = 42;
        let cookie = slot.cookie();
        assert!(claimed(pool.claim(cookie, 0)).is_none());
        assert_eq!(slot.park(), cookie);
        assert!(claimed(pool.claim(cookie + (1 << 32), 0)).is_none());
        assert!(claimed(pool.claim(cookie | 0xffff_ff00, 0)).is_none());
        assert!(claimed(pool.claim(u64::MAX, 0)).is_none());
        let slot = claimed(pool.claim(cookie, 0)).unwrap();
        assert_eq!(*slot, 42);
        assert!(claimed(pool.claim(cookie, 0)).is_none());
        // An answer in two parts.
        assert_eq!(slot.park(), cookie);
        let mut slot = claimed(pool.claim(cookie, 0)).unwrap();
        slot.renew();
        let second = slot.park();
        assert!(second != cookie);
        assert!(claimed(pool.claim(cookie, 0)).is_none());
        assert!(claimed(pool.claim(second, 0)).is_some());
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn an_early_reply_is_kept() {
        let pool = pool(1);
        let lent = pool.take().lend();
        let cookie = 0;
        assert_eq!(*lent, 0);
        assert!(matches!(pool.claim(cookie, 5), Claim::Early));
        assert!(matches!(pool.claim(cookie, 6), Claim::Unknown));
        assert!(pool.claim_any(0).is_none());
        let (slot, code) = lent.finish().unwrap();
        assert_eq!(code, 5);
        let cookie = slot.cookie();
        assert!(slot.lend().finish().is_none());
        drop(claimed(pool.claim(cookie, 0)).unwrap());
        assert!(matches!(pool.claim(cookie, 0), Claim::Unknown));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn the_last_one_that_shares_owns() {
        let pool = pool(2);
        let slot = pool.take();
        let (index, cookie) = (slot.index(), slot.cookie());
        let one = slot.share();
        let two = one.another();
        let three = two.another();
        assert_eq!(*three, index * 10);
        assert!(matches!(pool.claim(cookie, 0), Claim::Unknown));
        assert!(pool.claim_any(0).is_none());
        assert!(two.release().is_none());
        // Who finds it has one more right to it.
        let found = pool.find_shared(index).unwrap();
        assert_eq!(*found, index * 10);
        assert!(found.release().is_none());
        assert!(pool.find_shared(index ^ 1).is_none());
        assert!(pool.find_shared(2).is_none());
        drop(one);
        assert_eq!(pool.used(), 1);
        let found = pool.find_shared(index).unwrap();
        assert!(three.release().is_none());
        let mut slot = found.release().unwrap();
        assert!(pool.find_shared(index).is_none());
        assert_eq!(slot.index(), index);
        *slot = 5;
        // It is as good as new: it can be parked, and shared again.
        let cookie = slot.park();
        assert!(pool.find_shared(index).is_none());
        let slot = claimed(pool.claim(cookie, 0)).unwrap();
        assert_eq!(pool.used(), 1);
        drop(slot.share());
        assert_eq!(pool.used(), 0);
        assert!(pool.find_shared(index).is_none());
    }

    #[test]
    fn parked_objects_are_found_from_an_index_on() {
        let pool = pool(40);
        let mut slots = KVec::new();
        while let Some(slot) = pool.try_take() {
            slots.push(slot, GFP_KERNEL).unwrap();
        }
        while let Some(slot) = slots.pop() {
            if matches!(slot.index(), 3 | 39) {
                slot.park();
            }
        }
        assert_eq!(pool.used(), 2);
        let first = pool.claim_any(0).unwrap();
        assert_eq!(first.index(), 3);
        assert_eq!(pool.claim_any(first.index()).unwrap().index(), 39);
        assert!(pool.claim_any(0).is_none());
        assert!(pool.claim_any(1000).is_none());
        // What stays parked, the pool takes with it.
        first.park();
    }

    #[test]
    fn a_stack_gives_what_came_first_first() {
        let pool = pool(3);
        let stack = Stack::new();
        let first = pool.take();
        let index = first.index();
        assert!(stack.push(first));
        assert!(!stack.push(pool.take()));
        assert!(!stack.push(pool.take()));
        let mut all = stack.take_all();
        assert_eq!(all.next().unwrap().index(), index);
        drop(all);
        assert_eq!(pool.used(), 0);
        assert!(stack.push(pool.take()));
        drop(stack);
        assert_eq!(pool.used(), 0);
    }
}
