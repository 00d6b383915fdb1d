#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A node of a linear storage with superblocks takes the place of another one while it is used: dst replace. What is found
# after a crash at any moment, what fails on the way, and what is refused afterwards.
# Timeout: 600
. "$TESTS/lib.sh"
. "$TESTS/replace.sh"

replace_begin
disk=/dev/dst-lin
data=14336 # sectors of a node's 16384: two blocks less, whole MiB
tail=$((sectors - 16))
B=/dev/mapper/b C=/dev/mapper/c
declare -A below=([l0]=/dev/vdb [l1]=/dev/vdc [b]=/dev/vdd [c]=/dev/vde [two]=$TMP/two)
dmsetup create b --table "0 $sectors linear /dev/vdd 0"
dmsetup create c --table "0 $sectors linear /dev/vde 0"
blank $B $C
for name in one two; do image $name $sectors >/dev/null; done
server nbdkit 12301 "$TMP/one"
server nbdkit 12302 "$TMP/two"
one=localhost:12301 two=localhost:12302

# retable NAME : a disk becomes what stdin says, while it is used.
retable() {
	dmsetup load "$1"
	dmsetup suspend --noflush "$1"
	dmsetup resume "$1"
}
# Superblocks can't be written there; and they can.
bad_tail() { printf '%s\n' "0 $tail linear ${below[$1]} 0" "$tail 16 error" | retable "$1"; }
good_tail() { echo "0 $sectors linear ${below[$1]} 0" | retable "$1"; }
# fill : all but where the load goes, which is on both sides of the cut between the first nodes.
fill() {
	dd if=/dev/urandom of=$disk bs=1M count=6 oflag=direct status=none
	dd if=/dev/urandom of=$disk bs=1M seek=10 count=11 oflag=direct status=none
}
begin() { load_begin $disk "$log" --area 1792:512 --rate 200; }
slow() { dst set lin heal-min=0 heal-max=64K; }
# cancel_over NAME : cancelled while superblocks can't be written there; meanwhile they can again. (Only then it is certain
# that the end does not come first.)
cancel_over() {
	local pid
	dst replace lin $L0 --cancel &
	pid=$!
	sleep 1
	good_tail "$1"
	wait $pid
	has_nodes lin 3
}
# holds NODE AT : the node has what the storage has from there on.
holds() {
	fresh $disk "$1"
	cmp --bytes $((data * 512)) --ignore-initial $(($2 * 512)):0 $disk "$1" || fail "$1 differs from the storage at sector $2"
}
# said PATTERN : the kernel has, since `forget`.
forget() { dmesg --clear; }
said() { dmesg | grep -qE -- "$1"; }
# has_superblock NODE
has_superblock() {
	fresh "$1"
	dd if="$1" bs=512 skip=$tail count=16 status=none | grep -qa DSTSUPER
}
down() { delete lin; }
# ticks : what the replacement's thread has run.
ticks() { awk '{ print $14 + $15 }' "/proc/$(pgrep -x dst-m-lin)/stat"; }

# moment NAME : what is on all disks now. Meanwhile no write ends on the local ones, so nothing follows from one that is not
# in the copy.
moment() {
	local d
	for d in l0 l1 b c; do dmsetup suspend --noflush --nolockfs "$d"; done
	for d in "${!below[@]}"; do
		fresh "${below[$d]}"
		dd if="${below[$d]}" of="$TMP/$1-$d" bs=1M count=8 conv=sparse status=none
	done
	for d in l0 l1 b c; do dmsetup resume "$d"; done
	dd if=$disk of="$TMP/$1-disk" bs=1M status=none
	want=$(sum "$TMP/$1-disk")
}
# crash MOMENT : from now on after_crash and no_crash look at copies of the disks of that moment.
crash() {
	local d
	for d in "${!below[@]}"; do cp --sparse=always "$TMP/$1-$d" "$TMP/crash-$d"; done
}
attach() {
	local d
	loops=()
	for d; do loops+=("$(loop "$TMP/crash-$d")"); done
}
detach() { losetup -d "${loops[@]}"; }
# after_crash DISK... : they are the whole storage.
after_crash() {
	attach "$@"
	dst assemble crash "${loops[@]}"
	same "$want" "$(sum /dev/dst-crash)" "what is on the storage of $*"
	delete crash
	detach
}
# no_crash PATTERN DISK... : they are refused.
no_crash() {
	local pattern=$1
	shift
	attach "$@"
	refuse "$pattern" dst assemble crash "${loops[@]}"
	detach
}

dst create lin $L0 $B $C --start-array
uuid=$(attr lin uuid)
fill

