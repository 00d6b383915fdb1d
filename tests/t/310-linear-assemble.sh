#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Superblocks of linear storages: assembled in any order, from disks and servers; what is stale, foreign, double,
# half-written, resized or missing is refused, and named. Without metadata, and by the original form, nodes stay whole.
# Timeout: 300
. "$TESTS/lib.sh"

load
modprobe loop
sectors=16384
data=14336 # two blocks less, whole MiB
A=/dev/loop0 B=/dev/loop1 C=/dev/loop2 D=/dev/loop3
a=$(image a $sectors) b=$(image b $((2 * sectors))) c=$(image c $sectors) d=$(image d $sectors)
losetup $A "$a"
losetup $B "$b"
losetup $C "$c"
losetup $D "$d"
R=localhost:12310 # what C is, by a server

gone() { [[ ! -e /sys/devices/lin && ! -e /dev/dst-lin ]] || fail "a storage was left behind"; }
up() { dst assemble lin "$@"; }
down() { delete lin; }
refused() { # PATTERN NODE...
	local pattern=$1
	shift
	refuse "$pattern" up "$@"
	gone
}
same_data() { cmp -n "$(stat -c %s "$TMP/data")" "$TMP/data" /dev/dst-lin || fail "the data differ"; }
remember() { cp --sparse=never "$a" "$TMP/a-$1"; cp "$b" "$TMP/b-$1"; cp "$c" "$TMP/c-$1"; }
recall() { # MOMENT FILE...
	local file moment=$1
	shift
	for file; do cp "$TMP/$file-$moment" "$TMP/$file"; done
}

echo "- made, written, assembled in any order"
dst create lin $A $B $C --start-array
size=$((data + 30720 + data))
same "sectors (start [size]): 0 [$data] | $data [30720] | $((data + 30720)) [$data]" "$(attr lin nodes)" nodes
same $size "$(blockdev --getsz /dev/dst-lin)" size
uuid=$(attr lin uuid)
head -c $((size * 512)) /dev/urandom >"$TMP/data"
dd if="$TMP/data" of=/dev/dst-lin bs=1M oflag=direct conv=fsync status=none
same_data
fresh $A
cmp -n $((data * 512)) "$TMP/data" $A
"$TESTS/cuts.py" /dev/dst-lin "0:$data:$A" "$data:30720:$B" "$((data + 30720)):$data:$C"
dd if="$TMP/data" of=/dev/dst-lin bs=1M oflag=direct conv=fsync status=none
down
for order in "$A $B $C" "$C $A $B" "$C $B $A" "$B $C $A"; do
	# shellcheck disable=SC2086
	up $order
	same alg_linear "$(attr lin alg)" algorithm
	same "$uuid" "$(attr lin uuid)" uuid
	same $size "$(blockdev --getsz /dev/dst-lin)" size
	same_data
	down
done
expect 'started' up "$C" "$A" "$B"
stop lin
dst start lin
same_data
down

echo "- one of them by a server"
losetup -d $C
server nbdkit 12310 "$c"
up $R $B $A
same "sectors (start [size]): $((data + 30720)) [$data] | $data [30720] | 0 [$data]" "$(attr lin nodes)" nodes
same_data
down
server_kill 12310
wait_until 10 losetup $C "$c"

echo "- missing, foreign, double, resized, blank"
refused 'missing: node 2 .*loop2.*needs all of its nodes' $A $B
refused 'missing: node 0 .*and node 2' $B
refuse 'needs all of its nodes' up $A $B --degraded
gone
dst create other $D --start-array
delete other
refused "$D is a node of another storage, 'other'" $D $B $A $C
dst create other --alg alg_mirror $D --force --start-array
delete other
refused "$D is a node of another storage, 'other'" $D $A $B $C
cp "$c" "$d"
refused 'are the same node' $D $C $A $B
truncate -s $((sectors * 512 + 1048576)) "$c"
losetup -c $C
refused "$C: there is no superblock" $A $B $C
truncate -s $((sectors * 512)) "$c"
losetup -c $C
dd if=/dev/zero of="$d" bs=1M count=8 conv=notrunc status=none
refused "$D: there is no superblock" $D $A $B $C
refused 'there is no superblock' $D
up $B $A $C
same_data
down

echo "- half-written"
damage() { printf 'damaged' | dd of="$1" bs=1 seek=$((($(stat -c %s "$1") / 512 - $2) * 512 + 100)) conv=notrunc status=none; }
for which in 8 16; do
	damage "$c" $which
	up $C $B $A # one of the two is enough, and the other is written anew
	same_data
	down
