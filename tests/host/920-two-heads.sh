#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A second machine takes over the storages, one linear and one mirror, that the first one runs and writes to: the first
# one is fenced and says so, and the second one has all that was acknowledged.
# Long: debug
# Timeout: 600
. "$TESTS/host/machines.sh"

cat >"$TMP/share/common" <<'END'
declare -A half=([lin]=40000 [mir]=20000) # of the linear one, that is on the other node
put() { printf '%-16s' "$3" | dd of="/dev/dst-$1" bs=512 seek="$2" conv=sync,notrunc,fsync oflag=direct status=none; }
get() { dd if="/dev/dst-$1" bs=512 skip="$2" count=1 iflag=direct status=none | head -c 16 | tr -d ' \0'; }
END
cat >"$TMP/share/first" <<'END'
. /mnt/share/common
modprobe dst
modprobe brd rd_nr=4 rd_size=16384
for i in 0 1 2 3; do dst export "e$i" "/dev/ram$i" --listen "0.0.0.0:1090$i"; done
dst create lin 10.78.0.1:10900 10.78.0.1:10901 --start-array
dst create mir 10.78.0.1:10902 10.78.0.1:10903 --alg alg_mirror --start-array
write() { # STORAGE : one sector after the other, on both halves, until that fails
	local i=0
	while put "$1" $((i % 2 * half[$1] + i)) "number $i" 2>/dev/null; do
		echo "$i" >>"$S/acked-$1"
		i=$((i + 1))
	done
	touch "$S/fenced-$1"
}
write lin &
write mir &
until_there fenced-lin fenced-mir
for name in lin mir; do
	[[ $(<"/sys/devices/$name/health") == taken-over ]]
	dst status "$name" | grep -q 'taken over by another machine'
	grep -hq 'another head has taken over this storage (epoch 2)' /sys/devices/$name/n-*/reason
done
dmesg | grep -q 'another head has taken over this storage'
until_there written
for name in lin mir; do
	for i in 0 1 2 $((half[$name] + 1)); do
		if put "$name" "$i" old 2>/dev/null; then echo "a late write was done" >&2; exit 1; fi
	done
	if get "$name" 0 2>/dev/null | grep -q .; then echo "a late read was done" >&2; exit 1; fi
	timeout $((30 * slow)) dst delete "$name"
done
touch $S/late
until_there done
dst unexport --all
modprobe -r dst
END
cat >"$TMP/share/second" <<'END'
. /mnt/share/common
modprobe dst
until_there acked-lin acked-mir
for name in lin mir; do
	until (($(wc -l <$S/acked-$name) >= 40)); do sleep 0.5; done
done
# To be refused disturbs nobody.
if dst assemble lin 10.78.0.1:10901; then exit 1; fi
if dst assemble mir 10.78.0.1:10903; then exit 1; fi
dst discover 10.78.0.1:10900
sleep 1
[[ ! -e $S/fenced-lin && ! -e $S/fenced-mir ]]
dst assemble lin 10.78.0.1:10901 10.78.0.1:10900
dst assemble mir 10.78.0.1:10903 10.78.0.1:10902
until_there fenced-lin fenced-mir
for name in lin mir; do
	count=0
	while read -r i; do
		found=$(get $name $((i % 2 * half[$name] + i)))
		[[ $found == "number$i" ]] || { echo "$name: $i was acknowledged, and is '$found'" >&2; exit 1; }
		count=$((count + 1))
	done <$S/acked-$name
	((count >= 40))
	for i in 0 1 2 $((half[$name] + 1)); do put $name "$i" new; done
done
touch $S/written
until_there late
for name in lin mir; do
	for i in 0 1 2 $((half[$name] + 1)); do [[ $(get $name "$i") == new ]]; done
	timeout $((30 * slow)) dst delete $name
done
touch $S/done
modprobe -r dst
END

pair 580
