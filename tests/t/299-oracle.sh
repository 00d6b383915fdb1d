#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# The oracle finds each kind of fault that is planted, and nothing where there is none; also on a disk.
# Timeout: 300
. "$TESTS/lib.sh"

oracle selftest

echo "- on a disk"
ram 2 8
oracle write /dev/ram0 "$TMP/log" --count 200 --readers 1 --zeroes 0
oracle check "$TMP/log" --acked --atomic /dev/ram0
refuse 'lost' oracle check "$TMP/log" --acked zero=/dev/ram1
refuse 'stale|different' oracle check "$TMP/log" /dev/ram0 other=/dev/ram1
refuse 'differs .* in [1-9][0-9]* sectors' oracle equal 16384 /dev/ram0 /dev/ram1
dd if=/dev/ram0 of=/dev/ram1 bs=1M iflag=direct oflag=direct status=none
oracle equal 16384 /dev/ram0 /dev/ram1
# It goes on where it was, after a check that has settled what is there.
oracle check "$TMP/log" --settle /dev/ram0 /dev/ram1
oracle write /dev/ram0 "$TMP/log" --count 50 --readers 1 --area 8:64
oracle check "$TMP/log" --acked /dev/ram0
refuse 'lost|stale' oracle check "$TMP/log" --acked /dev/ram1
