#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# The mirror: 1 to 4 copies, local and remote; what is written is on all of them, and they are what the metadata leave.
# Long: debug
# Timeout: 1200
. "$TESTS/lib.sh"
need jq

load
netns site
modprobe loop
ram 6 24
port=12000
RAM=$((24 * 2048))
# The slow kernel does as much of each kind in less of it.
part=$((SLOW > 1 ? 4 : 1))

# mirror NAME KIND:SECTORS... : makes and starts a mirror. Where the data of its copies are: $places.
# Kinds: ramN, disk (/dev/vdb), loop, nbdkit, qemu, simple (no structured replies), export (the kernel's, elsewhere).
mirror() {
	local name=$1 node kind sectors file where nodes=() least=
	shift
	places=()
	for node; do
		kind=${node%:*} sectors=${node#*:} file=
		port=$((port + 1))
		case $kind in
		ram* | disk) ;;
		*) file=$(image "$name-$port" "$sectors") ;;
		esac
		case $kind in
		ram*) where=/dev/$kind file=/dev/$kind sectors=$RAM ;;
		disk) where=/dev/vdb file=/dev/vdb sectors=$(blockdev --getsz /dev/vdb) ;;
		loop) where=$(loop "$file") ;;
		simple) server nbdkit $port "$file" --no-sr && where=localhost:$port ;;
		export)
			within site dst export "e$port" "$(loop "$file")" --listen "10.77.1.2:$port"
			where=10.77.1.2:$port/e$port
			;;
		*) server "$kind" $port "$file" && where=localhost:$port ;;
		esac
		nodes+=("$where")
		places+=("$file")
		[[ -n $least && $least -lt $sectors ]] || least=$sectors
	done
	for node in "${nodes[@]}"; do [[ $node != /dev/ram* && $node != /dev/vd* ]] || blank "$node"; done
	dst create "$name" --alg alg_mirror "${nodes[@]}" --start-array
	data=$(mirror_sectors "$least")
	same "$data" "$(blockdev --getsz "/dev/dst-$name")" "size of $name"
	healthy "$name"
}

# all_equal NAME : each copy holds what the disk shows.
all_equal() { oracle equal "$data" "/dev/dst-$1" "${places[@]}"; }

# no_trouble NAME : no copy left, no error, no new connection.
no_trouble() {
	local node
	healthy "$1"
	for node in "/sys/devices/$1"/n-*; do
		same "0 0 0" "$(cat "$node"/{errors,reconnects,resent} | xargs)" "errors, reconnects, resent of $node"
		same in-sync "$(<"$node/role")" "role of $node"
		wait_until 5 attr_is "$1" "${node##*/}/in_flight" 0
	done
}

verify() { # DISK SIZE OPTION...
	fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --rwmixwrite=70 --bsrange=512-64k --size="$2" \
		--verify=crc32c --verify_fatal=1 --verify_interval=512 --verify_state_save=0 --output="$TMP/fio" "${@:3}" ||
		{ cat "$TMP/fio"; fail "fio on $1"; }
}

mirrors=(
	"one ram0:0"
	"two ram0:0 nbdkit:49152"
	"three ram0:0 qemu:40000 loop:49152"
	"four ram0:0 export:45056 simple:49152 ram1:0"
)
for words in "${mirrors[@]}"; do
	echo "- $words"
	# shellcheck disable=SC2086
	mirror $words
	name=${words%% *}
	verify "/dev/dst-$name" $((8 / part))M --offset=1M
	# The page cache writes back in any order.
	verify "/dev/dst-$name" $((4 / part))M --direct=0 --ioengine=psync --rw=randwrite --end_fsync=1
	# At the very end, too.
	dd if=/dev/urandom of="/dev/dst-$name" bs=64k seek=$((data / 128 - 4)) count=4 oflag=direct status=none
	all_equal "$name"
	# Writes that overlap, and reads of them.
	oracle write "/dev/dst-$name" "$TMP/log-$name" --count $((300 / part)) --readers 1 --hot 60 --area 3584:1024
	oracle check "$TMP/log-$name" --acked --atomic disk="/dev/dst-$name" "${places[@]}"
	all_equal "$name"
	for range in "4097 3" "8000 1024" "10240 20000"; do
		read -r first sectors <<<"$range"
		blkdiscard --zeroout --offset $((first * 512)) --length $((sectors * 512)) "/dev/dst-$name"
		same 0 "$(dd if="/dev/dst-$name" iflag=direct,skip_bytes,count_bytes bs=64k skip=$((first * 512)) count=$((sectors * 512)) status=none |
			tr -d '\0' | wc -c)" "bytes after write-zeroes"
		all_equal "$name"
	done
	no_trouble "$name"
	delete "$name"
	dst unexport --all
