#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 120
# The command's original form, word for word, and the listing of sysfs.
. "$TESTS/lib.sh"

load
echo "127.0.0.1 kano via" >>/etc/hosts
ln -sf /dev/vdb /dev/sdb
truncate -s $((800 * 512)) "$TMP/kano" "$TMP/via"
server nbdkit 1025 "$TMP/kano"
server qemu 1026 "$TMP/via"

echo "- two servers"
dst -n storage -A alg_linear -f /dev/dst -a kano -p 1025
[[ ! -e /dev/dst-storage ]] || fail "started too early"
dst -n storage -A alg_linear -f /dev/dst -a via -p 1026 -R
test -b /dev/dst-storage
same 1600 "$(blockdev --getsz /dev/dst-storage)" size
here=/sys/devices/storage
same alg_linear "$(cat $here/alg)" alg
same storage "$(cat $here/name)" name
same "sectors (start [size]): 0 [800] | 800 [800]" "$(cat $here/nodes)" nodes
[[ $(stat -c %a $here/remove_all_nodes) == 200 ]] || fail "remove_all_nodes: $(stat -c %a $here/remove_all_nodes)"
same "R: 127.0.0.1:1025" "$(cat $here/n-0/type)" type
same "R: 127.0.0.1:1026" "$(cat $here/n-800/type)" type
for file in size start; do [[ -f $here/n-0/$file && -f $here/n-800/$file ]] || fail "no $file"; done
same "0 800 800 800" "$(cat $here/n-0/start $here/n-0/size $here/n-800/start $here/n-800/size | xargs)" "start and size"
if find $here -maxdepth 2 -type f -perm /0022 | grep .; then fail "files that others may write"; fi
echo one | dd of=/dev/dst-storage bs=512 seek=799 conv=notrunc,sync oflag=direct status=none
echo two | dd of=/dev/dst-storage bs=512 seek=800 conv=notrunc,sync oflag=direct status=none
same one "$(tail -c 512 "$TMP/kano" | tr -d '\0')" "the first server's last sector"
same two "$(head -c 512 "$TMP/via" | tr -d '\0')" "the second server's first sector"
# All nodes can't go from under a running disk.
if echo 1 >$here/remove_all_nodes; then fail "removed all nodes of a running storage"; fi
wait_until 10 dst -n storage -A alg_linear -f /dev/dst -D
[[ ! -e $here && ! -e /dev/dst-storage ]] || fail "something is left"

echo "- a disk and a server"
dst -n storage -A alg_linear -f /dev/dst -d /dev/sdb
dst -n storage -A alg_linear -f /dev/dst -a via -p 1026 -R
same "L: /dev/sdb" "$(cat $here/n-0/type)" type
disk=$(blockdev --getsz /dev/sdb)
same "sectors (start [size]): 0 [$disk] | $disk [800]" "$(cat $here/nodes)" nodes
wait_until 10 dst -n storage -A alg_linear -f /dev/dst -D

echo "- places by hand, removal"
dst -n storage -A alg_linear -f /dev/dst -a kano -p 1025 -s 100 -S 100
dst -n storage -A alg_linear -f /dev/dst -d /dev/sdb -s 0 -S 100
dst -n storage -A alg_linear -f /dev/dst -a via -p 1026 -s 100 -S 50
# Two nodes with one START.
same "R: 127.0.0.1:1025" "$(cat $here/n-100/type)" type
same "R: 127.0.0.1:1026" "$(cat $here/n-100-1/type)" type
refuse 'two nodes claim sector 100' dst -n storage -A alg_linear -f /dev/dst -R
dst -n storage -A alg_linear -f /dev/dst -a via -p 1026 -r
[[ ! -e $here/n-100-1 && -e $here/n-100 ]] || fail "the wrong node was removed"
dst -n storage -A alg_linear -f /dev/dst -a via -p 1026 -s 100 -S 50
dst -n storage -A alg_linear -f /dev/dst -a kano -p 1025 -r
[[ -e $here/n-100-1 && ! -e $here/n-100 ]] || fail "the wrong node was removed"
# The name that is free is used again.
dst -n storage -A alg_linear -f /dev/dst -a kano -p 1025 -s 100 -S 50
same "R: 127.0.0.1:1025" "$(cat $here/n-100/type)" type
dst -n storage -A alg_linear -f /dev/dst -d /dev/sdb -r
[[ ! -e $here/n-0 ]] || fail "the disk is still there"
refuse 'no node|does not have|has no' dst -n storage -A alg_linear -f /dev/dst -d /dev/sdb -r
echo 1 >$here/remove_all_nodes
same "sectors (start [size]): " "$(cat $here/nodes; echo x | tr -d 'x\n')" nodes
if compgen -G "$here/n-*"; then fail "nodes are left"; fi
wait_until 10 dst -n storage -A alg_linear -f /dev/dst -D

echo "- help, and commands that make no sense"
expect '-A <ALG>' dst -h
refuse 'name is missing' dst -A alg_linear -f /dev/dst -D
refuse 'nothing to do' dst -n storage -A alg_linear -f /dev/dst
refuse 'no storage|does not exist|no such|neither' dst -n storage -A alg_linear -f /dev/dst -D
refuse 'alg_nothing' dst -n storage -A alg_nothing -f /dev/dst -d /dev/sdb
refuse '/dev/nothing is missing; the control device of DST is /dev/dst' dst -n storage -A alg_linear -f /dev/nothing -D
rm /dev/sdb
unload
