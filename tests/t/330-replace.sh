#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A node of a linear storage takes the place of another one while it is used: dst replace.
# Timeout: 300
. "$TESTS/lib.sh"
. "$TESTS/replace.sh"

replace_begin
disk=/dev/dst-lin
for name in one two; do image $name $sectors >/dev/null; done
server nbdkit 12301 "$TMP/one"
server nbdkit 12302 "$TMP/two"
one=localhost:12301 two=localhost:12302
# holds NODE FROM : the node has what the storage has from that sector on.
holds() {
	fresh $disk "$1"
	cmp --bytes $((sectors * 512)) --ignore-initial $(($2 * 512)):0 $disk "$1" || fail "$1 differs from the storage at sector $2"
}
begin() { load_begin $disk "$log" --area 1792:512 --rate 200; }

dst create lin $L0 $one --no-metadata --start-array
# The load goes on both sides of the cut between the nodes.
dd if=/dev/urandom of=$disk bs=1M count=3 oflag=direct status=none
dd if=/dev/urandom of=$disk bs=1M seek=12 count=3 oflag=direct status=none
before=$(sum $disk)

echo "- local by remote"
dst replace lin $L0 $two
done_with lin 2
same "$before" "$(sum $disk)" "what is on the storage"
holds "$TMP/two" 0
begin
load_goes_on "$log"
dst replace lin $two $L0
done_with lin 2
two_was=$(sum "$TMP/two")
load_goes_on "$log"

echo "- remote by local, and the old node is let alone"
dst replace lin $one $L1
done_with lin 2
one_was=$(sum "$TMP/one")
load_goes_on "$log"
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds $L0 0
holds $L1 $sectors
same "$one_was $two_was" "$(sum "$TMP/one") $(sum "$TMP/two")" "the old nodes"
wait_until 10 told lin replace-start
wait_until 10 told lin replace-done
same "n-0 n-$sectors" "$(cd /sys/devices/lin && echo n-*)" "directories"
refuse 'is no mirror: ' dst set lin read-policy=nearest

echo "- what can't take a place"
refuse 'in use' dst replace lin $L0 $L1
refuse 'has [0-9]+ sectors.*as large' dst replace lin $L0 "$(loop "$(image small $((sectors - 8)))")"
refuse 'no such node' dst replace lin 77 $two
refuse 'leave start and size .-s, -S. out|unexpected' dst replace lin $L0 $two --size 1M
has_nodes lin 2

echo "- the new node is lost half-way: what can be done meanwhile"
begin
slow
dst replace lin $L0 $two
wait_until 20 expect 'replacing: .* of .*/s' dst status lin
# While it is away nothing is copied, so the end does not come before all was looked at.
server_kill 12302
load_goes_on "$log" 60
wait_until 20 role_is lin :12302 missing
wait_until 10 told lin replace-interrupted
expect 'takes the place of node [0-9]+ when it is in sync' dst status lin
same "$(id lin l0)" "$(attr lin "$(copy lin :12302)/replaces")" replaces
refuse 'being replaced already' dst replace lin $L1 $one
refuse 'not being replaced|another node' dst replace lin $L1 --cancel
refuse 'runs; stop it first' dst remove lin $two

echo "- both are suspended, as they have one place"
udev_stands
dst suspend lin $two
refuse 'suspended already' dst suspend lin $L0
same "1 1 0" "$(for n in l0 :12302 l1; do attr lin "$(copy lin $n)/suspended"; done | xargs)" suspended
in_time 20 dd if=/dev/urandom of=$disk bs=4k count=8 seek=3000 oflag=direct status=none
dd if=/dev/urandom of=$disk bs=4k count=1 oflag=direct status=none &
pid=$!
sleep 1
kill -0 $pid || fail "a write to a node that is replaced did not wait"
dst resume lin $L0
wait_until 20 not kill -0 $pid
wait $pid
udev_goes
load_goes_on "$log"

echo "- it comes back"
server_again 12302
wait_until 60 role_is lin :12302 healing
# What waits goes to the node that has the place by then.
dst suspend lin $L0
done_with lin 2
attr_is lin "$(copy lin :12302)/suspended" 1
dst resume lin $two
load_goes_on "$log"

echo "- cancelled half-way, and with the new node lost"
slow
dst replace lin $two $L0
dst replace lin $two --cancel
has_nodes lin 2
wait_until 10 told lin replace-cancelled
load_goes_on "$log"
slow
wait_until 20 dst replace lin $L1 $one
server_kill 12301
in_time 20 dst replace lin $one --cancel
has_nodes lin 2
load_goes_on "$log"
server_again 12301
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds "$TMP/two" 0
holds $L1 $sectors

echo "- stopped half-way"
slow
dst replace lin $two $L0
stop lin
same 2 "$(count lin)" "number of nodes"
dst start lin
holds "$TMP/two" 0

echo "- what a crash half-way would leave: the old node has all"
begin
slow
dst replace lin $two $L0
load_goes_on "$log"
kill -STOP "$(<"$log.pid")"
sleep 1
role_is lin l0 healing
fresh $L1
cat "$TMP/two" $L1 >"$TMP/crash"
cp "$log" "$TMP/crash.log"
kill -CONT "$(<"$log.pid")"

echo "- the old node is lost half-way"
server_kill 12302
sleep 1
in_time 20 dst replace lin $two --cancel
server_again 12302
load_goes_on "$log"
oracle check "$TMP/crash.log" --acked "disk=$TMP/crash"
rm "$TMP/crash" "$TMP/crash.log"
wait_until 30 dst replace lin $two $L0
done_with lin 2
load_goes_on "$log"
load_end "$log"
oracle check "$log" --acked --settle disk=$disk
holds $L0 0

echo "- a filesystem"
mkfs.ext4 -q -F $disk
mkdir "$TMP/mount"
mount $disk "$TMP/mount"
cp -a /usr/lib/python3.13/email "$TMP/mount/1" &
pid=$!
dst replace lin $L0 $two
wait $pid
sync -f "$TMP/mount"
done_with lin 2
diff -r /usr/lib/python3.13/email "$TMP/mount/1"
umount "$TMP/mount"
e2fsck -fn $disk >"$TMP/fsck" 2>&1 || { cat "$TMP/fsck"; fail "e2fsck"; }

echo "- deleted with dead nodes"
for dead in 12301 12302; do
	slow
	dst replace lin $two $one
	dd if=/dev/urandom of=$disk bs=64k count=32 status=none &
	pid=$!
	sleep 0.5
	server_kill $dead
	sleep 1
	dst fail-now lin || true
	wait $pid || true
	wait_until 40 in_time 40 dst delete lin
	wait_until 10 not test -e /sys/devices/lin
	server_again $dead
	dst create lin $two $L1 --no-metadata --start-array
done
delete lin
replace_end
