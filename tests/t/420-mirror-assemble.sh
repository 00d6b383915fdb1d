#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Assembly of a mirror: any order; what is stale, foreign, double, half-written, put back or split is told apart, and named.
# Long: debug
# Timeout: 1200
. "$TESTS/lib.sh"
need jq

load
modprobe loop
sectors=49152
data=$(mirror_sectors $sectors)
disk=/dev/dst-asm
A=/dev/loop0 B=/dev/loop1 C=/dev/loop2 D=/dev/loop3
a=$(image a $sectors) b=$(image b $sectors) c=$(image c $sectors) d=$(image d $sectors)
losetup $A "$a"
losetup $B "$b"
losetup $C "$c"
losetup $D "$d"

up() { dst assemble asm "$@"; }
down() { delete asm; }
gone() { [[ ! -e /sys/devices/asm && ! -e $disk ]] || fail "a storage was left behind"; }
# refused PATTERN WORD... : assembly is refused, and leaves nothing.
refused() {
	local pattern=$1
	shift
	refuse "$pattern" dst assemble asm "$@"
	gone
}
all_healthy() { wait_until 60 healthy asm; }
equal() { oracle equal "$data" "$@"; }
# mark TEXT BLOCK : a block of 64 KiB that can be told from others.
mark() {
	head -c 65536 < <(yes "$1") >"$TMP/mark"
	dd if="$TMP/mark" of=$disk bs=64k seek="$2" oflag=direct status=none
}
marked() {
	local found
	read -r found < <(tail -c +$(($2 * 65536 + 1)) "${3:-$disk}")
	same "$1" "$found" "block $2 of ${3:-$disk}"
}
# in_range LOW HIGH VALUE WHAT
in_range() { (($1 <= $3 && $3 <= $2)) || fail "$4: $3, not $1 to $2"; }
healed() { attr asm healed; }
# damage FILE SECTORS-FROM-THE-END : turns some bytes of that sector.
damage() { printf 'damaged' | dd of="$1" bs=1 seek=$((($(stat -c %s "$1") / 512 - $2) * 512 + 100)) conv=notrunc status=none; }

echo "- any order"
dst create asm --alg alg_mirror $A $B $C --start-array
uuid=$(attr asm uuid)
for i in 0 1 2 3; do mark "first$i" $i; done
dd if=/dev/urandom of=$disk bs=1M seek=4 count=4 oflag=direct status=none
sum=$(sha256sum <$disk)
down
for order in "$A $B $C" "$A $C $B" "$B $A $C" "$B $C $A" "$C $A $B" "$C $B $A"; do
	# shellcheck disable=SC2086
	up $order
	healthy asm
	same "$uuid" "$(attr asm uuid)" uuid
	same "$sum" "$(sha256sum <$disk)" data
	same 0 "$(healed)" "sectors copied after a clean stop"
	same alg_mirror "$(attr asm alg)" algorithm
	down
done
equal "$a" "$b" "$c"
# One of them elsewhere.
losetup -d $C
server nbdkit 12201 "$c"
up localhost:12201 $A $B
healthy asm
same "$sum" "$(sha256sum <$disk)" data
down
server_kill 12201
wait_until 10 losetup $C "$c"
# Stopped and started as it is.
up $B $C $A
stop asm
dst start asm
healthy asm
same "$sum" "$(sha256sum <$disk)" data
down

echo "- a copy is missing"
refused 'missing.*loop2.*--degraded' $A $B
refused 'missing.*--degraded' $C
up $B $A --degraded
attr_is asm health degraded
mark second 1
mark second 40
down
# Without the newest, nobody knows; with it, the other one is brought up to date.
up $C $A $B
all_healthy
marked second 1
marked second 40
in_range 256 1024 "$(healed)" "sectors copied after two writes"
down
equal "$a" "$b" "$c"
# It comes while the storage runs.
up $A $B --degraded
mark third 2
dst add asm $C
all_healthy
in_range 128 1024 "$(healed)" "sectors copied after a write"
down
equal "$a" "$b" "$c"
marked third 2 "$c"