done

echo "- discard"
# Copies that all give zeroes for what they were told to forget.
mirror trim loop:49152 nbdkit:49152
[[ $(queue dst-trim discard_max_bytes) -gt 0 ]] || fail "no discard"
dd if=/dev/urandom of=/dev/dst-trim bs=1M count=16 oflag=direct status=none
blkdiscard --offset $((2 << 20)) --length $((8 << 20)) /dev/dst-trim
all_equal trim
for node in /sys/devices/trim/n-*; do
	[[ $(counter trim "${node##*/}" requests discard) -gt 0 ]] || fail "$node got no discard"
done
no_trouble trim
delete trim

echo "- flushes"
# Both have a volatile cache: a flush goes to each.
mirror flush disk:0 nbdkit:49152
same "write back" "$(queue dst-flush write_cache)" "cache of the mirror"
for i in 1 2 3; do
	before=$(for n in /sys/devices/flush/n-*; do counter flush "${n##*/}" requests flush; done | xargs)
	dd if=/dev/urandom of=/dev/dst-flush bs=4k count=1 seek=$i oflag=direct conv=fsync status=none
	read -r b0 b1 <<<"$before"
	read -r a0 a1 <<<"$(for n in /sys/devices/flush/n-*; do counter flush "${n##*/}" requests flush; done | xargs)"
	((a0 > b0 && a1 > b1)) || fail "flushes: $before before, $a0 $a1 after"
done
no_trouble flush
delete flush

echo "- the size is that of the smallest copy, without its metadata"
for sizes in "49152 20000" "20001 49152" "30000 30007 30008" "8192 8191"; do
	nodes=()
	for s in $sizes; do nodes+=("loop:$s"); done
	mirror size "${nodes[@]}"
	dd if=/dev/urandom of=/dev/dst-size bs=1M count=$((data / 2048)) oflag=direct status=none
	all_equal size
	delete size
	losetup -D
done
tiny=$(loop "$(image tiny 2048)")
refuse 'at least [0-9]+ are needed' dst create size --alg alg_mirror /dev/ram0 "$tiny" --start-array --force
[[ ! -e /sys/devices/size ]] || fail "a storage was left behind"

echo "- limits"
big=$(loop "$(image big 49152)" -b 4096)
blank /dev/ram0
dst create block --alg alg_mirror /dev/ram0 "$big" --start-array
same 4096 "$(queue dst-block logical_block_size)" "block size"
verify /dev/dst-block 2M --bsrange=4k-64k --verify_interval=4096
oracle equal "$(mirror_sectors 49152)" /dev/ram0 "$TMP/big"
delete block
nodes=() images=()
for i in $(seq 17); do
	images+=("$(image "m$i" 8192)")
	nodes+=("$(loop "$TMP/m$i")")
done
refuse '\b16\b' dst create many --alg alg_mirror "${nodes[@]}" --start-array
[[ ! -e /sys/devices/many ]] || fail "a storage was left behind"
unset 'nodes[16]' 'images[16]'
dst create many --alg alg_mirror "${nodes[@]}" --start-array
dd if=/dev/urandom of=/dev/dst-many bs=64k count=8 oflag=direct status=none
oracle equal "$(mirror_sectors 8192)" "${images[@]}"
delete many
losetup -D

echo "- what is shown"
mirror shown ram0:0 nbdkit:49152
expect 'shown +running +alg_mirror' dst status
expect 'healthy' dst status shown
expect 'in sync' dst status shown
same "running 1" "$(dst status --json | jq -r '.storages[] | select(.name == "shown") | "\(.state) \(.nodes | length - 1)"')" "JSON"
same "healthy" "$(dst status --json | jq -r '.storages[0].health')" "health in JSON"
same "in-sync in-sync" "$(dst status --json | jq -r '.storages[0].nodes | map(.role) | join(" ")')" "roles in JSON"
[[ $(attr shown uuid) =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] || fail "uuid: $(attr shown uuid)"
[[ $(cat /sys/devices/shown/n-*/uuid | sort -u | wc -l) -eq 2 ]] || fail "UUIDs of the nodes"
same "least-pending" "$(attr shown read_policy)" "read policy"
for f in heal_min heal_max healed heal_done heal_left heal_rate stale overlaps log_waits log_writes read_overlaps read_held rescued rewritten; do
	[[ $(attr shown $f) =~ ^[0-9]+$ ]] || fail "$f: $(attr shown $f)"
done
same "0 0" "$(attr shown healed) $(attr shown stale)" "healed, stale of a new mirror"
same "" "$(attr shown heal_seconds_left)" "time left while nothing is healed"
# A new mirror is not copied from end to end, and the log is not written for each write.
dd if=/dev/zero of=/dev/dst-shown bs=4k count=256 oflag=direct status=none
[[ $(attr shown log_writes) -lt 40 ]] || fail "$(attr shown log_writes) writes of the log for 16 regions"
same 0 "$(attr shown healed)" healed

echo "- nodes that are taken"
refuse 'in use' dst create other --alg alg_mirror /dev/ram0 --start-array
delete shown
blank /dev/ram1
refuse "/dev/ram0 is a node of storage 'shown'.*--force" dst create other --alg alg_mirror /dev/ram1 /dev/ram0 --start-array
[[ ! -e /sys/devices/other ]] || fail "a storage was left behind"
dst create other --alg alg_mirror /dev/ram1 /dev/ram0 --start-array --force
healthy other
delete other
# Blank now, and one of another storage.
blank /dev/ram1
refuse "/dev/ram0 is a node of storage 'other'" dst create third --alg alg_mirror /dev/ram1 /dev/ram0 --start-array

echo "- the original form"
blank /dev/ram0 /dev/ram1
server nbdkit 12400 "$(image original 49152)"
O=(dst -n storage -A alg_mirror -f /dev/dst)
"${O[@]}" -d /dev/ram0
"${O[@]}" -d /dev/ram1
"${O[@]}" -a localhost -p 12400 -R
same "$(mirror_sectors 49152)" "$(blockdev --getsz /dev/dst-storage)" "size of the storage"
dd if=/dev/urandom of=/dev/dst-storage bs=64k count=16 oflag=direct status=none
oracle equal "$(mirror_sectors 49152)" /dev/ram0 /dev/ram1 "$TMP/original"
sum=$(head -c 1M /dev/dst-storage | sha256sum)
wait_until 10 "${O[@]}" -D
# The same again, in another order: they are assembled, not made anew.
"${O[@]}" -d /dev/ram1
"${O[@]}" -a localhost -p 12400
"${O[@]}" -d /dev/ram0 -R
same "$sum" "$(head -c 1M /dev/dst-storage | sha256sum)" "data"
healthy storage
wait_until 10 "${O[@]}" -D

echo "- trees"
# A mirror of linears, and a linear of mirrors.
blank /dev/ram{0,1,2,3}
dst create --no-metadata l1 /dev/ram0 /dev/ram1 --start-array
dst create --no-metadata l2 /dev/ram2 /dev/ram3 --start-array
dst export l2 /dev/dst-l2 --listen 127.0.0.1:12500
dst create top --alg alg_mirror /dev/dst-l1 nbd://127.0.0.1:12500/l2 --start-array
same "$(mirror_sectors $((2 * RAM)))" "$(blockdev --getsz /dev/dst-top)" size
verify /dev/dst-top 4M --offset=22M
oracle equal "$(mirror_sectors $((2 * RAM)))" /dev/dst-top /dev/dst-l1
oracle equal $RAM /dev/ram0 /dev/ram2
delete top
dst unexport l2
delete l1
delete l2
blank /dev/ram{0,1,2,3}
dst create m1 --alg alg_mirror /dev/ram0 /dev/ram1 --start-array
dst create m2 --alg alg_mirror /dev/ram2 /dev/ram3 --start-array
dst export m2 /dev/dst-m2 --listen 127.0.0.1:12501
dst create --no-metadata top /dev/dst-m1 nbd://127.0.0.1:12501/m2 --start-array
same $((2 * $(mirror_sectors $RAM))) "$(blockdev --getsz /dev/dst-top)" size
verify /dev/dst-top 4M --offset=$(($(mirror_sectors $RAM) / 2048 - 2))M
oracle equal "$(mirror_sectors $RAM)" /dev/ram0 /dev/ram1
oracle equal "$(mirror_sectors $RAM)" /dev/ram2 /dev/ram3
delete top
dst unexport m2
delete m1
delete m2

echo "- filesystems"
# Both give zeroes for what is discarded; else copies may differ there.
mirror fs loop:820000 qemu:799999
"$TESTS/loop_rounds.sh" fs $((SLOW > 1 ? 1 : 2))
all_equal fs
no_trouble fs
delete fs

echo "- a copy that takes back what it claimed"
# A loop device on tmpfs claims write-zeroes until the first one, as many disks do.
mirror claim loop:49152 qemu:49152
for i in 1 2 3; do
	dd if=/dev/urandom of=/dev/dst-claim bs=1M count=4 oflag=direct status=none
	blkdiscard --zeroout --offset 4096 --length $((i << 20)) /dev/dst-claim
	all_equal claim
done
no_trouble claim
same 0 "$(attr claim left)" "times that a copy left"
delete claim

echo "- a copy is added that can do less"
# The first copy discards, and writes zeroes; the other one has neither command.
mirror less qemu:49152
same "write back" "$(queue dst-less write_cache)" "cache of a mirror"
[[ $(queue dst-less write_zeroes_max_bytes) -gt 0 ]] || fail "no write-zeroes"
"$TESTS/nbdserver.py" --port 12402 --size $((49152 * 512)) --flags flush --file "$(image less 49152)" --log "$TMP/less.log" &
less=$!
wait_until 20 listening 12402
dst add less localhost:12402
wait_until 30 healthy less
places+=("$TMP/less")
dd if=/dev/urandom of=/dev/dst-less bs=1M count=4 oflag=direct,dsync status=none
blkdiscard --zeroout --offset 4096 --length $((2 << 20)) /dev/dst-less
same 0 "$(dd if=/dev/dst-less bs=4k skip=1 count=512 iflag=direct status=none | tr -d '\0' | wc -c)" "bytes after write-zeroes"
all_equal less
# It is told, and keeps what it has: a discard is a hint.
blkdiscard --offset $((8 << 20)) --length $((4 << 20)) /dev/dst-less
no_trouble less
same 0 "$(attr less left)" "times that a copy left"
delete less
kill $less
! grep -Eq 'trim|zeroes' "$TMP/less.log" || fail "$(grep -E 'trim|zeroes' "$TMP/less.log" | head -1): the server can't do that"

echo "- one disk under two names"
server nbdkit 12401 "$(image twice 49152)"
refuse 'same' dst create twice --alg alg_mirror localhost:12401 localhost:12401 --start-array
[[ ! -e /sys/devices/twice ]] || fail "a storage was left behind"
unload
