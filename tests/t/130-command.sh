#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# The command: the original form word for word, subcommands, what they print, and errors that say what to do.
# Timeout: 240
. "$TESTS/lib.sh"
need nbdkit jq

# Without the module.
refuse "the kernel module is not loaded; load it with 'modprobe dst'" dst status
load
read -ra disks <<<"$DISKS"
sectors=$(blockdev --getsz "${disks[0]}")
nbdkit -p 1025 -P "$TMP/kano.pid" memory 100M
nbdkit -p 1026 -P "$TMP/via.pid" memory 60M
echo '127.0.0.1 kano via' >>/etc/hosts
wait_until 10 dst discover kano:1025
wait_until 10 dst discover kano:1026

# The original form.
O=(dst -n storage -A alg_linear -f /dev/dst)
expect 'no storage and no export' dst status
expect 'node 0 added, R: 127.0.0.1:1025, 100.0 MiB at sector 0' "${O[@]}" -a kano -p 1025
expect "node 1 added, L: ${disks[0]}, .* at sector 204800" "${O[@]}" -d "${disks[0]}"
expect 'started, /dev/dst-storage' "${O[@]}" -a via -p 1026 -R
[[ $(blockdev --getsz /dev/dst-storage) == $((204800 + sectors + 122880)) ]] || fail "size of the storage"
expect 'storage +running +alg_linear' dst status
expect '2 +R: 127.0.0.1:1026 ' dst status storage
[[ $(dst status --json | jq -r '.storages[0].nodes | map(.type) | join(",")') == \
	"R: 127.0.0.1:1025,L: ${disks[0]},R: 127.0.0.1:1026" ]] || fail "types in JSON"
[[ $(dst list) == "storage storage" ]] || fail "list"
dd if=/dev/urandom of=/dev/dst-storage bs=1M count=8 oflag=direct status=none
[[ $(dst stats storage --json | jq '.stats[0].total.written_bytes') == $((8 << 20)) ]] || fail "written bytes"
expect 'all nodes: read' dst stats storage --watch 100ms --count 2
refuse 'stop it first' "${O[@]}" -r -s 0
exec {held}<>/dev/dst-storage
refuse 'in use' dst stop storage
refuse 'in use' "${O[@]}" -D
exec {held}>&-
wait_until 10 dst stop storage
expect "node 1 .* removed" "${O[@]}" -r -d "${disks[0]}"
refuse 'no node holds sectors|hole' "${O[@]}" -R
expect 'at sector 204800' "${O[@]}" -d "${disks[0]}" -s 204800 -S 1024
expect 'removed' "${O[@]}" -r -a via -p 1026
expect 'started' "${O[@]}" -R
[[ $(blockdev --getsz /dev/dst-storage) == 205824 ]] || fail "size after -S"
# blkid of udev may have it open for a moment.
wait_until 10 "${O[@]}" -D
refuse 'neither a storage nor an export' "${O[@]}" -D

# Subcommands, and all or nothing.
refuse "storage 'a' was not created" dst create a "${disks[0]}" /dev/nothing
refuse "storage 'a' was not created" dst create a "${disks[0]}" kano:9 --start-array
[[ -z $(dst list) ]] || fail "something stayed"
dst create --no-metadata a nbd://kano:1025 "${disks[1]}" --timeout 30s --depth 16 --start-array
[[ $(dst status --json | jq '.storages[0].nodes[0] | .timeout_ms, .depth' | xargs) == "30000 16" ]] || fail "settings"
dst set a kano:1025 timeout=wait keepalive=20
[[ $(dst status --json | jq '.storages[0].nodes[0] | .timeout_ms, .keepalive_s' | xargs) == "0 20" ]] || fail "set"
dst fail-now a
wait_until 10 dst stop a
expect 'all nodes removed' dst remove a --all
refuse 'no node' dst start a
dst delete a

# Errors.
refuse 'there is no algorithm "alg_none"; there are alg_linear, alg_mirror' dst create x --alg alg_none
refuse 'no such|does not exist|no block device|there is no' dst add x /dev/nothing
refuse 'losetup' dst add x /etc/passwd
refuse 'refused' dst add x kano:9
refuse "the name 'nobody.invalid' can't be resolved" dst add x nobody.invalid:1025
refuse 'TLS is not supported yet' dst add x nbds://kano
refuse 'only' dst add x "${disks[0]}" --size 1P
refuse 'there is no storage' dst start x
dst create x
refuse 'x' dst create x
dst delete --all
[[ -z $(dst list) ]] || fail "delete --all left something"
refuse 'only root may; use sudo' setpriv --reuid 65534 --clear-groups dst status

# A file of subcommands, there and back.
cat >"$TMP/dst.conf" <<END
create lower ${disks[0]} ${disks[1]} --start-array
create upper /dev/dst-lower kano:1025 --start-array	# a tree
END
dst apply --check "$TMP/dst.conf"
dst apply "$TMP/dst.conf"
refuse "dst.conf:1: can't create storage 'lower'" dst apply "$TMP/dst.conf"
wait_until 10 dst apply --undo "$TMP/dst.conf"
[[ -z $(dst list) ]] || fail "apply --undo left something"
unload
