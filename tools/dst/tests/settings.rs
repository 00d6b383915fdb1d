// SPDX-License-Identifier: GPL-2.0

//! Settings of a mirror, from the command line to the module, which exists in memory only.

mod fake;

use dst_core::uapi::*;
use fake::Fake;

#[test]
fn settings() {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025");
    assert_eq!(
        fake.ok("dst set m read-policy=local-first heal-min=10M heal-max=200M/s timeout=30s"),
        "m: timeout=30s for all nodes\n\
         m: read-policy=local-first\nm: heal-max=200M/s\nm: heal-min=10M/s\n"
    );
    fake.ok("dst set m heal-max=0");
    let set = [
        // So that the new maximum is not below the old minimum.
        (SET_HEAL_MIN, 0),
        (SET_READ_POLICY, READ_LOCAL_FIRST.into()),
        (SET_HEAL_MAX, 409_600),
        (SET_HEAL_MIN, 20_480),
        (SET_HEAL_MAX, 0),
    ]
    .map(|(what, value)| ("m".to_string(), what, value));
    assert_eq!(fake.state.borrow().set_storage, set);
    let node = ("m".to_string(), ALL_NODES, SET_TIMEOUT_MS, 30_000);
    assert_eq!(fake.state.borrow().set, [node]);
    for (rest, parts) in [
        (
            "read-policy=best",
            ["'best' for 'read-policy'", "there are least-pending"],
        ),
        ("heal-min=fast", ["'fast' for 'heal-min'", "such as 50M"]),
        (
            "heal-max=50MB",
            ["'50MB' for 'heal-max'", "write 50M for the latter"],
        ),
        (
            "kano:1025 heal-max=50M",
            [
                "'heal-max=50M' is a setting of the storage",
                "leave 'kano:1025' out",
            ],
        ),
        (
            "heal-min=2M heal-max=1M",
            ["'heal-min=2M/s' is more than", "'heal-max=1M/s'"],
        ),
        ("speed=1", ["unknown setting 'speed=1'", "heal-min=SIZE"]),
    ] {
        let outcome = fake.run(&format!("dst set m {rest}"));
        assert_eq!(outcome.status, 2, "{rest}");
        for part in parts {
            assert!(outcome.err.contains(part), "{rest}: {outcome:?}");
        }
    }
    fake.ok("dst create l /dev/sdc");
    assert!(fake
        .fail("dst set l read-policy=nearest")
        .contains("can't set read-policy=nearest for storage 'l': only a mirror"));
    assert!(fake
        .fail("dst set x heal-min=1M")
        .contains("no storage of that name"));
    fake.fault(SetStorage::NR, libc::EINVAL, "");
    assert!(fake
        .fail("dst set m heal-min=1G")
        .contains("heal-min must not be above heal-max"));
}
