#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
# Clients that people have, access lists, read-only exports, and the end of an export under load.
. "$TESTS/lib.sh"

need nbd-client nbdcopy nbdinfo qemu-img fio
need_module nbd brd loop
exports=/sys/class/misc/dst/exports

shown() { cat "$exports/$1/$2"; }
more_than() { (($(shown "$1" "$2") > $3)); }
is() { [[ $(shown "$1" "$2") == "$3" ]]; }

available() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	awk '/MemAvailable/ { print $2 }' /proc/meminfo
}

free_before=$(available)
ram 2 64
load

echo "- the kernel's own client, with a file system"
dst export disk /dev/ram0 --listen 127.0.0.1:10809
nbd-client -N disk 127.0.0.1 10809 /dev/nbd0 -C 2
test "$(blockdev --getsize64 /dev/nbd0)" = "$((64 << 20))"
mkfs.ext4 -qF /dev/nbd0
mkdir -p "$TMP/mnt"
mount -o discard /dev/nbd0 "$TMP/mnt"
head -c 20M /dev/urandom >"$TMP/mnt/file"
sync -f "$TMP/mnt/file"
sum=$(sha256sum <"$TMP/mnt/file")
umount "$TMP/mnt"
fio --name=verify --filename=/dev/nbd0 --offset=48M --size=12M --rw=randwrite --bsrange=512-64k --ioengine=libaio --direct=1 \
	--iodepth=32 --verify=crc32c --verify_state_save=0 --output="$TMP/fio" || { cat "$TMP/fio"; fail fio; }
wait_until 10 is disk clients 2
nbd-client -d /dev/nbd0
wait_until 10 is disk clients 0
refuse 'in use' dst export again /dev/ram0 --listen 127.0.0.1:10810
dst unexport disk
mount -o ro /dev/ram0 "$TMP/mnt"
test "$(sha256sum <"$TMP/mnt/file")" = "$sum"
umount "$TMP/mnt"

echo "- QEMU and libnbd, IPv6, a port that is taken"
dst export six /dev/ram0 --listen '[::1]:10809'
refuse 'another port' dst export other /dev/ram1 --listen '[::1]:10809'
dst export other /dev/ram1 --listen 127.0.0.1:10809
head -c 64M /dev/urandom >"$TMP/image"
qemu-img convert -n -f raw -O raw "$TMP/image" 'nbd://[::1]:10809/six'
qemu-img compare -f raw -F raw "$TMP/image" 'nbd://[::1]:10809/six'
nbdcopy 'nbd://[::1]:10809/six' nbd://127.0.0.1/other
fresh /dev/ram1
cmp "$TMP/image" /dev/ram1
nbdcopy --destination-is-zero nbd://127.0.0.1/other "$TMP/image2" --connections=4 --requests=64
cmp "$TMP/image" "$TMP/image2"
rm "$TMP/image" "$TMP/image2"
expect 'export="six"' nbdinfo --list 'nbd://[::1]'
dst unexport six
dst unexport other

echo "- read-only"
dst export ro /dev/ram1 --read-only --listen 127.0.0.1:10809
nbdinfo --is read-only nbd://127.0.0.1/ro
python3 - "$TESTS" <<'END'
import sys
sys.path.insert(0, sys.argv[1])
from rawnbd import *
with Client() as c:
    c.go("ro", True)
    assert c.call(WRITE, 0, 512, 0, bytes(512))[0] == EPERM
    assert c.call(TRIM, 0, 512)[0] == EPERM and c.call(ZERO, 0, 512)[0] == EPERM
    assert c.call(FLUSH)[0] == 0 and len(c.read(0, 512)) == 512
END
dst unexport ro

echo "- access lists"
netns far 1
dst export listed /dev/ram0 --listen 0.0.0.0:10809 --allow 10.77.1.0/24 --allow 127.0.0.2
within far nbdinfo --size nbd://10.77.1.1/listed
refuse . nbdinfo --size nbd://127.0.0.1/listed
nbdinfo --size 'nbd://127.0.0.2/listed' && fail "127.0.0.1 was let in"
is listed refused 2 || is listed refused 1 || fail "refused: $(shown listed refused)"
dst unexport listed
dst export listed /dev/ram0 --listen '[::]:10809' --allow fd77:1::/64
within far nbdinfo --size 'nbd://[fd77:1::1]/listed'
refuse . nbdinfo --size 'nbd://[::1]/listed'
dst unexport listed

echo "- an end under load, with clients that come back, and one behind a cut cable"
for round in 1 2 3; do
	dst export disk /dev/ram0 --listen 0.0.0.0:10809
	within far nbd-client -N disk 10.77.1.1 10809 /dev/nbd$round -timeout 5
	dd if=/dev/nbd$round of=/dev/null bs=64k count=200 iflag=direct status=none &
	(while :; do timeout 5 nbdcopy nbd://127.0.0.1/disk null: || sleep 0.02; done) &>/dev/null &
	load=$!
	python3 -c '
import sys
sys.path.insert(0, sys.argv[1])
from rawnbd import *
c = Client(); c.go("disk", True)
for i in range(1000): c.ask(READ, 0, 65536)
open(sys.argv[2], "w").close()
time.sleep(60)' "$TESTS" "$TMP/deaf$round" &>/dev/null &
	deaf=$!
	wait_until 20 test -e "$TMP/deaf$round"
	wait_until 10 more_than disk accepted 2
	sleep 1
	[[ $round -lt 3 ]] || ip link set v-far down
	start=$SECONDS
	timeout $((20 * SLOW)) dst unexport disk
	((SECONDS - start <= 5 * SLOW)) || fail "unexport took $((SECONDS - start)) s"
	kill $load $deaf
	nbd-client -d /dev/nbd$round || true
	wait || true
done
ip link set v-far up

echo "- an export of a disk that is stuck ends when the disk does what it must"
dmsetup create stuck --table "0 131072 linear /dev/ram0 0"
dst export stuck /dev/mapper/stuck --listen 127.0.0.1:10809
dmsetup suspend --noflush --nolockfs stuck
python3 -c '
import sys
sys.path.insert(0, sys.argv[1])
from rawnbd import *
c = Client(); c.go("stuck")
for i in range(20): c.ask(WRITE, 4096 * i, 4096, 0, bytes(4096))
time.sleep(1)
c.reset()' "$TESTS"
(sleep 2; dmsetup resume stuck) &
start=$SECONDS
dst unexport stuck
((SECONDS - start >= 1 && SECONDS - start < 15 * SLOW)) || fail "unexport took $((SECONDS - start)) s"
wait
dmsetup remove stuck

echo "- everything is given back"
unload
wait_until 10 modprobe -r brd
# Some of it later: by RCU, and by the worker that takes namespaces down.
given_back() {
	local free_after
	free_after=$(available)
	((free_before - free_after < 40000)) || fail "memory: $free_before KiB before, $free_after KiB after"
}
wait_until 20 given_back
check_log