echo "- what can't take a place"
dst create other --alg alg_mirror $L1 --start-array
delete other
refuse "is a node of storage 'other'.*--force" dst replace lin $L0 $L1
refuse 'has [0-9]+ sectors.*as large' dst replace lin $L0 "$(loop "$(image small $((data - 8)))")"
refuse 'room for [0-9]+ sectors of data, not 14336; the rest is for superblocks' dst replace lin $L0 "$(loop "$(image tight $((data + 8)))")"
refuse 'in use' dst replace lin $L0 $B
has_nodes lin 3
in_time 5 dd if=/dev/urandom of=$disk bs=4k count=1 oflag=direct status=none

echo "- local by remote, under load; then the storage is assembled in any order"
cp --sparse=always $L0 "$TMP/l0-before"
begin
dst replace lin $L0 $two
slow
role_is lin :12302 healing
same "$uuid" "$(attr lin uuid)" "uuid meanwhile"
not has_superblock "$TMP/two"
done_with lin 3
load_goes_on "$log"
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds "$TMP/two" 0
has_superblock "$TMP/two"
not has_superblock $L0
same "n-0 n-$data n-$((2 * data))" "$(cd /sys/devices/lin && echo n-*)" "directories"
wait_until 10 told lin replace-start
wait_until 10 told lin replace-done
want=$(sum $disk)
stop lin
dst start lin
same "$uuid" "$(attr lin uuid)" uuid
down
refuse "$L0: there is no superblock" dst assemble lin $L0 $B $C
refuse "$L0: there is no superblock" dst assemble lin $L0 $B $C $two
refuse 'missing: node 0 .*12302' dst assemble lin $C $B
for order in "$two $B $C" "$C $two $B"; do
	# shellcheck disable=SC2086
	dst assemble lin $order
	same "$want" "$(sum $disk)" "what is on the storage"
	same "$uuid" "$(attr lin uuid)" uuid
	down
done
echo "- the old node is put back as it was"
cp "$TMP/l0-before" $L0
fresh $L0
refuse "l0 was removed from storage 'lin' or replaced" dst assemble lin $L0 $B $C
refuse "l0 was removed from storage 'lin' or replaced" dst assemble lin $two $C $B $L0
dst assemble lin $C $B $two

echo "- remote by local, which is taken by force once, and not again at the next start"
begin
refuse "is a node of storage 'lin'" dst replace lin $two $L0
dst replace lin $two $L0 --force
slow
not has_superblock $L0
done_with lin 3
load_goes_on "$log"
dst replace lin $C $one
done_with lin 3
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds $L0 0
holds "$TMP/one" $((2 * data))
not has_superblock $C
stop lin
dst start lin
same "$uuid" "$(attr lin uuid)" uuid
holds $L0 0

echo "- it grows afterwards"
want=$(sum $disk)
stop lin
dst add lin $two
dst start lin
same $((4 * data)) "$(blockdev --getsz $disk)" "size with one more"
same "$want" "$(head -c $((3 * data * 512)) $disk | sha256sum)" "what was there"
dst replace lin $two $C
done_with lin 4
down
dst assemble lin $C $B $one $L0
same "$want" "$(head -c $((3 * data * 512)) $disk | sha256sum)" "what was there"
down

echo "- cancelled, or stopped, half-way"
blank $L0 $L1 $B $C
blank_two() { dd if=/dev/zero of="$TMP/two" bs=1M count=8 conv=notrunc status=none; }
blank_two
rm "$log"
dst create lin $L0 $B $C --start-array
fill
begin
dst replace lin $L0 $two
slow
load_goes_on "$log"
kill -STOP "$(<"$log.pid")"
sleep 1
moment half
kill -CONT "$(<"$log.pid")"
dst replace lin $two --cancel
wait_until 10 told lin replace-cancelled
has_nodes lin 3
load_goes_on "$log"
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
not has_superblock "$TMP/two"
wait_until 20 dst replace lin $B $two
slow
stop lin
same 3 "$(count lin)" "number of nodes"
down
refuse '12302: there is no superblock' dst assemble lin $L0 $two $C
dst assemble lin $L0 $B $C
holds $B $data
crash half
no_crash 'there is no superblock' two b c
want=$(sum "$TMP/half-disk")
after_crash l0 b c

echo "- superblocks can't be written on the first of the other nodes: after a crash either is the storage, whichever is used"
forget
bad_tail b
dst replace lin $L0 $L1 --force
wait_until 30 said 'lin: the superblocks of node 1 .*b.*can.t be written; it is tried again'
begin
load_goes_on "$log"
load_end "$log"
role_is lin l1 healing
moment first
crash first
after_crash l0 b c
no_crash "l1|loop.* (was removed|does not go on)" l1 b c
after_crash b l0 c
crash first
after_crash c b l1
no_crash "was removed from storage" l0 b c
crash first
no_crash "was removed from storage" l0 l1 b c

echo "- cancelled then"
refuse 'nothing is cancelled' dst replace lin $L0 --cancel
cancel_over b
begin
load_goes_on "$log"
load_end "$log"
not has_superblock $L1
moment cancelled
crash cancelled
no_crash 'there is no superblock' l1 b c
cp "$TMP/first-l1" "$TMP/crash-l1"
no_crash 'was removed from storage' l1 b c
after_crash l0 b c