echo "- a copy that is half healed"
up $A $B --degraded
dd if=/dev/urandom of=$disk bs=1M seek=8 count=12 oflag=direct status=none
dst set asm heal-min=0 heal-max=1M
dst add asm $C
wait_until 60 bash -c '[[ $(cat /sys/devices/asm/healed) -ge 2048 ]]'
attr_is asm health healing
down
refused 'lacks what was written' $C
refused 'lacks what was written' $C --degraded
up $C $B $A
all_healthy
in_range 10000 $((12 * 2048 + 2048)) "$(healed)" "sectors copied after some were copied before"
down
equal "$a" "$b" "$c"
# The same when the head crashes: what was healed is noted, and not healed once more.
up $A $B --degraded
dd if=/dev/urandom of=$disk bs=1M seek=8 count=12 oflag=direct status=none
# Nothing is active any more.
down
up $A $B --degraded
lacking() { python3 "$TESTS/mirror_log.py" "$c" "$a" "$b"; }
same $((12 * 16)) "$(lacking)" "regions that the log calls stale"
dst set asm heal-min=0 heal-max=1M
dst add asm $C
wait_until 60 bash -c '[[ $(cat /sys/devices/asm/healed) -ge 4096 ]]'
# So that nothing moves while the images are taken.
dst suspend asm $C
noted() { [[ $(lacking) -eq $((12 * 16 - $(healed) / 128)) ]]; }
wait_until 30 noted
for image in a b c; do cp "${!image}" "$TMP/crash-$image"; done
before=$(healed)
dst resume asm $C
down
for image in a b c; do cp "$TMP/crash-$image" "${!image}"; done
up $B $C $A
all_healthy
same $((12 * 2048 - before)) "$(healed)" "sectors copied after a crash amid healing, $before of $((12 * 2048)) had been copied"
down
equal "$a" "$b" "$c"

echo "- foreign, double, resized"
dst create other --alg alg_mirror $D --start-array
delete other
refused "$D is a node of another storage, 'other'" $A $B $C $D
refused "another storage" $A $D
cp "$c" "$d"
refused 'are the same node' $A $B $C $D
refused 'are the same node' $D $C
truncate -s $(((sectors + 2048) * 512)) "$c"
losetup -c $C
refused "$C: there is no superblock" $A $B $C
truncate -s $((sectors * 512)) "$c"
losetup -c $C
dd if=/dev/zero of="$d" bs=1M count=24 conv=notrunc status=none
refused "$D: there is no superblock" $A $B $C $D
refused 'there is no superblock|no node' $D
up $A $B $C
healthy asm
down

echo "- half-written superblocks"
for which in 8 16; do # A, B
	damage "$c" $which
	up $A $B $C
	all_healthy
	down
	equal "$a" "$b" "$c"
done
dd if=/dev/zero of="$b" bs=512 seek=$((sectors - 8)) count=8 conv=notrunc status=none
up $A $B $C
all_healthy
down
damage "$c" 8
damage "$c" 16
refused "$C: .*half-written or damaged" $A $B $C
refused 'missing' $A $B
refuse 'damaged superblock' dst create other --alg alg_mirror $C --start-array
up $A $B --degraded
refuse 'damaged superblock|--force' dst add asm $C
dst add asm $C --force
wait_until 60 role_is asm $C in-sync
down
equal "$a" "$b" "$c"
# The copy that it was before is missing for good.
up $C $A $B
for node in $A $B $C; do wait_until 60 role_is asm "$node" in-sync; done
down

