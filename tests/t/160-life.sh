#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Timeout: 900
# The life of storages: what is in use stays, what is asked for ends in bounded time, whatever the servers do.
. "$TESTS/lib.sh"

# Whoever sleeps that long without a reason is reported, and fails the test.
echo 40 >/proc/sys/kernel/hung_task_timeout_secs
modprobe loop
ram 6 24
load
mkdir "$TMP/mount"

echo "- what is in use stays"
dst create --no-metadata used /dev/ram0 /dev/ram1
refuse 'in use' modprobe -r dst
dst start used
refuse 'in use' modprobe -r dst
mkfs.ext4 -q /dev/dst-used
mount /dev/dst-used "$TMP/mount"
refuse '/dev/dst-used is in use' dst stop used
refuse '/dev/dst-used is in use' dst delete used
refuse 'in use|runs; stop it first' dst remove used --all
refuse 'in use|busy' modprobe -r dst
cp /etc/passwd "$TMP/mount/"
cmp /etc/passwd "$TMP/mount/passwd"
umount "$TMP/mount"
exec {open}<>/dev/dst-used
refuse '/dev/dst-used is in use' dst stop used
exec {open}>&-
mkswap /dev/dst-used >/dev/null
swapon /dev/dst-used
refuse '/dev/dst-used is in use' dst delete used
swapoff /dev/dst-used
dst create --no-metadata above /dev/dst-used /dev/ram2 --start-array
refuse '/dev/dst-used is in use' dst delete used
delete above
dmsetup create over --table "0 1000 linear /dev/dst-used 0"
refuse '/dev/dst-used is in use' dst delete used
dmsetup remove over
stop used
refuse 'no such|there is no' dst remove used 7
dst remove used /dev/ram0
same "sectors (start [size]): 49152 [49152]" "$(attr used nodes)" nodes
mkfs.ext4 -q /dev/ram0 # let go of
delete used

echo "- under load"
verify=(--thread --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=512-64k --verify=crc32c --verify_fatal=1
	--verify_interval=512 --verify_state_save=0)
for i in 0 1 2; do
	truncate -s 12M "$TMP/file$i"
	server nbdkit $((11600 + i)) "$TMP/file$i"
	dst create --no-metadata "load$i" "localhost:$((11600 + i))" "/dev/ram$i" --start-array
done
# Several storages at once, each verified; meanwhile nobody takes them away. (fio opens and closes as it likes. It works
# for some time and not for some bytes: a fast machine would have written them before anybody looked.)
exec {fd0}</dev/dst-load0 {fd1}</dev/dst-load1 {fd2}</dev/dst-load2
pids=()
for i in 0 1 2; do
	fio --name=x "--filename=/dev/dst-load$i" --offset=10M --size=4M --time_based --runtime=$((10 * SLOW)) "${verify[@]}" >"$TMP/fio$i" 2>&1 &
	pids+=($!)
done
busy() { grep -q '[1-9]' "/sys/devices/$1"/n-*/in_flight; }
for i in 0 1 2; do wait_until 20 busy "load$i"; done
for i in 0 1 2; do
	refuse 'in use' timeout $((5 * SLOW)) dst delete "load$i"
	in_time 5 dst status >"$TMP/status"
	refuse 'in use' timeout $((10 * SLOW)) modprobe -r dst
done
for i in 0 1 2; do wait "${pids[i]}" || { cat "$TMP/fio$i"; fail "fio $i"; }; done
exec {fd0}>&- {fd1}>&- {fd2}>&-

echo "- deletion as soon as the last user is killed"
for round in 1 2 3; do
	fio --name=x --filename=/dev/dst-load0 --size=20M --time_based --runtime=60 "${verify[@]}" >"$TMP/fio" 2>&1 &
	pid=$!
	wait_until 20 busy load0
	sleep "$round"
	kill -KILL $pid
	in_time 10 bash -c "until dst delete load0 >$TMP/delete 2>&1; do sleep 0.05; done"
	[[ ! -e /sys/devices/load0 && ! -e /dev/dst-load0 ]] || fail "something is left"
	dst create --no-metadata load0 localhost:11600 /dev/ram0 --start-array
	wait $pid || true
