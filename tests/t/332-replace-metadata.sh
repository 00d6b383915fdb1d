#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A node of a linear storage with superblocks takes the place of another one while it is used: dst replace. What is found
# after a crash at any moment, what fails on the way, and what is refused afterwards.
# Timeout: 900
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
slow
dst replace lin $L0 $two
role_is lin :12302 healing
same "$uuid" "$(attr lin uuid)" "uuid meanwhile"
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
slow
dst replace lin $two $L0 --force
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

absent='was to take the place of another node, which is not there'
echo "- cancelled, or stopped, half-way"
blank $L0 $L1 $B $C
blank_two() { dd if=/dev/zero of="$TMP/two" bs=1M count=8 conv=notrunc status=none; }
blank_two
rm "$log"
dst create lin $L0 $B $C --start-array
fill
begin
slow
dst replace lin $L0 $two
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
stop lin
same 4 "$(count lin)" "number of nodes"
same "$(id lin mapper/b)" "$(attr lin "$(copy lin :12302)/replaces")" "whose place it is to take"
dst remove lin $two
dst start lin
down
refuse "12302 $absent" dst assemble lin $L0 $two $C
dst assemble lin $L0 $B $C
holds $B $data
want=$(sum "$TMP/half-disk")
crash half
no_crash "$absent" two b c
# Whoever is named along is copied to from the start; it is the same storage.
after_crash c two l0 b
crash half
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
dst start lin
# It was switched already, or goes on.
done_with lin 3
holds $L0 0
not has_superblock $L1
now=$L0

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
# The end does not come while some of it can't be written to.
printf '%s\n' "0 8192 linear ${below[l1]} 0" "8192 8 error" "8200 $((sectors - 8200)) linear ${below[l1]} 8200" | retable l1
dst replace lin $L0 $L1
wait_until 20 role_is lin l1 missing
bad_tail l1
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
dst assemble lin $L1
slow
dst replace lin $L1 $L0
delete --all
refuse "l0 $absent" dst assemble lin $L0
dst assemble lin $L0 $L1
done_with lin 1
not has_superblock $L1
same "$before" "$(sum $disk)" "what is on the storage"
down

echo "- it goes on where it was when the storage was stopped"
blank $L0 $B $C
blank_two
rm -f "$log"
dst create lin $L0 $B $C --start-array
fill
begin
slow 512K
dst replace lin $L0 $two
# moved SECTORS : so many at least are there.
moved() { local left; left=$(attr lin heal_left) && ((left > 0 && left <= data - $1)); }
# all_again STORAGE : nothing that the new node had is believed. (On a slow machine all may have been copied by now.)
all_again() {
	local all
	all=$(dst status "$1" --json | jq ".storages[0].mirror | if . then .healed + .healing_left else $((data * 512)) end")
	((all > (data - 1024) * 512)) || fail "what it had was believed: only $all bytes are copied"
}
wait_until 30 moved 6000
slow
load_goes_on "$log"
load_end "$log"
left=$(attr lin heal_left)
stop lin
dst start lin
role_is lin :12302 healing
# What was copied last may not have been durable.
again=$(attr lin heal_left)
((again <= left + 512 && again < data - 5000)) || fail "after the start $again sectors are to be copied, before it $left were"
begin
load_goes_on "$log"
load_end "$log"
left=$(attr lin heal_left)
down
# In any order; also if the node is named before the one whose place it is to take.
dst assemble lin $two $C $L0 $B
((again=$(attr lin heal_left), again <= left + 512)) || fail "after assembling $again sectors are to be copied, before it $left were"
same "$(id lin l0)" "$(attr lin "$(copy lin :12302)/replaces")" "whose place it takes"
begin
load_goes_on "$log"
# Nothing of what it had is copied again.
done_with lin 3
(($(attr lin healed) <= left + 1024)) || fail "$(attr lin healed) sectors were copied, and $left were missing"
load_goes_on "$log"
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds "$TMP/two" 0
not has_superblock $L0
same "n-0 n-$data n-$((2 * data))" "$(cd /sys/devices/lin && echo n-*)" "directories"

echo "- what it had does not count when others were used without it"
slow 512K
dst replace lin $B $L0
wait_until 30 moved 6000
slow
down
refuse "l0 $absent" dst assemble lin $two $C $L0
refuse "l0 $absent" dst assemble lin $L0
refuse "l0 is a node of storage 'lin'" dst create new $L0 --start-array
dst assemble lin $two $C $B
dd if=/dev/urandom of=$disk bs=1M seek=8 count=1 oflag=direct status=none
want=$(sum $disk)
down
cp --sparse=never $L0 "$TMP/l0-waits"
dst assemble lin $two $C $B $L0
all_again lin
done_with lin 3
holds $L0 $data
same "$want" "$(sum $disk)" "what is on the storage"
down

echo "- nor after a crash"
dst assemble lin $two $C $L0
slow 512K
dst replace lin $L0 $B
wait_until 30 moved 6000
slow
moment crashed
down
crash crashed
attach two c l0 b
dst assemble crash "${loops[@]}"
all_again crash
done_with crash 3
same "$want" "$(sum /dev/dst-crash)" "what is on the storage"
delete crash
refuse 'no superblock' dst assemble crash "${loops[@]}"
detach
dst assemble lin $two $C $L0 $B
done_with lin 3
down

echo "- its place was another one's meanwhile"
blank $L1
dst assemble lin $two $C $B
dst replace lin $B $L1
done_with lin 3
down
cp "$TMP/l0-waits" $L0
fresh $L0
refuse "l0 was to take the place of a node that storage 'lin' does not have any more" dst assemble lin $two $C $L1 $L0
dst assemble lin $two $C $L1
same "$want" "$(sum $disk)" "what is on the storage"

echo "- somebody changes his mind"
slow
dst replace lin $L1 $L0 --force
stop lin
dst start lin
dst replace lin $L0 --cancel
has_nodes lin 3
not has_superblock $L0
same "$want" "$(sum $disk)" "what is on the storage"
down
server_kill 12301
server_kill 12302
wait_until 10 dmsetup remove b
wait_until 10 dmsetup remove c
replace_end
