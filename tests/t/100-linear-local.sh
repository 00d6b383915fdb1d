#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
# Linear storages: places, sizes, block sizes, limits. Local disks, and servers where they differ.
. "$TESTS/lib.sh"

ram 4 16 # 32768 sectors each
load

echo "- nodes in the order of adding"
dst create --no-metadata a /dev/ram0 /dev/ram1
same "sectors (start [size]): 0 [32768] | 32768 [32768]" "$(attr a nodes)" nodes
same stopped "$(attr a state)" state
[[ ! -e /dev/dst-a ]] || fail "a disk before the start"
dst start a
same running "$(attr a state)" state
same 65536 "$(blockdev --getsz /dev/dst-a)" size
refuse 'runs; stop it first' dst add a /dev/ram2
refuse 'runs; stop it first' dst remove a /dev/ram0
refuse 'stop it first|runs' dst start a
stop a
wait_until 10 test ! -e /dev/dst-a
refuse 'does not run' dst stop a
dst start a
delete a
wait_until 10 test ! -e /sys/devices/a

echo "- the order of adding is the order of the data"
dst create --no-metadata a /dev/ram2 --start-array
stop a
dst add a /dev/ram0
dst start a
printf second | dd of=/dev/dst-a bs=512 seek=32768 conv=notrunc,sync oflag=direct status=none
same second "$(head -c 6 /dev/ram0)" "the second node's first bytes"
delete a

echo "- places by hand"
dst create --no-metadata b
dst add b /dev/ram1 --start 1000s --size 24s
dst add b /dev/ram0 --start 0 --size 1000s
dst add b /dev/ram2 --size 3s # behind the node added last: 1000
dst remove b n-1000-1 2>/dev/null || dst remove b /dev/ram2
dst add b /dev/ram2 --start 1024s --size 3s
dst start b
same 1027 "$(blockdev --getsz /dev/dst-b)" size
same "sectors (start [size]): 1000 [24] | 0 [1000] | 1024 [3]" "$(attr b nodes)" nodes
delete b

echo "- holes and overlaps"
dst create --no-metadata c
refuse 'the storage has no node; add one first' dst start c
dst add c /dev/ram0 --start 0 --size 1000s
dst add c /dev/ram1 --start 2000s --size 1000s
refuse 'no node holds sectors 1000 to 1999; add one there' dst start c
dst add c /dev/ram2 --start 1000s --size 1001s
refuse 'two nodes claim sector 2000; change --start .-s. or --size .-S. of one of them' dst start c
dst remove c /dev/ram2
dst add c /dev/ram2 --start 1000s --size 999s
refuse 'no node holds sectors 1999 to 1999' dst start c
dst remove c /dev/ram2
dst add c /dev/ram2 --start 1000s --size 1000s
dst start c
delete c
dst create --no-metadata c
dst add c /dev/ram0 --start 8s --size 8s
refuse 'no node holds sectors 0 to 7' dst start c
delete c

echo "- more than there is"
dst create --no-metadata d
refuse 'only 32768 sectors, not 32769' dst add d /dev/ram0 --size 32769s
refuse 'at least one sector' dst add d /dev/ram0 --size 0
dst add d /dev/ram0 --size 32768s
refuse 'in use' dst add d /dev/ram0
refuse 'beyond the largest' dst add d /dev/ram1 --start 18446744073709551000s
dst add d /dev/ram1 --start 18014398509481983s --size 8s
refuse 'no node holds sectors 32768 to' dst start d
# Its end can be counted, but not in the bytes of a disk.
refuse 'beyond the largest' dst add d /dev/ram1 --start 36028797018963968s --size 8s
delete d

echo "- disks that can't be nodes"
dst create --no-metadata e
refuse 'no such block device' dst add e /dev/nothing
refuse 'no block device' dst add e /etc/passwd
refuse 'no block device|no such block device' dst add e /dev/null
mkfs.ext4 -q /dev/ram3
mkdir "$TMP/mount"
mount /dev/ram3 "$TMP/mount"
refuse 'in use' dst add e /dev/ram3
umount "$TMP/mount"
blockdev --setro /dev/ram3
refuse 'read-only' dst add e /dev/ram3
blockdev --setrw /dev/ram3
dst add e /dev/ram3
refuse 'busy|already mounted|open blockdev' mount /dev/ram3 "$TMP/mount"
refuse 'there is a storage e already' dst create e
delete e
mount /dev/ram3 "$TMP/mount" # let go of
umount "$TMP/mount"