done
damage "$c" 8
damage "$c" 16
refused "$C: .*half-written or damaged" $A $B $C
refuse 'damaged superblock' dst create other $C --start-array
# Made by a machine that crashed before the last node had its superblock.
remember good
for file in "$a" "$b" "$c"; do dd if=/dev/zero of="$file" bs=1M count=16 conv=notrunc status=none; done
dst create lin $A $B $C --start-array --force
down
dd if=/dev/zero of="$c" bs=512 seek=$((sectors - 16)) count=16 conv=notrunc status=none
refused "$C: there is no superblock" $A $B $C
refused 'missing: node 2' $A $B
refuse "$A is a node of storage 'lin'" dst create lin $A $B $C --start-array
dst create lin $A $B $C --start-array --force
down

echo "- an old image is put back"
up $A $B $C
dd if=/dev/urandom of="$TMP/data" bs=1M count=28 status=none
dd if="$TMP/data" of=/dev/dst-lin bs=1M oflag=direct conv=fsync status=none
remember running
down
remember one
up $A $B $C
printf newer | dd of=/dev/dst-lin bs=512 conv=notrunc,sync oflag=direct status=none
stop lin
remember two
dst start lin
down
for moment in running one two; do
	for file in a b c; do
		remember now
		recall $moment $file
		refused 'put back from a backup' $A $B $C
		refused 'put back from a backup' $C $B $A
		recall now $file
	done
done
up $A $B $C
same newer "$(head -c 5 /dev/dst-lin)" "the newest data"
down
# All of one moment are a storage.
recall one a b c
up $B $A $C
same_data
down
# Starts that are cut off, again and again: the last node has not got what the others have.
need_module dm_mod dm_flakey
echo "0 $sectors flakey $C 0 0 86400 1 error_writes" | dmsetup create bad
for _ in {1..10}; do refused 'bad can.t be written to' $A $B /dev/mapper/bad; done
wait_until 10 dmsetup remove bad
up $C $B $A
same_data
down

echo "- more nodes, and fewer"
up $C $A $B
refuse 'runs; stop it first' dst add lin $D
stop lin
dst add lin $D
dst start lin
same $((size + data)) "$(blockdev --getsz /dev/dst-lin)" "size with one more"
same_data
printf more | dd of=/dev/dst-lin bs=512 seek=$size conv=notrunc,sync oflag=direct status=none
same more "$(head -c 4 "$d")" "data of the new node"
down
refused 'missing: node 3' $A $B $C
up $D $C $B $A
same more "$(dd if=/dev/dst-lin bs=512 skip=$size count=1 status=none | head -c 4)" "data of the new node"
stop lin
dst remove lin $D
refuse 'missing: node 3' dst start lin
dst add lin $D
dst start lin
stop lin
# What was said for the first start does not count for the next one.
dst remove lin $D
dst add lin $D --force
refuse 'missing' dst start lin
down

echo "- places by hand"
dst create lin
dst add lin $B --start 1000s --size 2000s --force
dst add lin $A --start 0 --size 1000s --force
refuse 'only .*the rest is for metadata' dst add lin $C --size ${sectors}s
dst start lin
same 3000 "$(blockdev --getsz /dev/dst-lin)" size
"$TESTS/cuts.py" /dev/dst-lin "0:1000:$A" "1000:2000:$B"
uuid=$(attr lin uuid)
stop lin
dst start lin
same "$uuid" "$(attr lin uuid)" "uuid: --force counts for the first start only"
down
up $A $B
same "sectors (start [size]): 0 [1000] | 1000 [2000]" "$(attr lin nodes)" nodes
down
dst create lin $B $A
refuse "in another order" dst start lin
delete lin
refuse "belongs to|is a node of storage 'lin'|are of the storage lin" dst create x $A $B --start-array

echo "- without metadata, and by the original form"
for file in "$a" "$b"; do dd if=/dev/zero of="$file" bs=1M count=16 conv=notrunc status=none; done
dst create lin $A $B --no-metadata --start-array
same $((3 * sectors)) "$(blockdev --getsz /dev/dst-lin)" "size of whole nodes"
same 00000000-0000-0000-0000-000000000000 "$(attr lin uuid)" "no uuid"
down
same "" "$(tr -d '\0' <"$a")" "what was written on a node"
refused 'there is no superblock' $A $B
dst -n lin -A alg_linear -f /dev/dst -d $A
dst -n lin -A alg_linear -f /dev/dst -d $B -R
same $((3 * sectors)) "$(blockdev --getsz /dev/dst-lin)" "size of whole nodes"
stop lin
refuse 'nothing about lin is on its nodes' dst start lin --degraded
dst -n lin -A alg_linear -f /dev/dst -D
same "" "$(cat "$a" "$b" | tr -d '\0')" "what was written on nodes"
refuse "'--force'" dst create lin --no-metadata --force $A
truncate -s 512K "$d"
losetup -c $D
refuse 'too small for metadata.*--no-metadata' dst create lin $D
dst create lin --no-metadata $D --start-array
delete lin
unload
