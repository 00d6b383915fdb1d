#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A mirror of a local and a remote copy: made, written, stopped, assembled in another order; it goes on without the remote
# copy, and heals it when that is back; copies come and go while it runs. (400 and up are the rest of its tests.)
# Timeout: 180
. "$TESTS/lib.sh"

role_is() { [[ $(attr "$1" "$2/role") == "$3" ]]; }
healthy() { wait_until 60 attr_is "$1" health healthy; }
# What was written to the storage is on a copy.
same_data() {
	fresh "$1"
	cmp -n $((16 << 20)) "$TMP/data" "$1" || fail "$1 differs"
}

load
head -c 16M /dev/urandom >"$TMP/data"
image=$(image one 65536)
server nbdkit 11700 "$image"
dst create m /dev/vdb localhost:11700 --alg alg_mirror --force --start-array
healthy m
uuid=$(attr m uuid)
stop m
dst start m
same "$uuid" "$(attr m uuid)" "uuid: --force counts for the first start only"
healthy m
expect 'in sync' dst status m
role_is m n-0 in-sync
role_is m n-0-1 in-sync
dd if="$TMP/data" of=/dev/dst-m bs=64k oflag=direct conv=fsync status=none
same_data /dev/dst-m
same_data /dev/vdb
same_data "$image"
expect '[1-9]' cat /sys/devices/m/log_writes

echo "- stopped, and assembled in another order"
delete m
refuse "is a node of storage 'm'" dst create x /dev/vdb /dev/vdc --alg alg_mirror --start-array
dst assemble m localhost:11700 /dev/vdb
healthy m
same_data /dev/dst-m

echo "- without the remote copy, and with it again"
server_kill 11700
wait_until 30 role_is m n-0 missing
attr_is m health degraded
head -c 4M /dev/urandom | dd of="$TMP/data" bs=1M seek=4 conv=notrunc status=none
in_time 30 dd if="$TMP/data" of=/dev/dst-m bs=64k count=64 skip=64 seek=64 oflag=direct conv=fsync status=none
same_data /dev/dst-m
server_again 11700
healthy m
role_is m n-0 in-sync
wait_until 10 same_data "$image"
expect '[1-9]' cat /sys/devices/m/healed

echo "- copies come and go"
dst add m /dev/vdc --force
healthy m
same_data /dev/vdc
dst suspend m /dev/vdc
(dd if="$TMP/data" of=/dev/dst-m bs=4k count=1 oflag=direct status=none && touch "$TMP/went") &
sleep 1
[[ ! -e $TMP/went ]] || fail "a write went on beside a suspended copy"
dst resume m /dev/vdc
wait_until 10 test -e "$TMP/went"
wait
dst remove m /dev/vdc
dst remove m localhost:11700
refuse 'last copy' dst remove m /dev/vdb
same_data /dev/dst-m
delete m
# What was removed is erased.
refuse 'no superblock' dst assemble m localhost:11700 /dev/vdb
unload
