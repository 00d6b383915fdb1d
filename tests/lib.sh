# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the tests share; each begins with `. "$TESTS/lib.sh"`. A test runs as root in a VM (see tests/run) and fails when a
# command of it fails. It is given: TESTS (this folder), TMP (an empty folder), DISKS (four empty disks of 512 MiB),
# KERNEL (stock or debug), SLOW (how many times slower than stock this kernel is).
# Whatever it leaves behind (processes, mounts, namespaces) is cleared away; storages and exports it must remove itself.
set -euo pipefail
shopt -s inherit_errexit

fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "skipped: $*" >&2; exit 77; }
trap 'echo "FAILED: ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND (status $?)" >&2' ERR

# What waits in the kernel, and where.
show_waiting() {
	local task
	for task in /proc/[0-9]*/task/*; do
		if [[ $(sed -E 's/.*\) (.).*/\1/' "$task/stat" 2>/dev/null) == D ]]; then
			echo "waits: $(tr '\0' ' ' <"$task/cmdline" 2>/dev/null) ($(<"$task/comm"))"
			head -n 20 "$task/stack" 2>/dev/null || true
		fi
	done >&2
}

# give_up [STATUS] : after a failure: ends what waits for servers, so that what comes next finds no trouble.
give_up() {
	local status=${1:-$?} file name
	[[ $status -ne 0 && $status -ne 77 && -e /dev/dst ]] || return 0
	show_waiting || true
	# Not by the names of their directories: copies begin at the same sector.
	for file in /sys/devices/*/n-*/id; do
		name=${file#/sys/devices/}
		timeout 20 dst fail-now "${name%%/*}" "$(<"$file")" >/dev/null 2>&1 || true
	done
}
trap give_up EXIT

# udev_stands, udev_goes : it looks at each disk that was written to when that is closed, partitions included: who opens it
# waits as long as its first or last sectors can't be read. So it is away while they can't; what it has begun ends before.
udev_stands() {
	trap 'status=$?; udev_goes; give_up $status' EXIT
	udevadm settle --timeout=$((60 * SLOW))
	udevadm control --exit
	wait_until 30 not pgrep udev
}
udev_goes() {
	pgrep udev >/dev/null || /usr/lib/systemd/systemd-udevd --daemon
	trap give_up EXIT
}

# need COMMAND... : skips the test where one is missing.
need() {
	local c
	for c; do command -v "$c" >/dev/null || skip "no $c"; done
}

# need_module NAME... : loads them, or skips the test.
need_module() {
	local m
	for m; do modprobe -q "$m" || skip "no module $m"; done
}

load() { modprobe dst "$@"; }

# Unloading may find the last reference still on its way out.
unload() { wait_until 20 modprobe -r dst; }

# wait_until SECONDS COMMAND... : until it succeeds; fails, and shows its last output, when it never does.
wait_until() {
	local end=$((SECONDS + $1 * SLOW)) output
	shift
	until output=$("$@" 2>&1); do
		((SECONDS < end)) || fail "still not true: $* ${output:+($output)}"
		sleep 0.1
	done
}

# expect PATTERN COMMAND... : it succeeds, and prints something that matches.
expect() {
	local pattern=$1 output
	shift
	output=$("$@" 2>&1) || fail "$*: status $?: $output"
	grep -qE -- "$pattern" <<<"$output" || fail "$*: no '$pattern' in: $output"
}

# refuse PATTERN COMMAND... : it fails, and what it prints matches.
refuse() {
	local pattern=$1 output
	shift
	if output=$("$@" 2>&1); then fail "$*: was expected to fail: $output"; fi
	grep -qE -- "$pattern" <<<"$output" || fail "$*: no '$pattern' in: $output"
}

# check_log [SINCE] : the kernel log holds no report of a bug (the runner checks this after every test, too).
check_log() {
	dmesg >"$TMP/dmesg"
	"$TESTS/scan-log" "$TMP/dmesg"
}

# said PATTERN : the kernel has, since `forget`, if there was one. Nothing is cleared: the runner looks for reports of bugs.
kernel_mark=
forget() {
	kernel_mark="dst-test: from $EPOCHREALTIME on"
	echo "$kernel_mark" >/dev/kmsg
}
said() {
	# All of it is read: a pipe that breaks is no "no".
	dmesg | awk -v mark="$kernel_mark" 'seen || mark == ""; index($0, mark) { seen = 1 }' | grep -cE -- "$1" >/dev/null
}

# ram COUNT MIB : /dev/ram0 to /dev/ram(COUNT-1).
ram() {
	modprobe -r brd
	modprobe brd rd_nr="$1" rd_size="$(($2 * 1024))"
	wait_until 5 test -b "/dev/ram$(($1 - 1))"
}

# netns NAME [N] : a network namespace with a cable to this one: here 10.77.N.1 and fd77:N::1, there .2 and ::2.
netns() {
	local name=$1 n=${2:-1}
	ip netns add "$name"
	ip link add "v-$name" type veth peer name eth0 netns "$name"
	ip addr add "10.77.$n.1/24" dev "v-$name"
	ip addr add "fd77:$n::1/64" dev "v-$name" nodad
	ip link set "v-$name" up
	ip -n "$name" link set lo up
	ip -n "$name" addr add "10.77.$n.2/24" dev eth0
	ip -n "$name" addr add "fd77:$n::2/64" dev eth0 nodad
	ip -n "$name" link set eth0 up
}

# within NAME COMMAND... : runs it in that network namespace.
within() { ip netns exec "$@"; }

# listening PORT [ADDRESS-PATTERN] : somebody accepts connections there.
listening() { [[ -n $(ss -Hltn "sport = :$1") ]]; }

# nbd_file PORT FILE [NBDKIT-ARGUMENT...] : a userspace NBD server for that file, ready to be connected to.
nbd_file() {
	local port=$1 file=$2
	shift 2
	nbdkit --port "$port" --pidfile "$TMP/nbdkit-$port.pid" "$@" file "$file"
	wait_until 10 test -s "$TMP/nbdkit-$port.pid"
}

# server KIND PORT FILE [ARGUMENT...] : a userspace NBD server (nbdkit, qemu or nbd-server) for that file, ready to be
# connected to. server_kill and server_again end it with SIGKILL, and start it as it was.
server() {
	local kind=$1 port=$2 file=$3
	shift 3
	printf '%s\n' "$kind" "$file" "$@" >"$TMP/server-$port"
	case $kind in
	nbdkit) nbdkit --foreground --port "$port" "$@" file "$file" >>"$TMP/server-$port.log" 2>&1 & ;;
	qemu) qemu-nbd --persistent --shared 0 --format raw --discard unmap --port "$port" "$@" "$file" >>"$TMP/server-$port.log" 2>&1 & ;;
	nbd-server) nbd-server -d -C /dev/null "127.0.0.1@$port" "$file" "$@" >>"$TMP/server-$port.log" 2>&1 & ;;
	*) fail "no such kind of server: $kind" ;;
	esac
	echo $! >"$TMP/server-$port.pid"
	disown
	wait_until 20 listening "$port"
}
server_kill() { kill "-${2:-KILL}" "$(<"$TMP/server-$1.pid")"; }
server_again() {
	local words
	mapfile -t words <"$TMP/server-$1"
	wait_until 20 not listening "$1"
	server "${words[0]}" "$1" "${words[@]:1}"
}