done

echo "- servers that are dead"
# Nobody has it open: stop and delete don't wait for the server.
server_kill 11601
wait_until 10 attr_is load1 n-0/state lost
in_time 10 bash -c '. "$TESTS/lib.sh"; stop load1'
in_time 5 dst remove load1 localhost:11601
in_time 5 dst delete load1
server_again 11601
dst create --no-metadata load1 localhost:11601 /dev/ram1 --start-array
server_kill 11601
in_time 10 bash -c '. "$TESTS/lib.sh"; delete load1'
server_again 11601
# Requests wait: it is in use, until fail-now ends them.
dst create --no-metadata load1 localhost:11601 /dev/ram1 --start-array
fio --name=x --filename=/dev/dst-load1 --size=20M --time_based --runtime=300 "${verify[@]}" >"$TMP/fio" 2>&1 &
pid=$!
sleep 2
server_kill 11601
wait_until 10 attr_is load1 n-0/state lost
wait_until 10 busy load1
# Killed, but it can't go before its requests.
kill -KILL $pid
refuse 'in use' timeout $((5 * SLOW)) dst delete load1
in_time 5 dst fail-now load1
wait_until 10 not kill -0 $pid
in_time 10 bash -c '. "$TESTS/lib.sh"; delete load1'
server_again 11601
# The same with what the page cache has not written yet.
dst create --no-metadata load1 localhost:11601 --start-array
server_kill 11601
wait_until 10 attr_is load1 n-0/state lost
dd if=/dev/zero of=/dev/dst-load1 bs=1M count=4 conv=fsync >"$TMP/dd" 2>&1 &
pid=$!
wait_until 10 busy load1
refuse 'in use' timeout $((5 * SLOW)) dst stop load1
in_time 5 dst fail-now load1
wait_until 20 not kill -0 $pid
if wait $pid; then fail "fsync said that all was well"; fi
in_time 10 bash -c '. "$TESTS/lib.sh"; delete load1'
# A start with a server that is dead waits for it, as who reads the partition table does; fail-now ends that.
server_again 11601
dst create --no-metadata load1 localhost:11601
server_kill 11601
wait_until 10 attr_is load1 n-0/state lost
dst start load1 >"$TMP/start" 2>&1 &
pid=$!
sleep 2
in_time 5 dst status >/dev/null
in_time 5 dst list >/dev/null
in_time 5 cat /sys/devices/load1/nodes /sys/devices/load1/n-0/state >/dev/null
in_time 5 dst fail-now load1
wait_until 10 not kill -0 $pid
in_time 10 bash -c '. "$TESTS/lib.sh"; delete load1'
delete load0
delete load2

echo "- servers that can't be reached"
in_time 5 bash -c '! dst create none localhost:9'
[[ ! -e /sys/devices/none ]] || fail "a storage was left behind"
modprobe nft_chain_nat 2>/dev/null || true
ip link add hole type dummy
ip addr add 10.99.0.1/24 dev hole
ip link set hole up
start=$SECONDS
in_time 6 bash -c '! dst create none 10.99.0.77:10809 --connect-timeout 2s'
nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 11602 drop'
in_time 6 bash -c '! dst create none localhost:11602 --connect-timeout 2s'
((SECONDS - start >= 2)) || fail "gave up at once"
in_time 20 bash -c '! dst create none localhost:11602' # the default is 10 s
# A signal ends it, too; and meanwhile others are served.
dst create --no-metadata wait
timeout -s INT 2 dst add wait localhost:11602 --connect-timeout 300s >"$TMP/add" 2>&1 &
pid=$!
sleep 1
in_time 3 dst status >/dev/null
in_time 3 dst create --no-metadata other
in_time 3 dst delete other
in_time 3 cat /sys/devices/wait/nodes >/dev/null
wait_until 5 not kill -0 $pid
if wait $pid; then fail "the interrupted command succeeded"; fi
if compgen -G '/sys/devices/wait/n-*'; then fail "a node was added"; fi
in_time 5 dst delete wait
# Somebody deletes what somebody else is adding to.
dst create --no-metadata wait
dst add wait localhost:11602 --connect-timeout 60s >"$TMP/add" 2>&1 &
pid=$!
sleep 1
timeout -s INT -k 5 $((5 * SLOW)) dst delete wait >"$TMP/delete" 2>&1 || true
kill -INT $pid 2>/dev/null || true
wait_until 5 not kill -0 $pid
[[ ! -e /sys/devices/wait ]] || in_time 5 dst delete wait
nft delete table inet t

