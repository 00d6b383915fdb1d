#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 900
# Every cut: writes at all alignments of 512 bytes across the boundaries of 2 to 5 nodes, local and remote, of odd sizes.
. "$TESTS/lib.sh"

load

# array NAME KIND:SECTORS... : makes and starts a storage; its nodes in $places, for cuts.py. Kinds: loop, nbdkit, qemu,
# simple (no structured replies).
port=11200
array() {
	local name=$1 node kind sectors start=0 file where nodes=()
	shift
	places=()
	for node; do
		kind=${node%:*} sectors=${node#*:}
		port=$((port + 1))
		file=$(image "$name-$port" "$sectors")
		case $kind in
		loop) where=$(loop "$file") ;;
		simple) server nbdkit $port "$file" --no-sr && where=localhost:$port ;;
		*) server "$kind" $port "$file" && where=localhost:$port ;;
		esac
		nodes+=("$where")
		places+=("$start:$sectors:$file")
		start=$((start + sectors))
	done
	dst create --no-metadata "$name" "${nodes[@]}" --start-array
	same $start "$(blockdev --getsz "/dev/dst-$name")" "size of $name"
}

# behind NAME : what lies on the nodes is what the device shows.
behind() {
	local place
	echo 3 >/proc/sys/vm/drop_caches
	fresh "${places[@]##*:}"
	for place in "${places[@]}"; do cat "${place##*:}"; done | cmp - "/dev/dst-$1"
}

# no_trouble NAME : all of that went without an error and without a new connection.
no_trouble() {
	local node
	for node in "/sys/devices/$1"/n-*; do
		same "0 0 0" "$(cat "$node"/{errors,reconnects,resent} | xargs)" "errors, reconnects, resent of $node"
		wait_until 5 attr_is "$1" "${node##*/}/in_flight" 0
	done
}

arrays=(
	"two loop:1001 nbdkit:1003"
	"three nbdkit:517 qemu:3 loop:777"        # a page on three nodes
	"four qemu:300 loop:1 simple:2 nbdkit:301" # and on four
	"five nbdkit:129 simple:5 qemu:131 loop:7 nbdkit:257"
)
for words in "${arrays[@]}"; do
	# shellcheck disable=SC2086
	array $words
	name=${words%% *}
	python3 "$TESTS/cuts.py" "/dev/dst-$name" "${places[@]}"
	behind "$name"
	no_trouble "$name"
done

echo "- more than one piece at a time"
array mixed loop:5001 nbdkit:5003 qemu:4999 simple:5001
fio --name=mixed --filename=/dev/dst-mixed --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --rwmixwrite=70 \
	--bsrange=512-256k --size=20004s --verify=crc32c --verify_fatal=1 --verify_interval=512 --verify_state_save=0 --randrepeat=1 --group_reporting \
	--output="$TMP/fio" || { cat "$TMP/fio"; fail "fio"; }
grep -q 'err= 0' "$TMP/fio" || { cat "$TMP/fio"; fail "fio"; }
behind mixed
# By the page cache: pages that lie on two nodes, written back in any order.
fio --name=cached --filename=/dev/dst-mixed --ioengine=psync --rw=randwrite --bsrange=512-64k --size=10M --verify=crc32c \
	--verify_fatal=1 --verify_interval=512 --verify_state_save=0 --end_fsync=1 --output="$TMP/fio" || { cat "$TMP/fio"; fail "fio"; }
behind mixed
no_trouble mixed

echo "- discard and zeroes"
# zeroed FIRST SECTORS : of the storage; all else is 0xAA.
zeroed() {
	{
		head -c $(($1 * 512)) "$TMP/full"
		head -c $(($2 * 512)) /dev/zero
		tail -c +$((($1 + $2) * 512 + 1)) "$TMP/full"
	} >"$TMP/want"
	fresh "${places[@]##*:}"
	for place in "${places[@]}"; do cat "${place##*:}"; done | cmp - "$TMP/want" ||
		fail "$3 of $2 sectors from $1 on is wrong at the nodes"
	echo 3 >/proc/sys/vm/drop_caches
	cmp "$TMP/want" /dev/dst-mixed
}
head -c $((20004 * 512)) /dev/zero | tr '\0' '\252' >"$TMP/full"
for range in "4990 20" "5000 1" "5001 1" "0 20004" "4001 11003" "10000 8" "15003 5001"; do
	read -r first sectors <<<"$range"
	dd if="$TMP/full" of=/dev/dst-mixed bs=256k oflag=direct status=none
	blkdiscard --zeroout --offset $((first * 512)) --length $((sectors * 512)) /dev/dst-mixed
	zeroed "$first" "$sectors" write-zeroes
done
[[ $(queue dst-mixed discard_max_bytes) -gt 0 ]] || fail "no discard"
for range in "0 20004" "4096 8192" "5000 8" "15000 4096"; do
	read -r first sectors <<<"$range"
	dd if="$TMP/full" of=/dev/dst-mixed bs=256k oflag=direct status=none
	blkdiscard --offset $((first * 512)) --length $((sectors * 512)) /dev/dst-mixed
	# All of these nodes give zeroes for what was discarded, as far as whole blocks of theirs are concerned; what was
	# not discarded must be as it was.
	fresh "${places[@]##*:}"
	for place in "${places[@]}"; do cat "${place##*:}"; done >"$TMP/got"
	python3 - "$TMP/got" "$first" "$sectors" <<-'END'
		import sys
		data = open(sys.argv[1], "rb").read()
		first, sectors = int(sys.argv[2]) * 512, int(sys.argv[3]) * 512
		assert data[:first].count(0xAA) == first, "discarded before the range"
		rest = data[first + sectors :]
		assert rest.count(0xAA) == len(rest), "discarded behind the range"
		inside = data[first : first + sectors]
		assert inside.count(0) + inside.count(0xAA) == len(inside)
		assert inside.count(0) >= len(inside) - 10 * 4096, f"only {inside.count(0)} of {len(inside)} bytes were discarded"
	END
done
no_trouble mixed
delete --all
unload