not() { ! "$@"; }

# delete NAME|--all..., stop NAME : udev may have a new disk open for a moment, to look at what is on it.
delete() { wait_until 10 dst delete "$@"; }
stop() { wait_until 10 dst stop "$@"; }

# image NAME SECTORS : a file of zeroes in memory; prints its path.
image() {
	truncate -s "$(($2 * 512))" "$TMP/$1"
	echo "$TMP/$1"
}

# fresh DEVICE... : what is read from it next is what is on it; DST writes to it behind the back of the page cache,
# which udev may have filled before.
fresh() {
	local d
	for d; do [[ ! -b $d ]] || blockdev --flushbufs "$d"; done
}

# loop FILE [ARGUMENT...] : prints the loop device that it got.
loop() {
	modprobe loop
	losetup --find --show "${@:2}" "$1"
}

# attr STORAGE [n-START/]FILE : prints what sysfs says.
attr() { cat "/sys/devices/$1/$2"; }
# attr_is STORAGE FILE VALUE
attr_is() { [[ $(attr "$1" "$2") == "$3" ]] || { attr "$1" "$2"; return 1; }; }
# counter STORAGE NODE requests|bytes read|write|flush|discard
counter() { attr "$1" "$2/$3" | sed -E "s/.*$4 ([0-9]+).*/\1/"; }