echo "- suspended nodes: those who want them wait, all others go on"
# Whoever reads by the page cache (udev does) is reported as hung when that takes long.
echo 0 >/proc/sys/kernel/hung_task_timeout_secs
calm=/dev/dst-calm
server nbdkit 11610 "$(image calm 32768)"
blank /dev/ram3
# With superblocks: they are written to a node that is suspended, too.
dst create calm /dev/ram3 localhost:11610 --start-array
second=n-$(attr calm n-0/size)
# Where the second node begins, in blocks of 4 KiB.
cut=$(($(attr calm n-0/size) / 8))
udev_stands
suspended() { attr_is calm "$1/suspended" "$2"; }
landed() { attr calm "$1/requests"; }
# waiting DIRECTORY N : so many requests at least are in flight, or wait.
waiting() { [[ $(attr calm "$1/in_flight") -ge $2 ]]; }
still() { local at; at=$(landed "$1") && sleep 1 && [[ $at == "$(landed "$1")" ]]; }
# put BLOCK [,FLAG] : writes a block. soon BLOCK [,FLAG] : that must not take long.
put() { dd if=/dev/urandom of=$calm bs=4k count=1 seek="$1" oflag=direct conv=notrunc"${2:-}" status=none; }
soon() { in_time 20 dd if=/dev/urandom of=$calm bs=4k count=1 seek="$1" oflag=direct conv=notrunc"${2:-}" status=none; }
at_once() { python3 -c '
import mmap, os, sys
os.preadv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 4096)], int(sys.argv[2]) << 12, os.RWF_NOWAIT)' $calm "$1"; }
# One task writes so many blocks on both sides of the cut, all at a time: half of them to each node, more than it has pieces.
deep() { fio --name=x --filename=$calm --direct=1 --ioengine=libaio --iodepth=800 --rw=randwrite --bs=4k "--offset=$(((cut - 400) * 4096))" --size=3200k "$@" >"$TMP/fio" 2>&1; }

