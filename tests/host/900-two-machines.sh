#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# One machine exports a disk; another one reaches it by both versions of IP, and what it writes is there.
# Timeout: 300
. "$TESTS/host/machines.sh"

cat >"$TMP/share/first" <<'END'
modprobe brd rd_nr=2 rd_size=4096
modprobe dst
dst export four /dev/ram0 --listen 0.0.0.0:10809
dst export six /dev/ram1 --listen '[::]:10809'
touch "$S/exported"
until_there written
for i in 0 1; do dd if="/dev/ram$i" bs=1M iflag=direct status=none | sha256sum; done >"$S/there"
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
modprobe dst
until_there exported
for address in 10.78.0.1 '[fd78::1]'; do
	dst create far "$address:10809" --no-metadata --start-array
	head -c 4M /dev/urandom | dd of=/dev/dst-far bs=1M oflag=direct conv=fsync status=none
	dd if=/dev/dst-far bs=1M iflag=direct status=none | sha256sum >>"$S/wrote"
	dst delete far
done
modprobe -r dst
touch "$S/written"
# Not before the first one has seen the end of the connections: packets of a machine that is off are lost.
until_there there
sleep 1
END

pair 280
cmp "$TMP/share/wrote" "$TMP/share/there"