echo "- on the last one: the new node is the one that counts, and the old one again if that is taken back"
forget
bad_tail c
dst replace lin $L0 $L1
wait_until 30 said 'node 2 .*can.t be written; it is tried again'
moment last
crash last
no_crash "was removed from storage" l0 b c
after_crash l1 c b
no_crash "was removed from storage" l0 b c
cancel_over c
moment back
crash back
no_crash 'there is no superblock' l1 b c
after_crash l0 b c
bad_tail c
dst replace lin $L0 $L1
sleep 2
good_tail c
done_with lin 3
holds $L1 0
moment over
crash over
no_crash 'there is no superblock' l0 b c
after_crash b l1 c

echo "- stopped then"
bad_tail c
dst replace lin $L1 $L0
sleep 2
good_tail c
wait_until 20 dst stop lin
same "$(count lin)" 3 "number of nodes"
dst start lin
nodes=$(grep -l . /sys/devices/lin/n-*/type | wc -l)
same 3 "$nodes" "number of nodes"
if has_superblock $L1; then now=$L1 other=$L0; else now=$L0 other=$L1; fi
holds $now 0
not has_superblock $other

echo "- the new node is lost at that moment: what it lacks is not acknowledged before the superblocks say so"
blank_two
forget
bad_tail c
dst replace lin $now $two
wait_until 30 said 'node 2 .*can.t be written; it is tried again'
server_kill 12302
sleep 1
dd if=/dev/urandom of=$disk bs=4k count=1 seek=7 oflag=direct status=none &
pid=$!
# Whoever waits for each other does so asleep.
before=$(ticks)
sleep 3
[[ $(($(ticks) - before)) -lt $(getconf CLK_TCK) ]] || fail "the thread of the replacement is busy while it waits: $(($(ticks) - before)) ticks in 3 s"
kill -0 $pid || fail "a write was acknowledged that the node lacks which may count after a crash"
moment lost
good_tail c
wait_until 20 not kill -0 $pid
wait $pid
moment later
crash later
no_crash 'was removed from storage' two b c
after_crash "${now##*/}" b c
server_again 12302
done_with lin 3
holds "$TMP/two" 0
not has_superblock $now

echo "- the same, and nobody wants to wait"
blank "$now"
forget
bad_tail c
dst replace lin $two $one --force
wait_until 30 said 'node 2 .*can.t be written; it is tried again'
server_kill 12301
sleep 1
dd if=/dev/urandom of=$disk bs=4k count=1 seek=7 oflag=direct status=none 2>"$TMP/dd" &
pid=$!
sleep 2
kill -0 $pid || fail "a write was acknowledged that the node lacks which may count after a crash"
dst fail-now lin
wait_until 20 not kill -0 $pid
if wait $pid; then fail "a write was acknowledged that can be lost"; fi
delete lin
good_tail c
server_again 12301
echo "- superblocks can't be written on the new node"
blank $L0 $L1 $B $C
dst create lin $L0 $B $C --start-array
fill
before=$(sum $disk)
bad_tail l1
refuse "l1 can't be written to" dst replace lin $L0 $L1
good_tail l1
forget
dst replace lin $L0 $L1
slow
bad_tail l1
dst set lin heal-max=0 heal-min=1G
wait_until 30 said 'node 0 .*l1.* can.t be written'
wait_until 20 role_is lin l1 missing
in_time 20 dd if=/dev/zero of=$disk bs=1M count=1 seek=7 oflag=direct status=none
moment bad
crash bad
after_crash l0 b c
good_tail l1
done_with lin 3
holds $L1 0
same "$before" "$(sum $disk)" "what is on the storage"
down
dst assemble lin $C $L1 $B
same "$before" "$(sum $disk)" "what is on the storage"
down

echo "- a storage of one node"
blank $L0 $L1
dst create lin $L0 --start-array
dd if=/dev/urandom of=$disk bs=1M count=7 oflag=direct status=none
before=$(sum $disk)
dst replace lin $L0 $L1
done_with lin 1
down
refuse 'there is no superblock' dst assemble lin $L0
dst assemble lin $L1
same "$before" "$(sum $disk)" "what is on the storage"
down

echo "- the module goes while a node is replaced"
now=$L1 other=$L0
for _ in {1..5}; do
	dst assemble lin $now
	dst replace lin $now $other
	slow
	delete --all
	has_superblock $other || break
	# On a busy machine all may have been copied before that became slow: then the new node is the one that counts.
	other=$now
	if [[ $now == "$L1" ]]; then now=$L0; else now=$L1; fi
done
not has_superblock $other
dst assemble lin $now
same "$before" "$(sum $disk)" "what is on the storage"
down
server_kill 12301
server_kill 12302
wait_until 10 dmsetup remove b
wait_until 10 dmsetup remove c
replace_end