echo "- block sizes"
odd=$(loop "$(image odd 1003)")
big=$(loop "$(image big 8008)" --sector-size 4096)
middle=$(loop "$(image middle 8004)" --sector-size 2048)
dst create --no-metadata f "$odd" "$middle"
refuse 'not aligned to the blocks of 2048 bytes' dst start f
dst remove f --all
dst add f "$odd" --size 1000s
dst add f "$middle"
dst start f
same 2048 "$(queue dst-f logical_block_size)" "block size"
same 9004 "$(blockdev --getsz /dev/dst-f)" size
delete f
dst create --no-metadata f "$odd" # alone, the last odd sectors count
dst start f
same 512 "$(queue dst-f logical_block_size)" "block size"
same 1003 "$(blockdev --getsz /dev/dst-f)" size
delete f
# With a block size chosen before, nodes are cut to it.
dst create --no-metadata f --block-size 4096 "$odd" "$big"
same "sectors (start [size]): 0 [1000] | 1000 [8008]" "$(attr f nodes)" nodes
dst start f
same 4096 "$(queue dst-f logical_block_size)" "block size"
"$TESTS/cuts.py" --block 4096 /dev/dst-f "0:1000:$odd" "1000:8008:$big"
refuse 'Invalid argument' dd if=/dev/zero of=/dev/dst-f bs=512 count=1 oflag=direct
delete f
dst create --no-metadata f --block-size 512 "$big"
refuse 'blocks of 4096 bytes; the storage can.t have 512' dst start f
delete f
refuse '512, 1024, 2048|power of two' dst create f --block-size 1000
refuse '512, 1024, 2048|power of two' dst create f --block-size 8192
modprobe scsi_debug sector_size=4096 dev_size_mb=16 delay=0
wait_until 10 compgen -G '/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/sd*' >/dev/null
scsi=$(compgen -G '/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/sd*')
scsi=/dev/${scsi##*/}
wait_until 10 test -b "$scsi"
modprobe null_blk nr_devices=1 gb=1 bs=1024 memory_backed=1
for block in 512 1024 2048 4096; do
	nbdkit --port $((11000 + block)) --filter=blocksize-policy memory 8M blocksize-minimum=$block \
		blocksize-preferred=4096 blocksize-maximum=32M blocksize-error-policy=error
	wait_until 10 listening $((11000 + block))
	dst create --no-metadata g "localhost:$((11000 + block))" --start-array
	same $block "$(queue dst-g logical_block_size)" "block size of a server"
	dd if=/dev/urandom of="$TMP/random" bs=4096 count=50 status=none
	dd if="$TMP/random" of=/dev/dst-g bs=$block seek=3 oflag=direct status=none
	dd if=/dev/dst-g of="$TMP/back" bs=$block skip=3 count=$((204800 / block)) iflag=direct status=none
	cmp "$TMP/random" "$TMP/back"
	delete g
done
dst create --no-metadata g /dev/ram0 /dev/nullb0 "$scsi" localhost:11512 localhost:13048 --start-array
same 4096 "$(queue dst-g logical_block_size)" "the largest block size"
size=$(blockdev --getsz /dev/nullb0)
"$TESTS/cuts.py" --block 4096 /dev/dst-g "0:32768:/dev/ram0" "32768:$size:/dev/nullb0" "$((32768 + size)):32768:$scsi"
delete g
wait_until 10 modprobe -r scsi_debug null_blk

echo "- beyond 2 TiB, and beyond 32 bits of everything"
huge=$((3 << 31)) # sectors of 3 TiB
first=$(loop "$(image huge1 $huge)")
server nbdkit 11003 "$(image huge2 $((huge + 1)))"
third=$(image huge3 $((huge + 8)))
server qemu 11004 "$third"
dst create --no-metadata h "$first" localhost:11003 localhost:11004 --start-array
same $((3 * huge + 9)) "$(blockdev --getsz /dev/dst-h)" size
same "sectors (start [size]): 0 [$huge] | $huge [$((huge + 1))] | $((2 * huge + 1)) [$((huge + 8))]" "$(attr h nodes)" nodes
"$TESTS/cuts.py" /dev/dst-h "0:$huge:$TMP/huge1" "$huge:$((huge + 1)):$TMP/huge2" "$((2 * huge + 1)):$((huge + 8)):$third"
# The last sector of each; a sector that is the same in 32 bits must stay empty.
for at in $((huge - 1)) $((2 * huge)) $((3 * huge + 8)) $((1 << 32)) $(((1 << 32) + 77)); do
	echo "sector $at" | dd of=/dev/dst-h bs=512 seek=$at conv=notrunc,sync oflag=direct status=none
done
same "sector $((3 * huge + 8))" "$(tail -c 512 "$third" | tr -d '\0')" "the last sector"
same "sector $((1 << 32))" "$(dd if="$TMP/huge1" bs=512 skip=$((1 << 32)) count=1 status=none | tr -d '\0')" "sector 2^32"
same "" "$(dd if="$TMP/huge1" bs=512 count=100 status=none | tr -d '\0')" "the beginning"
refuse 'No space left|Invalid' dd if=/dev/zero of=/dev/dst-h bs=512 seek=$((3 * huge + 9)) count=1 oflag=direct
delete h

echo "- limits are those that all nodes have"
modprobe null_blk nr_devices=2 gb=1 memory_backed=1 discard=1 cache_size=1
dst create --no-metadata i /dev/nullb0 --start-array
same 1 "$(queue dst-i stable_writes)" "stable writes"
[[ $(queue dst-i discard_max_bytes) -gt 0 ]] || fail "a disk that discards: the storage doesn't"
same "write back" "$(queue dst-i write_cache)" "cache of a disk that has one"
same 1 "$(queue dst-i fua)" "FUA is emulated"
stop i
no_discard=$(loop "$(image plain 2048)")
wait_until 10 modprobe -r scsi_debug
modprobe scsi_debug dev_size_mb=8 delay=0 lbpu=0 lbpws=0 lbpws10=0
wait_until 10 compgen -G '/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/sd*' >/dev/null
scsi=$(compgen -G '/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/sd*')
wait_until 10 test -b "/dev/${scsi##*/}"
same 0 "$(cat "$scsi/queue/discard_max_bytes")" "the disk that can't discard"
dst add i "/dev/${scsi##*/}"
dst start i
same 0 "$(queue dst-i discard_max_bytes)" "one node can't discard"
refuse 'not supported' blkdiscard /dev/dst-i
delete i
dst create --no-metadata i "$no_discard" /dev/ram0 --start-array
for limit in discard_max_bytes write_zeroes_max_bytes; do
	want=1
	for disk in "${no_discard##*/}" ram0; do [[ $(queue "$disk" $limit) -gt 0 ]] || want=0; done
	got=$(queue dst-i $limit)
	same $want $((got > 0)) "$limit ($got)"
done
delete i
wait_until 10 modprobe -r scsi_debug

# The same of servers.
limits_of() { # PORT FLAGS CACHE FUA DISCARD ZEROES
	python3 "$TESTS/nbdserver.py" --port "$1" --size 1048576 --flags "$2" --ready "$TMP/ready-$1" &
	wait_until 20 test -e "$TMP/ready-$1"
	dst create --no-metadata j "localhost:$1" --start-array
	same "$3" "$(queue dst-j write_cache)" "cache of a server with [$2]"
	same "$4" "$(queue dst-j fua)" "FUA of a server with [$2]"
	local max
	max=$(queue dst-j discard_max_bytes)
	same "$5" $((max > 0)) "discard of a server with [$2]"
	max=$(queue dst-j write_zeroes_max_bytes)
	same "$6" $((max > 0)) "zeroes of a server with [$2]"
	same 1 "$(queue dst-j stable_writes)" "stable writes"
	delete j
}
limits_of 11100 flush,fua,trim,zeroes,df "write back" 1 1 1
limits_of 11101 flush "write back" 1 0 0
limits_of 11102 "" "write through" 0 0 0
limits_of 11103 trim "write through" 0 1 0
limits_of 11104 rotational,flush,zeroes "write back" 1 0 1
dst create --no-metadata j localhost:11100 localhost:11104 --start-array
same 1 "$(queue dst-j rotational)" "one node rotates"
same 0 "$(queue dst-j discard_max_bytes)" "one node can't discard"
delete j
python3 "$TESTS/nbdserver.py" --port 11105 --size 1048576 --flags flush,read-only --ready "$TMP/ready-11105" &
wait_until 20 test -e "$TMP/ready-11105"
refuse 'read-only' dst create --no-metadata j localhost:11105
unload
