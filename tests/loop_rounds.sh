#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# loop_rounds.sh STORAGE ROUNDS [TREE] : on a running storage, each round a filesystem is made (ext4 and XFS in turn),
# a tree is copied to it, synced, and compared with the original after the caches were dropped. Prints a line per round.
set -euo pipefail
name=$1 rounds=$2 tree=${3:-}
disk=/dev/dst-$name
mount=$TMP/rounds

# A tree of about 24 MB: many small files, some links, one large file.
if [[ -z $tree ]]; then
	tree=$TMP/tree
	mkdir -p "$tree"
	cp -a /usr/lib/python3.13/email /usr/lib/python3.13/json /usr/lib/python3.13/asyncio /etc "$tree/" 2>/dev/null || true
	head -c 15000001 /dev/urandom >"$tree/large"
	ln -s large "$tree/link"
	truncate -s 40000000 "$tree/sparse"
	printf end >>"$tree/sparse"
fi
[[ $(find "$tree" -type f | wc -l) -gt 50 ]] || { echo "the tree is too small"; exit 1; }
(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$TMP/tree.sums"

mkdir -p "$mount"
trap '! mountpoint -q "$mount" || umount "$mount"' EXIT
begin=$SECONDS
for ((round = 1; round <= rounds; round++)); do
	start=$SECONDS
	wipefs -aq "$disk"
	if ((round % 2)); then
		type=xfs
		mkfs.xfs -q -f "$disk"
	else
		type=ext4
		mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$disk"
	fi
	mount -t $type "$disk" "$mount"
	cp -a "$tree" "$mount/copy"
	sync -f "$mount"
	echo 3 >/proc/sys/vm/drop_caches
	(cd "$mount/copy" && sha256sum --quiet --check "$TMP/tree.sums")
	diff -r --no-dereference "$tree" "$mount/copy"
	umount "$mount"
	# And after it was gone from memory altogether, every second time.
	if ((round % 4 < 2)); then
		if [[ $type == xfs ]]; then xfs_repair -n "$disk" >"$TMP/fsck" 2>&1 || { cat "$TMP/fsck"; exit 1; }
		else e2fsck -fn "$disk" >"$TMP/fsck" 2>&1 || { cat "$TMP/fsck"; exit 1; }; fi
	fi
	echo "round $round of $rounds: $type, $((SECONDS - start)) s, $((SECONDS - begin)) s in all"
done
