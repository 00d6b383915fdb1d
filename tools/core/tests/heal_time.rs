// SPDX-License-Identifier: GPL-2.0

//! What is told of how long healing takes.

mod small;

use small::{
    heal,
    running,
    work,
    write,
    REGION, //
};

#[test]
fn how_long_healing_takes() {
    let mut core = running(0b001, 0, 0b110);
    write(&mut core, 0, 0);
    write(&mut core, 1, REGION);
    // What is away is not being healed.
    assert_eq!(core.stale_sectors(1), 2 * REGION);
    assert_eq!((core.heal_left(), core.heal_seconds_left()), (0, None));
    for copy in [1, 2] {
        assert!(core.back(copy, false));
    }
    work(&mut core);
    core.tick();
    assert_eq!(core.heal_left(), 4 * REGION, "of both");
    assert_eq!(core.heal_seconds_left(), None, "nothing was copied yet");
    core.set_pace(0, 2560);
    core.heal_credit();
    let copy_piece = |core: &mut small::Core| {
        let piece = core.heal_next().expect("a piece");
        core.heal_done(piece.id, true, piece.to);
        piece.extent.sectors()
    };
    let size = copy_piece(&mut core);
    core.tick();
    assert_eq!(
        (core.heal_rate(), core.heal_seconds_left()),
        (0, None),
        "it began amid that second"
    );
    core.heal_credit();
    assert_eq!(copy_piece(&mut core), size);
    core.tick();
    assert_eq!(core.heal_rate(), 2 * size, "a whole second, to two copies");
    assert_eq!(
        core.heal_seconds_left(),
        Some((4 * REGION).div_ceil(2 * size)),
        "a region counts until all of it is copied"
    );
    core.tick();
    assert_eq!(core.heal_rate(), size, "half of it is of the last second");
    core.set_pace(0, 0);
    heal(&mut core);
    work(&mut core);
    core.tick();
    work(&mut core);
    assert_eq!((core.healing(), core.heal_left()), (0, 0));
    assert_eq!(
        core.heal_seconds_left(),
        None,
        "there is nothing to wait for"
    );
}
