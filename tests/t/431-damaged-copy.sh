#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A copy that is back without its superblocks is refused, and nothing is written to it.
# Timeout: 300
. "$TESTS/lib.sh"

sectors=$((24 * 2048))
load
image=$(image one $sectors)
server nbdkit 12301 "$image"
blank /dev/vdb
dst create bad --alg alg_mirror /dev/vdb localhost:12301 --force --start-array
for _ in 1 2; do
	wait_until 60 healthy bad
	server_kill 12301
	dd if=/dev/urandom of=/dev/dst-bad bs=64k seek=50 count=1 oflag=direct status=none
	wait_until 30 role_is bad :12301 missing
	dd if=/dev/zero of="$image" bs=512 seek=$((sectors - 16)) count=16 conv=notrunc status=none
	server_again 12301
	told() { [[ $(attr bad "$(copy bad :12301)/trouble") == *"superblock is damaged"* ]]; }
	wait_until 100 told
	role_is bad :12301 missing
	dst remove bad localhost:12301
	dst add bad localhost:12301
done
wait_until 60 healthy bad
delete bad
server_kill 12301
unload
