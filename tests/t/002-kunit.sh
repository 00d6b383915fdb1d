#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 120
# The module's KUnit suites, which run when it is loaded into a kernel that has KUnit: the debug kernel. Debian's kernel
# has none, and there the module must have left them out.
. "$TESTS/lib.sh"

results=/sys/kernel/debug/kunit
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
load
if [[ $KERNEL == stock ]]; then
	[[ ! -e $results/dst_pool ]] || fail "Debian's kernel has KUnit by now: run the suites there, too"
else
	for suite in dst_pool dst_span; do
		cat "$results/$suite/results"
		grep -qE "^ok 1 $suite" "$results/$suite/results" || fail "the suite $suite did not pass"
		! grep -q "not ok" "$results/$suite/results" || fail "a test of $suite failed"
	done
fi
unload
