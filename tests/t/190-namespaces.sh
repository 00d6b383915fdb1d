#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
# Nodes in other network namespaces, IPv6, namespaces that go; trees of storages by way of exports.
. "$TESTS/lib.sh"

load
ram 4 16
netns far 1
netns other 2

check() { # NAME START:SECTORS:PATH...
	python3 "$TESTS/cuts.py" "/dev/dst-$1" "${@:2}"
}

echo "- IPv4 and IPv6, here and in another namespace"
for i in 0 1 2 3; do truncate -s $((1001 * 512)) "$TMP/f$i"; done
within far nbdkit --port 10809 file "$TMP/f0"
within far nbdkit --port 10810 file "$TMP/f1"
nbdkit --port 11901 --ipaddr ::1 file "$TMP/f2"
nbdkit --port 11902 --ipaddr 127.0.0.1 file "$TMP/f3"
wait_until 10 listening 11901
wait_until 10 listening 11902
wait_until 10 within far ss -Hltn 'sport = :10810' | grep -q . || true
dst create --no-metadata ns 10.77.1.2:10809 '[fd77:1::2]:10810' '[::1]:11901' nbd://127.0.0.1:11902/ --start-array
same "R: 10.77.1.2:10809" "$(attr ns n-0/type)" type
same "R: [fd77:1::2]:10810" "$(attr ns n-1001/type)" type
same "R: [::1]:11901" "$(attr ns n-2002/type)" type
check ns "0:1001:$TMP/f0" "1001:1001:$TMP/f1" "2002:1001:$TMP/f2" "3003:1001:$TMP/f3"

echo "- a namespace goes while it is connected to"
before=$(attr ns n-0/reconnects)
ip netns del far
# The servers keep it alive; with them it dies.
dd if=/dev/dst-ns of=/dev/null bs=512 count=8 iflag=direct status=none
pkill -KILL -f "port 1080[9] file $TMP/f0"
wait_until 20 attr_is ns n-0/state lost
dst set ns timeout=1s
if dd if=/dev/dst-ns of=/dev/null bs=512 count=8 iflag=direct status=none 2>/dev/null; then fail "read from nowhere"; fi
dd if=/dev/dst-ns of=/dev/null bs=512 skip=2002 count=1001 iflag=direct status=none # the others go on
pkill -KILL -f "port 10810 file $TMP/f1"
wait_until 20 not ip link show v-far
wait_until 20 attr_is ns n-1001/state lost
in_time 10 bash -c '. "$TESTS/lib.sh"; delete ns'

echo "- the namespace of who adds the node counts, even when it is gone"
nbdkit --port 11903 file "$TMP/f0"
wait_until 10 listening 11903
# Only from within can 10.77.2.1 be reached by that way; the name of the namespace goes, the connection stays.
within other dst create --no-metadata inside 10.77.2.1:11903 --start-array
[[ -n $(within other ss -Htn state established 'dport = :11903') ]] || fail "not connected from within"
[[ -z $(ss -Htn state established 'dport = :11903') ]] || fail "connected from here"
ip netns del other
dd if=/dev/urandom of=/dev/dst-inside bs=4096 count=100 oflag=direct status=none
ss -K 'sport = :11903' >/dev/null
wait_until 20 attr_is inside n-0/state up
dd if=/dev/dst-inside of="$TMP/back" bs=4096 count=100 iflag=direct status=none
cmp -n 409600 "$TMP/back" "$TMP/f0"
[[ $(attr inside n-0/reconnects) -ge 1 ]] || fail "it was not connected again"
in_time 10 bash -c '. "$TESTS/lib.sh"; delete inside'
# Nothing holds it any more.
wait_until 20 not ip link show v-other

echo "- trees: storages made of exports of storages"
netns site 3
loops=()
for i in 0 1 2 3; do
	truncate -s 0 "$TMP/leaf$i"
	truncate -s $(((500 + i) * 512)) "$TMP/leaf$i"
	modprobe loop
	loops+=("$(loop "$TMP/leaf$i")")
done
within site dst create --no-metadata left "${loops[0]}" "${loops[1]}" --start-array
within site dst export left /dev/dst-left --listen 10.77.3.2:10809
dst create --no-metadata right "${loops[2]}" "${loops[3]}" --start-array
dst export right /dev/dst-right --listen 127.0.0.1:11905
dst create --no-metadata trunk 10.77.3.2:10809/left nbd://127.0.0.1:11905/right --start-array
dst export trunk /dev/dst-trunk --listen '[::1]:11906'
dst create --no-metadata top '[::1]:11906/trunk' /dev/ram0 --start-array
same $((500 + 501 + 502 + 503 + 32768)) "$(blockdev --getsz /dev/dst-top)" "size of the tree"
check top "0:500:$TMP/leaf0" "500:501:$TMP/leaf1" "1001:502:$TMP/leaf2" "1503:503:$TMP/leaf3" 2006:32768:/dev/ram0
expect 'in use' bash -c '! dst delete trunk'
expect 'in use' bash -c '! dst delete left'
fio --name=x --filename=/dev/dst-top --size=2000s --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k \
	--verify=crc32c --verify_fatal=1 --verify_interval=512 --verify_state_save=0 >"$TMP/fio" 2>&1 || { cat "$TMP/fio"; fail "fio"; }
cat "$TMP"/leaf[0-3] | cmp -n $((2006 * 512)) - /dev/dst-top
# A filesystem at the top; a branch that is cut off and comes back.
mkfs.ext4 -q /dev/dst-top
mkdir -p "$TMP/mount"
mount /dev/dst-top "$TMP/mount"
cp -a /etc "$TMP/mount/"
sync -f "$TMP/mount"
dst unexport right
wait_until 20 attr_is trunk n-1001/state lost
cp -a /etc "$TMP/mount/etc2" &
pid=$!
sleep 1
dst export right /dev/dst-right --listen 127.0.0.1:11905
wait_until 20 attr_is trunk n-1001/state up
wait $pid
sync -f "$TMP/mount"
umount "$TMP/mount"
e2fsck -fn /dev/dst-top >"$TMP/fsck" 2>&1 || { cat "$TMP/fsck"; fail "e2fsck"; }
delete top
dst unexport trunk
delete trunk
in_time 10 dst unexport --all
delete left
delete right

echo "- a storage that is made of itself"
dst create --no-metadata self /dev/ram1 --start-array
dst export self /dev/dst-self --listen 127.0.0.1:11907
# Its own export can't become a part of it while it runs; and stopped, its disk is not there to be exported.
refuse 'runs; stop it first' dst add self 127.0.0.1:11907/self
refuse 'in use' dst stop self
# By way of another one: upper is exported under the name that lower has as a node.
dst unexport self
delete self
dst create --no-metadata lower /dev/ram1 --start-array
dst export ring /dev/dst-lower --listen 127.0.0.1:11908
dst create --no-metadata upper 127.0.0.1:11908/ring --start-array
refuse 'in use' dst stop lower
dst unexport ring
dst export ring /dev/dst-upper --listen 127.0.0.1:11908
# Now upper is a node of itself. Whoever asks gets an error or waits, and it can be ended.
timeout $((10 * SLOW)) dd if=/dev/dst-upper of=/dev/null bs=4096 count=1 iflag=direct status=none 2>"$TMP/dd" &
pid=$!
sleep 3
in_time 5 dst status >/dev/null
in_time 5 dst fail-now upper n-0
wait_until 20 not kill -0 $pid
in_time 10 dst unexport ring
in_time 10 bash -c '. "$TESTS/lib.sh"; delete upper; delete lower'
unload