echo "- a split"
blank $A $B
dst create asm --alg alg_mirror $A $B --start-array --force
mark both 0
down
up $A --degraded
mark left 1
down
up $B --degraded
mark right 1
mark right 2
down
refused 'loop[01] and .*loop[01] were written to apart.*--discard' $A $B
refused "were written to apart" $B $A --degraded
# The commands that resolve it are named; the one that is given says what is lost.
refused "'dst assemble asm $A $B --discard $A' or 'dst assemble asm $A $B --discard $B'" $A $B
expect "given up with L: $B: up to 128.0 KiB that were written on it alone" up $A $B --discard $B
same 131072 "$(dst status asm --json | jq '.storages[0].nodes[] | select(.path == "'$B'").given_up.bytes')" "bytes given up"
all_healthy
marked left 1
marked both 0
down
equal "$a" "$b"
refused 'no conflict' $A $B --discard $A
up $B $A
healthy asm
down
# And the other way round.
up $A --degraded
mark left2 3
down
up $B --degraded
mark right2 3
down
refused 'were written to apart' $B $A
refused 'gives up every node|keep the one' $A $B --discard $A --discard $B
up $A $B --discard $A
all_healthy
marked right2 3
down
equal "$a" "$b"

echo "- an old image is put back"
cp "$b" "$TMP/old"
up $A $B
mark new 5
mark new 6
stop asm
dst start asm
mark newer 7
down
cp "$TMP/old" "$b"
# What is on it is not believed anywhere.
printf garbage | dd of="$b" bs=1 seek=$((65536 * 3 + 5000)) conv=notrunc status=none
up $A $B
all_healthy
marked newer 7
down
equal "$a" "$b"
marked newer 7 "$b"
refused 'missing' $B
# Put back, and alone: it can't know. Then it is told apart from the other one, or at least never believed.
cp "$TMP/old" "$b"
up $B --degraded
mark fork 5
down
refused 'were written to apart' $A $B
up $A $B --discard $B
all_healthy
marked new 5
down
equal "$a" "$b"

echo "- stopped without warning"
# The images at one moment, when nothing is under way, but regions are active: as after a crash.
up $A $B
log=$TMP/log
# Regions rest 5 s after the last write; on a busy machine copying may take longer, so it may take some attempts.
for _ in {1..20}; do
	oracle write $disk "$log" --count 100 --readers 0 --area 64:256
	since=$SECONDS
	cp "$a" "$TMP/crash-a"
	cp "$b" "$TMP/crash-b"
	((SECONDS - since >= 4)) || break
done
((SECONDS - since < 4)) || fail "no images could be made of regions that were active"
down
cp "$TMP/crash-a" "$a"
cp "$TMP/crash-b" "$b"
# A write that reached one copy only.
printf torn | dd of="$b" bs=1 seek=$((70 * 4096 + 1000)) conv=notrunc status=none
up $B $A
all_healthy
in_range 128 $((256 * 8)) "$(healed)" "sectors copied after a crash; 16 regions were active"
down
equal "$a" "$b"
oracle check "$log" --acked --atomic "$a" "$b"
# The same while one is missing.
cp "$TMP/crash-a" "$a"
cp "$TMP/crash-b" "$b"
printf torn | dd of="$b" bs=1 seek=$((70 * 4096 + 1000)) conv=notrunc status=none
refused 'missing' $A
up $A --degraded
mark alone 30
down
up $A $B
all_healthy
marked alone 30
down
equal "$a" "$b"
oracle check "$log" --acked --atomic "$a" "$b"

echo "- a superblock that can't be read"
need_module dm_mod dm_flakey
for first in $((sectors - 8)) $((sectors - 16)); do
	{
		echo "0 $first linear $B 0"
		echo "$first 8 flakey $B $first 0 86400 1 error_reads"
		[[ $first -eq $((sectors - 8)) ]] || echo "$((first + 8)) 8 linear $B $((first + 8))"
	} | dmsetup create unreadable
	up $A /dev/mapper/unreadable
	all_healthy
	down
	wait_until 10 dmsetup remove unreadable
done
unload