# waits NODE DIRECTORY LOG OTHER-DIRECTORY OTHER-LOG BLOCK OTHER-BLOCK : the node is suspended; the load of LOG is on it, that
# of OTHER-LOG is on the other node; a block of each.
waits() {
	local node=$1 dir=$2 log=$3 to=$4 go=$5 block=$6 other=$7 at others pid both
	dst suspend calm "$node"
	suspended "$dir" 1
	suspended "$to" 0
	expect 'suspended: what must go to it waits' dst status calm
	refuse 'suspended already' dst suspend calm "$node"
	# What was on its way ends.
	wait_until 20 still "$dir"
	at=$(landed "$dir")
	others=$(counter calm "$to" requests write)
	deep --verify=crc32c &
	pid=$!
	wait_until 30 waiting "$dir" 400
	wait_until 30 bash -c "[[ \$(sed -E 's/.*write ([0-9]+).*/\1/' /sys/devices/calm/$to/requests) -ge $((others + 400)) ]]"
	kill -0 $pid || fail "what must go to $node did not wait"
	# What needs both waits; what must not wait is refused.
	dd if=$calm of=/dev/null bs=8k count=1 skip=$(((cut - 1) * 4096)) iflag=direct,skip_bytes status=none &
	both=$!
	refuse 'unavailable' at_once "$block"
	at_once "$other"
	soon "$other"
	load_goes_on "$go" 40
	kill -0 $both || fail "a read on both sides of the cut did not wait"
	same "$at" "$(landed "$dir")" "what $node was asked for"
	dst resume calm "$node"
	suspended "$dir" 0
	refuse 'not suspended' dst resume calm "$node"
	wait_until 60 not kill -0 $pid
	wait $pid || { cat "$TMP/fio"; fail "fio: status $?"; }
	wait_until 20 not kill -0 $both
	wait $both
	load_goes_on "$log"
	load_goes_on "$go"
}
# Without flushes: those wait for both. Also the kernel flushes after each write with O_DSYNC. And without zeroes: as long as
# the ioctl for that waits, it holds the lock of the disk's inode, and nobody can seek in the disk, as dd does.
quietly=(--rate 100 --flush-every 1000000 --fua 0 --zeroes 0)
load_begin $calm "$TMP/calm0" --area 0:256 "${quietly[@]}"
load_begin $calm "$TMP/calm1" --area $((cut + 1000)):256 "${quietly[@]}" --writer 1
waits /dev/ram3 n-0 "$TMP/calm0" "$second" "$TMP/calm1" 1000 $((cut + 2000))
waits localhost:11610 "$second" "$TMP/calm1" n-0 "$TMP/calm0" $((cut + 2000)) 1000
# Again and again, also while the other one is suspended.
for _ in 1 2 3 4 5; do
	dst suspend calm /dev/ram3
	dst suspend calm localhost:11610
	dst resume calm /dev/ram3
	load_goes_on "$TMP/calm0" 4
	dst resume calm localhost:11610
done
for i in 0 1; do
	load_end "$TMP/calm$i"
	oracle check "$TMP/calm$i" --acked --settle disk=$calm
done
same "0 0" "$(attr calm n-0/errors) $(attr calm "$second/errors")" errors

echo "- a flush waits for a suspended node that has something to flush"
put 1000 ,fsync
dst suspend calm /dev/ram3
soon $((cut + 2000)) ,fsync
dst resume calm /dev/ram3
put 1000
dst suspend calm /dev/ram3
put $((cut + 2000)) ,fsync &
pid=$!
wait_until 20 waiting n-0 1
soon $((cut + 2001))
kill -0 $pid || fail "a flush did not wait"
dst resume calm /dev/ram3
wait_until 20 not kill -0 $pid
wait $pid

echo "- the waiting is ended"
# ended NODE DIRECTORY BLOCK OTHER-BLOCK COMMAND... : COMMAND ends what waits for the node, with an error; the other one is used.
ended() {
	local node=$1 dir=$2 block=$3 other=$4 pid
	shift 4
	dst suspend calm "$node"
	deep &
	pid=$!
	wait_until 30 waiting "$dir" 400
	in_time 10 "$@"
	wait_until 30 not kill -0 $pid
	if wait $pid; then fail "what waited for $node succeeded"; fi
	wait_until 20 attr_is calm "$dir/in_flight" 0
	suspended "$dir" 2
	expect 'suspended: requests fail' dst status calm
	refuse 'Input/output error' soon "$block"
	soon "$other"
	dst set calm localhost:11610 timeout=wait
	suspended "$dir" 2
	dst resume calm "$node"
	suspended "$dir" 0
	soon "$block"
}
ended /dev/ram3 n-0 1000 $((cut + 2000)) dst fail-now calm /dev/ram3
ended localhost:11610 "$second" $((cut + 2000)) 1000 dst fail-now calm localhost:11610
ended localhost:11610 "$second" $((cut + 2000)) 1000 dst fail-now calm
ended localhost:11610 "$second" $((cut + 2000)) 1000 dst set calm localhost:11610 timeout=1s
# The limit is there already.
dst set calm localhost:11610 timeout=1s
dst suspend calm localhost:11610
refuse 'Input/output error' soon $((cut + 2000))
suspended "$second" 2
dst set calm localhost:11610 timeout=wait
dst resume calm localhost:11610
refuse 'never waited for' dst fail-now calm /dev/ram3

