#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A node of a mirror takes the place of another one while it is used: dst replace.
# Timeout: 240
. "$TESTS/lib.sh"
. "$TESTS/replace.sh"

replace_begin
disk=/dev/dst-rep
data=$(mirror_sectors $sectors)
server nbdkit 12301 "$(image one $sectors)"
server nbdkit 12302 "$(image two $sectors)"
image=$TMP/one
equal() { oracle equal "$data" $disk "$@"; }
dst create rep --alg alg_mirror $L0 localhost:12301 --start-array
dd if=/dev/urandom of=$disk bs=1M seek=3 count=3 oflag=direct status=none

echo "- a copy is replaced under load, local by local"
load_begin $disk "$log" --area 256:512 --rate 100
dst replace rep $L0 $L1
done_with rep 2
load_goes_on "$log"
healthy rep
# Nothing is written to it any more, and it is no part of the storage.
before=$(sum $L0)
load_goes_on "$log"
load_end "$log"
same "$before" "$(sum $L0)" "the old node"
equal $L1 "$image"
oracle check "$log" --acked --settle disk=$disk $L1 "$image"
wait_until 10 told rep replace-start
wait_until 10 told rep replace-done
dst create other --alg alg_mirror $L0 --start-array
refuse 'in use' dst replace rep $L1 $L0
delete other

echo "- cancelled half-way"
refuse "node of storage 'other'" dst replace rep $L1 $L0
dst set rep heal-min=0 heal-max=64K
dst replace rep localhost:12301 localhost:12302
# While it is away nothing is copied, so the end does not come before all was looked at.
server_kill 12302
wait_until 30 role_is rep :12302 missing
expect 'takes the place of node [0-9]+ when it is in sync' dst status rep
same "$(id rep :12301)" "$(attr rep "$(copy rep :12302)/replaces")" replaces
refuse 'being replaced already' dst replace rep $L1 $L0 --force
refuse 'another node' dst replace rep $L1 --cancel
in_time 20 dst replace rep localhost:12301 --cancel
same 2 "$(count rep)" "number of nodes"
healthy rep
wait_until 10 told rep replace-cancelled
refuse 'not being replaced|is being replaced' dst replace rep localhost:12301 --cancel
equal $L1 "$image"
server_again 12302

echo "- stopped and started half-way"
dst replace rep localhost:12301 $L0 --force
stop rep
dst start rep
same "$(id rep :12301)" "$(attr rep "$(copy rep $L0)/replaces")" "replaces, after a start"
done_with rep 2
healthy rep
equal $L0 $L1

echo "- a dead server is replaced"
dst add rep localhost:12301
wait_until 60 healthy rep
server_kill 12301
dd if=/dev/urandom of=$disk bs=4k count=1 oflag=direct status=none
wait_until 30 role_is rep :12301 missing
dst remove rep $L0
dst replace rep localhost:12301 $L0
done_with rep 2
healthy rep
equal $L0 $L1

echo "- the head crashes half-way"
server_again 12301
dst add rep localhost:12301 --force
dst remove rep $L0
wait_until 60 healthy rep
dst remove rep $L1
# The oracle begins anew, on zeroes.
blkdiscard --zeroout --force --quiet $disk
dst set rep heal-min=0 heal-max=64K
# What was left on it when it was cancelled is another node's.
dst replace rep localhost:12301 localhost:12302 --force
load_begin $disk "$log.2" --area 256:512 --rate 100
load_goes_on "$log.2"
server_kill 12301 STOP
server_kill 12302 STOP
crash=$(acked_so_far "$log.2")
cp "$TMP/one" "$TMP/one.crash"
cp "$TMP/two" "$TMP/two.crash"
cp "$log.2" "$TMP/log.crash"
server_kill 12301 CONT
server_kill 12302 CONT
load_end "$log.2"
((crash > 0)) || fail "no write was acknowledged"
delete rep
dst assemble rep "$(loop "$TMP/one.crash")" "$(loop "$TMP/two.crash")"
done_with rep 1
healthy rep
oracle check "$TMP/log.crash" --acked --settle disk=$disk "$TMP/two.crash"
equal "$TMP/two.crash"
delete rep
losetup -D

replace_end