# queue NAME FILE : a limit of a disk.
queue() { cat "/sys/block/$1/queue/$2"; }

# same WANT GOT WHAT
same() { [[ $1 == "$2" ]] || fail "$3: '$2' instead of '$1'"; }

# in_time SECONDS COMMAND... : it succeeds within that time.
in_time() {
	local limit=$(($1 * SLOW)) start=$SECONDS status=0
	shift
	timeout -k 5 "$limit" "$@" || status=$?
	[[ $status -ne 124 && $status -ne 137 ]] || fail "$*: not over after $limit s"
	[[ $status -eq 0 ]] || fail "$*: status $status after $((SECONDS - start)) s"
}

# The oracle: see oracle.py.
oracle() { python3 "$TESTS/oracle.py" "$@"; }
# acked_so_far LOG, acked LOG N : writes that the oracle has seen acknowledged; at least N.
acked_so_far() { grep -c '^[AD] ' "$1" 2>/dev/null || true; }
acked() { [[ $(acked_so_far "$1") -ge $2 ]]; }
# load_begin DEVICE LOG [OPTION...] : the oracle's load, aside, until load_end, which fails if something was wrong. It is
# under way when load_begin is over.
load_begin() {
	local before
	before=$(acked_so_far "$2")
	python3 "$TESTS/oracle.py" write "$@" >"$2.out" 2>&1 &
	echo $! >"$2.pid"
	wait_until 30 acked "$2" $((before + 20))
}
# load_end LOG [SECONDS] : ends it; it must be over within that time.
load_end() {
	local pid status=0
	pid=$(<"$1.pid")
	kill -TERM "$pid" 2>/dev/null || true
	wait_until "${2:-30}" not kill -0 "$pid"
	wait "$pid" || status=$?
	cat "$1.out"
	[[ $status -eq 0 ]] || fail "the load saw something wrong (status $status)"
}
# load_goes_on LOG [N] : N more writes are acknowledged.
load_goes_on() { wait_until 60 acked "$1" $(($(acked_so_far "$1") + ${2:-20})); }

# blank DEVICE... : nothing is left on it. (What a mirror never wrote to may differ between its copies.)
blank() {
	local d
	for d; do blkdiscard --zeroout --force --quiet "$d"; done
}

# mirror_sectors SECTORS : what a mirror has whose smallest copy has so many (meta/layout.rs).
mirror_sectors() {
	local most=$(($1 - 16)) shift=7 blocks
	while (((((most - 1) >> shift) + 1) > 256 * 1016)); do shift=$((shift + 1)); done
	blocks=$((((((most - 1) >> shift) + 1) + 1015) / 1016))
	echo $((($1 / 8 * 8 - 16 - blocks * 16) / 2048 * 2048))
}

# copy STORAGE WHAT : the directory of the node whose type ends like that.
copy() {
	local d
	for d in "/sys/devices/$1"/n-*; do
		[[ $(<"$d/type") != *"$2" ]] || { echo "${d##*/}"; return; }
	done
	fail "$1 has no node $2"
}
# role_is STORAGE WHAT ROLE : of that node.
role_is() { attr_is "$1" "$(copy "$1" "$2")/role" "$3"; }
# healthy STORAGE : all copies are in sync.
healthy() { attr_is "$1" health healthy; }
