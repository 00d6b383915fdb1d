#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# The module loads and unloads, many times, and leaves nothing behind.
. "$TESTS/lib.sh"

for _ in 1 2 3 4 5; do
	load
	[[ -d /sys/module/dst ]] || fail "dst is not loaded"
	unload
	[[ ! -d /sys/module/dst ]] || fail "dst is still loaded"
done
[[ ! -e /dev/dst && ! -e /sys/bus/dst ]] || fail "something is left behind"
