#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# One machine exports a disk; another one reaches it by both versions of IP, and what it writes is there.
# Timeout: 300
set -euo pipefail

mkdir "$TMP/share"
cat >"$TMP/share/common" <<'END'
set -euo pipefail
S=/mnt/share
until_there() { # FILE
	local end=$((SECONDS + 100 * slow))
	until [[ -e $S/$1 ]]; do
		((SECONDS < end)) || { echo "$1 did not come" >&2; exit 1; }
		[[ ! -e $S/failed ]] || exit 1
		sleep 0.2
	done
}
trap 'status=$?; [[ $status -eq 0 ]] || { echo "FAILED: line $LINENO: $BASH_COMMAND" >&2; touch $S/failed; dst status >&2; ip -s addr >&2; }' EXIT
sum() { dd if="$1" bs=1M iflag=direct status=none | sha256sum; }
END
cat >"$TMP/share/first" <<'END'
. /mnt/share/common
modprobe brd rd_nr=2 rd_size=4096
modprobe dst
dst export four /dev/ram0 --listen 0.0.0.0:10809
dst export six /dev/ram1 --listen '[::]:10809'
touch "$S/exported"
until_there written
for i in 0 1; do sum "/dev/ram$i"; done >"$S/there"
# The other machine has left.
end=$((SECONDS + 20 * slow))
until dst status | grep -c ' 0/16 ' | grep -qx 2; do
	((SECONDS < end)) || { echo "a client is left" >&2; exit 1; }
	sleep 0.2
done
dst unexport --all
modprobe -r dst
END
cat >"$TMP/share/second" <<'END'
. /mnt/share/common
modprobe dst
until_there exported
for address in 10.78.0.1 '[fd78::1]'; do
	dst create far "$address:10809" --no-metadata --start-array
	head -c 4M /dev/urandom | dd of=/dev/dst-far bs=1M oflag=direct conv=fsync status=none
	sum /dev/dst-far >>"$S/wrote"
	dst delete far
done
modprobe -r dst
touch "$S/written"
# Not before the first one has seen the end of the connections: packets of a machine that is off are lost.
until_there there
sleep 1
END

slow=1
[[ $KERNEL == stock ]] || slow=5
$VM --listen "$TMP/net" --share "$TMP/share" --timeout $((280 * slow)) -- bash -c "slow=$slow; . /mnt/share/first" >"$TMP/first" 2>&1 &
first=$!
status=0
$VM --connect "$TMP/net" --share "$TMP/share" --timeout $((280 * slow)) -- bash -c "slow=$slow; . /mnt/share/second" || status=$?
wait "$first" || { status=$?; echo "the first machine:"; cat "$TMP/first"; }
[[ $status -eq 0 ]] || exit "$status"
cmp "$TMP/share/wrote" "$TMP/share/there"
