#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 900
# The development loop: three servers (an export of the kernel and two of user space), each round mkfs, mount, copy a tree, sync, compare, umount; ext4 and XFS in turn.
# ROUNDS says how many (20).
. "$TESTS/lib.sh"

rounds=${ROUNDS:-20}
[[ $KERNEL == stock || -n ${ROUNDS:-} ]] || rounds=4
load
# The boundaries lie within what the filesystems use: the journals, the tree, the last group.
netns site
modprobe loop
disk=$(loop "$(image one 133337)")
within site dst export one "$disk" --listen 10.77.1.2:10809
server qemu 11402 "$(image two 166665)"
server nbdkit 11403 "$(image three 399999)"
dst create loop 10.77.1.2:10809/one localhost:11402 localhost:11403 --start-array
"$TESTS/loop_rounds.sh" loop "$rounds"
for node in /sys/devices/loop/n-*; do
	same "0 0 0" "$(cat "$node"/{errors,reconnects,resent} | xargs)" "errors, reconnects, resent of $node"
	[[ $(counter loop "${node##*/}" bytes write) -gt $((rounds * 100000)) ]] || fail "$node was hardly written to"
done
dst status
delete loop
dst unexport one
unload
