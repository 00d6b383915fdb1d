# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the tests of `dst replace` share: two local disks, a log of events.

sectors=$((8 * 2048))
log=$TMP/log
L0=/dev/mapper/l0 L1=/dev/mapper/l1

# replace_begin : the module, both disks, which are empty, and somebody who listens.
replace_begin() {
	need jq
	load
	need_module dm_mod
	modprobe loop
	# With a volatile cache, as most disks.
	dmsetup create l0 --table "0 $sectors linear /dev/vdb 0"
	dmsetup create l1 --table "0 $sectors linear /dev/vdc 0"
	blank $L0 $L1
	dst monitor --json >"$TMP/events" 2>"$TMP/monitor" &
	monitor=$!
	wait_until 10 grep -q listening "$TMP/monitor"
}
# replace_end : all of that goes.
replace_end() {
	kill -TERM "$monitor"
	wait_until 10 not kill -0 "$monitor"
	wait_until 10 dmsetup remove l0
	wait_until 10 dmsetup remove l1
	unload
}

# told STORAGE EVENT : it was told at some time.
told() { jq -e --slurp "any(.[]; .storage == \"$1\" and .event == \"$2\")" "$TMP/events" >/dev/null; }
count() { dst status "$1" --json | jq '.storages[0].nodes | length'; }
has_nodes() { [[ $(count "$1") -eq $2 ]]; }
# id STORAGE TYPE : of the node whose type ends like that.
id() { attr "$1" "$(copy "$1" "$2")/id"; }
sum() { fresh "$1"; sha256sum <"$1"; }
# slow [RATE], fast : how the replacement of a node of `lin` goes, the next one, too. (Said afterwards it may be over by then.)
slow() { dst set lin heal-min="${1:-0}" heal-max="${1:-64K}"; }
fast() { dst set lin heal-max=0 heal-min=1G; }
# done_with STORAGE N : the old node is gone, N are left, and none of them takes another one's place. It need not be slow.
done_with() {
	dst set "$1" heal-max=0 heal-min=1G >/dev/null 2>&1 || true
	wait_until 60 has_nodes "$1" "$2"
	wait_until 20 not grep -q . /sys/devices/"$1"/n-*/replaces
}