echo "- the server of a suspended node is lost"
dst suspend calm localhost:11610
put $((cut + 2000)) &
pid=$!
wait_until 20 waiting "$second" 1
server_kill 11610
wait_until 20 attr_is calm "$second/state" lost
suspended "$second" 1
soon 1000
dst resume calm localhost:11610
sleep 1
kill -0 $pid || fail "a write to a server that is lost did not wait"
server_again 11610
wait_until 20 not kill -0 $pid
wait $pid

echo "- an end while a node is suspended"
for node in /dev/ram3 localhost:11610; do
	dst suspend calm "$node"
	exec {open}<$calm
	refuse '/dev/dst-calm is in use' dst stop calm
	exec {open}<&-
	in_time 20 bash -c '. "$TESTS/lib.sh"; stop calm'
	suspended n-0 0
	suspended "$second" 0
	refuse 'does not run' dst suspend calm "$node"
	dst start calm
	soon 1000
	soon $((cut + 2000))
	dst suspend calm "$node"
	in_time 20 bash -c '. "$TESTS/lib.sh"; delete calm'
	dst assemble calm /dev/ram3 localhost:11610
done
if said 'storage that was stopped could not be written'; then fail "superblocks were not written"; fi
delete calm
blank /dev/ram3
server_kill 11610
udev_goes
echo 40 >/proc/sys/kernel/hung_task_timeout_secs

echo "- a storm of commands"
storm() { # N
	local name=storm$(($1 % 3)) i
	for ((i = 0; i < 12; i++)); do
		# What fails because another one was first is all right; what hangs isn't.
		for command in "create $name" "add $name /dev/ram$1" "add $name localhost:$((11600 + $1 % 2))" "start $name" \
			"set $name timeout=5s" "suspend $name 0" "fail-now $name" "resume $name 0" "stop $name" "remove $name --all" "delete $name"; do
			# shellcheck disable=SC2086
			timeout -k 5 $((20 * SLOW)) dst $command >/dev/null 2>&1 || [[ $? -ne 124 && $? -ne 137 ]] ||
				echo "hung: $command" >>"$TMP/hung"
		done
	done
}
look() {
	while [[ ! -e $TMP/quiet ]]; do
		timeout 20 dst status --json 2>/dev/null | jq . >/dev/null || echo "status" >>"$TMP/hung"
		cat /sys/devices/storm*/nodes /sys/devices/storm*/n-*/* >/dev/null 2>&1 || true
		for disk in /dev/dst-storm*; do
			[[ ! -b $disk ]] || timeout 30 dd if="$disk" of=/dev/null bs=64k count=4 status=none 2>/dev/null || [[ $? -ne 124 ]] ||
				echo "read of $disk" >>"$TMP/hung"
		done
	done
}
server_again 11601
look &
looker=$!
pids=()
for n in 0 1 2 3 4 5; do storm $n & pids+=($!); done
# A server that comes and goes the while.
for _ in 1 2 3; do sleep 2; server_kill 11600; sleep 0.5; server_again 11600; done
# Each command has its own limit; this one is for a machine that has other things to do.
for pid in "${pids[@]}"; do wait_until 300 not kill -0 "$pid"; done
touch "$TMP/quiet"
wait_until 40 not kill -0 $looker
[[ ! -e $TMP/hung ]] || { sort "$TMP/hung" | uniq -c; fail "commands hung"; }
wait_until 10 dst delete --all
same "" "$(dst list)" "what is left"
unload
