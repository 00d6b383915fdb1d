#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A mirror in use: copies are added, removed, suspended under load; who serves reads; how fast it heals; what is told.
# Long: debug
# Timeout: 1200
. "$TESTS/lib.sh"
need jq

load
need_module dm_mod
modprobe loop
sectors=$((24 * 2048))
data=$(mirror_sectors $sectors)
# With a volatile cache, as most disks; a mirror that had none would not take up a copy that has one.
L0=/dev/mapper/l0 L1=/dev/mapper/l1
dmsetup create l0 --table "0 $sectors linear /dev/vdb 0"
dmsetup create l1 --table "0 $sectors linear /dev/vdc 0"
blank $L0 $L1
disk=/dev/dst-live
log=$TMP/log
remote=localhost:12301
server nbdkit 12301 "$(image remote $sectors)"
image=$TMP/remote

all_healthy() { wait_until "${1:-60}" healthy live; }
nodes() { dst status live --json | jq '.storages[0].nodes | length'; }
equal() { oracle equal "$data" $disk "$@"; }
now_ms() { sed -E 's/^([0-9]+)\.([0-9]+) .*/\1\20/' /proc/uptime; }

dst create live --alg alg_mirror $L0 $L1 --start-array
dd if=/dev/urandom of=$disk bs=1M seek=8 count=8 oflag=direct status=none

# listen NAME : what happens to that storage is written down; $monitor does that.
listen() {
	events=$TMP/events-$1
	dst monitor "$1" --json >"$events" 2>"$TMP/monitor-$1" &
	monitor=$!
	wait_until 10 grep -q listening "$TMP/monitor-$1"
}
# hush : ends that. Events are JSON, one in a line.
hush() {
	kill -TERM $monitor
	wait_until 10 not kill -0 $monitor
	jq -e . "$events" >/dev/null || { cat "$events"; fail "events are no JSON"; }
	[[ $(wc -l <"$events") -eq $(jq -c . "$events" | wc -l) ]] || fail "an event is not one line"
}
saw() { grep -q -- "$1" "$events"; }
# told LINE FILTER : behind that line there is an event of the remote node for which it is true.
told() {
	tail -n +$(($1 + 1)) "$events" | jq -ne "[inputs | select(.type // \"\" | endswith(\":12301\")) | select($2)] | length > 0"
}
so_far() { wc -l <"$events"; }

echo "- events"
listen live

echo "- a copy is added under load"
load_begin $disk "$log" --area 256:512 --rate 100
dst add live $remote
same 3 "$(nodes)" "number of nodes"
load_goes_on "$log"
all_healthy
load_goes_on "$log"
load_end "$log"
equal $L0 $L1 "$image"
oracle check "$log" --acked --settle disk=$disk $L0 $L1 "$image"
# Only what was ever written.
(($(attr live healed) <= (8 * 2048 + 512 * 8 + 1024))) || fail "$(attr live healed) sectors were copied; 10 MiB were written to"
wait_until 10 saw '"healing"'
wait_until 10 saw '"healthy"'

echo "- a copy is removed under load"
load_begin $disk "$log" --area 256:512 --rate 100
load_goes_on "$log"
dst remove live $L0
same 2 "$(nodes)" "number of nodes"
load_goes_on "$log"
load_end "$log"
equal $L1 "$image"
healthy live
# It is free now: another storage can have it, and what that leaves on it is not written over by mistake.
dst create other --alg alg_mirror $L0 --start-array
dd if=/dev/urandom of=/dev/dst-other bs=1M seek=8 count=8 oflag=direct status=none
refuse 'in use' dst add live $L0
delete other
load_begin $disk "$log" --area 256:512 --rate 100
refuse "node of storage 'other'" dst add live $L0
dst add live $L0 --force
all_healthy
load_end "$log"
equal $L0 $L1 "$image"
oracle check "$log" --acked --settle $L0 $L1 "$image"

echo "- what can't be added or removed"
small=$(loop "$(image small $((sectors / 2)))")
refuse 'has room for [0-9]+ sectors|larger node' dst add live "$small"
refuse 'in use' dst add live $L0
same 3 "$(nodes)" "number of nodes"
dst remove live $L0
dst remove live $remote
refuse 'last|in sync' dst remove live $L1
same 1 "$(nodes)" "number of nodes"
# Nor is what is being healed a substitute.
dst set live heal-min=0 heal-max=512K
dst add live $L0
refuse 'last|in sync' dst remove live $L1
attr_is live health healing
dst set live heal-max=0
all_healthy
dst remove live $L1
equal $L0
dst add live $L1
dst add live $remote
all_healthy
equal $L0 $L1 "$image"

echo "- on a filesystem"
# No discards: copies may differ there afterwards.
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard $disk
mkdir "$TMP/mount"
mount $disk "$TMP/mount"
cp -a /usr/lib/python3.13/email "$TMP/mount/1" &
pid=$!
dst remove live $L1
dst add live $L1
wait $pid
cp -a /usr/lib/python3.13/email "$TMP/mount/2" &
pid=$!
server_kill 12301
wait $pid
wait_until 30 role_is live :12301 missing
refuse 'in use' dst stop live
sync -f "$TMP/mount"
server_again 12301
all_healthy 120
for i in 1 2; do diff -r /usr/lib/python3.13/email "$TMP/mount/$i"; done
umount "$TMP/mount"
e2fsck -fn $disk >"$TMP/fsck" 2>&1 || { cat "$TMP/fsck"; fail "e2fsck"; }
equal $L0 $L1 "$image"
# The oracle begins anew, on zeroes.
blkdiscard --zeroout --force --quiet $disk
log=$TMP/log2
wait_until 10 saw '"missing"'
wait_until 10 saw '"degraded"'

echo "- suspend and resume"
dst suspend live $remote
wait_until 5 bash -c 'dst status live | grep -q suspended'
dd if=/dev/urandom of=$disk bs=4k count=1 oflag=direct status=none &
pid=$!
in_time 20 dd if=$disk of=/dev/null bs=64k skip=100 count=32 iflag=direct status=none
sleep 2
kill -0 $pid || fail "a write did not wait for a copy that is suspended"
in_time 20 dd if=$disk of=/dev/null bs=64k skip=200 count=32 iflag=direct status=none
dst resume live $remote
wait_until 20 not kill -0 $pid
wait $pid
healthy live

echo "- reads while all copies are suspended"
# piece FILE FIRST COUNT : what the disk shows, in blocks of 4 KiB.
piece() { in_time "${4:-30}" dd if=$disk of="$1" bs=$(($3 << 12)) skip=$(($2 << 12)) count=1 iflag=direct,skip_bytes status=none; }
for i in old new newer; do head -c 64K /dev/urandom >"$TMP/$i"; done
dd if="$TMP/old" of=$disk bs=64k seek=320 oflag=direct status=none
dst suspend live $L0
dst suspend live $L1
dst suspend live $remote
before=$(attr live read_held)
dd if="$TMP/new" of=$disk bs=64k seek=320 oflag=direct status=none &
writer=$!
# Served by the write that waits, as a whole and in part.
seen() { piece "$TMP/seen" 5120 16 5 && cmp -s "$TMP/seen" "$TMP/new"; }
wait_until 10 seen
piece "$TMP/seen" 5123 2 5
cmp "$TMP/seen" <(tail -c +12289 "$TMP/new" | head -c 8192)
(($(attr live read_held) >= before + 2)) || fail "read_held: $before before, $(attr live read_held) after"
# What nobody has in memory waits, and so does what only begins in it.
piece "$TMP/none" 512 1 &
none=$!
piece "$TMP/more" 5135 2 &
more=$!
# A newer one hides it.
dd if="$TMP/newer" of=$disk bs=64k seek=320 oflag=direct status=none &
newer=$!
seen() { piece "$TMP/seen" 5120 16 5 && cmp -s "$TMP/seen" "$TMP/newer"; }
wait_until 10 seen
sleep 1
for pid in $writer $none $more $newer; do kill -0 "$pid" || fail "it did not wait"; done
# Readers that go on while it is written never see what was before.
: >"$TMP/go"
while [[ -e $TMP/go ]]; do
	piece "$TMP/seen" 5120 16
	cmp "$TMP/seen" "$TMP/newer" || echo "turned back" >>"$TMP/back"
done &
reader=$!
for node in $L0 $remote $L1; do dst resume live "$node"; done
for pid in $writer $none $more $newer; do in_time 20 tail --pid="$pid" -f /dev/null; wait "$pid"; done
sleep 1
rm "$TMP/go"
wait $reader
[[ ! -e $TMP/back ]] || fail "what a read had shown was gone"
cmp <(head -c 4096 "$TMP/more") <(tail -c 4096 "$TMP/newer")
healthy live
equal $L0 $L1 "$image"
load_begin $disk "$log" --area 256:512 --rate 100
for node in $L0 $remote $L1; do
	dst suspend live "$node"
	in_time 10 dst status live >/dev/null
	dst resume live "$node"
	load_goes_on "$log"
done
load_end "$log"
healthy live
equal $L0 $L1 "$image"
oracle check "$log" --acked --settle $L0 $L1 "$image"

echo "- who serves reads"
reads() { for n in $L0 $L1 :12301; do counter live "$(copy live "$n")" requests read; done | xargs; }
# serve COMMAND... : how many reads each copy served meanwhile: $r0 $r1 $r2.
serve() {
	local before after
	udevadm settle
	before=$(reads)
	"$@"
	after=$(reads)
	# shellcheck disable=SC2086
	set -- $before $after
	r0=$(($4 - $1)) r1=$(($5 - $2)) r2=$(($6 - $3))
	echo "$r0 $r1 $r2"
}
sequential() { dd if=$disk of=/dev/null bs=4k count=96 skip="${1:-0}" iflag=direct status=none; }
deep() { fio --name=x --filename=$disk --direct=1 --ioengine=libaio --iodepth=24 --rw=randread --bs=4k --io_size=3M --size=16M --output=/dev/null; }
same least-pending "$(attr live read_policy)" "the default"
serve deep
((r0 > 10 && r1 > 10)) || fail "least-pending: $r0 $r1 $r2 with 24 reads at a time"
dst set live read-policy=round-robin
same round-robin "$(attr live read_policy)" policy
serve sequential
((r0 > 20 && r1 > 20 && r2 > 20)) || fail "round-robin: $r0 $r1 $r2"
dst set live read-policy=local-first
serve deep
((r2 == 0 && r0 + r1 >= 700)) || fail "local-first: $r0 $r1 $r2"
dst set live read-policy=nearest
serve sequential 1000
((r0 >= 90 || r1 >= 90 || r2 >= 90)) || fail "nearest: $r0 $r1 $r2 for a read from one end to the other"
refuse 'least-pending' dst set live read-policy=best
dst set live read-policy=least-pending

echo "- how fast it heals"
# On the slow kernel there would be too little to see.
limit=$((SLOW > 1 ? 512 : 1024))
dst set live heal-min=128K heal-max=${limit}K
same "128 $limit" "$(attr live heal_min) $(attr live heal_max)" "limits"
server_kill 12301
dd if=/dev/urandom of=$disk bs=1M count=6 oflag=direct status=none
wait_until 30 role_is live :12301 missing
before=$(attr live healed)
server_again 12301
wait_until 30 attr_is live health healing
# copied MIB : so much is healed by now.
copied() { (($(attr live healed) >= before + $1 * 2048)); }
wait_until 30 copied 1
# The clock first, and last at the end: the time is never too short, however busy the machine is.
start=$(now_ms) from=$(attr live healed)
expect 'healing.* of ' dst status live
python3 - $limit "$SLOW" <<'END' || fail "what is told of healing is not so"
import json, subprocess, sys, time
limit, slow = int(sys.argv[1]) << 10, int(sys.argv[2])
def attr(name):
    with open(f"/sys/devices/live/{name}") as file:
        return file.read().strip()
def look():
    """When, speed, seconds left, bytes left and done by the command; then bytes left and done by sysfs."""
    now = time.monotonic()
    output = subprocess.run(["dst", "status", "live", "--json"], stdout=subprocess.PIPE, check=True).stdout
    mirror = json.loads(output)["storages"][0]["mirror"]
    words = [mirror[key] for key in ("heal_rate", "seconds_left", "healing_left", "healing_done")]
    return now, *words, int(attr("heal_left")) * 512, int(attr("heal_done")) * 512
looks, begin = [], time.monotonic()
while attr("health") == "healing":
    looks.append(look())
    time.sleep(0.2)
end = time.monotonic()
print(*looks, sep="\n", file=sys.stderr)
pace = (end - begin) / max(len(looks), 1)
# At first nothing was copied yet; the last look may have been when all was.
looks = [look for look in looks if look[2] is not None and look[3]]
for look, later in zip(looks, looks[1:]):
    assert look[3] >= look[5] >= later[3], "left: by the command, then in sysfs, then by the command"
    assert look[4] <= look[6] <= later[4], "done: the same"
if len(looks) < 3:
    assert pace > 2 or end - begin < 2, f"{len(looks)} looks in {end - begin:.1f} s tell how long it takes"
    print("[too slow for a look at the speed]", end=" ")
    sys.exit()
first, last = looks[0], looks[-1]
assert first[2] > last[2], "the time left does not fall"
# While the speed rises too much is told rather than too little.
assert end - first[0] <= 2 * first[2] + 2 * slow, f"{first[2]} s were told first, it took {end - first[0]:.1f}"
# Before that the speed that is told rises. The middle one: the machine may stand still now and then.
settled = [look for look in looks if look[0] >= first[0] + 2] or looks[-1:]
rate = sorted(look[1] for look in settled)[len(settled) // 2]
# By the same clock; a machine that is slow does not reach the limit.
real = (last[4] - first[4]) / (last[0] - first[0])
assert min(real, limit) / 2 <= rate <= 2 * limit, f"{rate} bytes a second are told, it were {real:.0f}, {limit} are allowed"
# What was promised, and what it took: the end itself takes a moment, too.
took = [(look[2], end - look[0]) for look in settled]
good = sum(real <= 3 * told + 4 * slow and told <= 3 * real + 2 for told, real in took)
assert good * 2 >= len(took), f"told and real seconds left: {took}"
print(f"[{rate >> 10} KiB/s told, {real / 1024:.0f} in fact; {first[2]} s left, then {last[2]} s]", end=" ")
END
all_healthy 120
(($(attr live healed) - before >= 6 * 2048)) || fail "$(($(attr live healed) - before)) sectors were copied"
copied=$(($(attr live healed) - from)) took=$(($(now_ms) - start))
((copied * 1000 <= 2 * limit * took + 512 * 1000)) || fail "$copied sectors in $took ms, with a limit of $limit KiB a second"
same "0 " "$(attr live heal_left) $(attr live heal_seconds_left)" "heal_left, heal_seconds_left when it is done"
(($(attr live heal_done) >= 6 * 2048)) || fail "heal_done: $(attr live heal_done)"
# The same, interrupted.
server_kill 12301
dd if=/dev/urandom of=$disk bs=1M count=6 oflag=direct status=none
wait_until 30 role_is live :12301 missing
line=$(so_far)
server_again 12301
wait_until 60 told "$line" '.state == "up"'
wait_until 60 told "$line" '.event == "heal-start" and .role == "healing" and .state == "up"'
some_done() { (($(attr live heal_done) >= 1024)); }
wait_until 30 some_done
attr_is live health healing
line=$(so_far)
server_kill 12301
# It is failed as soon as it has left: nothing waits for it.
wait_until 30 told "$line" '.state == "lost" or .state == "failed"'
wait_until 30 told "$line" '.event == "heal-interrupted" and .role == "missing" and .state != "up"'
server_again 12301
wait_until 60 told "$line" '.state == "up"'
wait_until 90 told "$line" '.event == "heal-start" and .role == "healing"'
wait_until 90 told "$line" '.event == "heal-done" and .role == "in-sync"'
all_healthy 60
dst set live heal-max=0 heal-min=1G
server_kill 12301
dd if=/dev/urandom of=$disk bs=1M count=6 oflag=direct status=none
wait_until 30 role_is live :12301 missing
load_begin $disk "$log" --area 4096:256
server_again 12301
all_healthy 60
load_end "$log"
equal $L0 $L1 "$image"

echo "- adding a copy is cancelled"
dst remove live $remote
blkdiscard --zeroout --force --quiet $disk
log=$TMP/log3
dst set live heal-min=64K heal-max=64K
load_begin $disk "$log" --area 256:512 --rate 100
before=$(attr live healed)
dst add live $remote
wait_until 30 bash -c "((\$(</sys/devices/live/healed) > $before))"
role_is live :12301 healing
in_time 30 dst remove live $remote
same 2 "$(nodes)" "number of nodes"
load_goes_on "$log"
healthy live
load_end "$log"
# No superblock: it is of nobody.
same 0 "$(tail -c 8192 "$image" | tr -d '\0' | wc -c)" "bytes that are left in the superblocks"
equal $L0 $L1
oracle check "$log" --acked --settle disk=$disk $L0 $L1
load_begin $disk "$log" --area 256:512 --rate 100
dst set live heal-max=0 heal-min=1G
dst add live $remote
all_healthy
load_end "$log"
equal $L0 $L1 "$image"
oracle check "$log" --acked --settle disk=$disk $L0 $L1 "$image"

echo "- a copy that is gone for good"
server_kill 12301
dd if=/dev/urandom of=$disk bs=4k count=1 oflag=direct status=none
wait_until 30 role_is live :12301 missing
attr_is live health degraded
in_time 10 dst remove live $remote
healthy live
equal $L0 $L1

echo "- what was told"
wait_until 10 saw heal-start
wait_until 10 saw heal-done
hush
delete live
refused() { refuse "$@"; [[ ! -e /sys/devices/live ]] || fail "a storage was left behind"; }
server_again 12301
refused 'removed from storage' dst assemble live $L0 $L1 $remote
dst assemble live $L1 $L0
healthy live
delete live

echo "- a copy that was written to elsewhere"
dst create apart --alg alg_mirror $L0 $remote --force --start-array
disk=/dev/dst-apart
listen apart
# leaves : the remote copy is lost, and lacks something; its disk is $raw.
leaves() {
	server_kill 12301
	dd if=/dev/urandom of=$disk bs=64k seek=50 count=1 oflag=direct status=none
	wait_until 30 role_is apart :12301 missing
	raw=$(loop "$image")
}
# comes_back EVENT PATTERN : it is refused for that reason, and nothing is written to it.
comes_back() {
	wait_until 10 losetup -d "$raw"
	local was line
	was=$(sha256sum <"$image")
	line=$(so_far)
	server_again 12301
	# It is looked at once a minute, if it was often away.
	wait_until 180 told "$line" ".event == \"$1\" and .role == \"missing\" and (.trouble | test(\"$2\"))"
	dd if=/dev/urandom of=$disk bs=64k seek=60 count=2 oflag=direct status=none
	expect "$2" dst status apart
	expect "$2" attr apart "$(copy apart :12301)/trouble"
	attr_is apart health degraded
	role_is apart :12301 missing
	same "$was" "$(sha256sum <"$image")" "what is on the copy"
	for event in conflict refused; do
		[[ $event == "$1" ]] || not told "$line" ".event == \"$event\"" >/dev/null || fail "it was told of as $event, too"
	done
}
wait_until 60 healthy apart
leaves
dst assemble elsewhere "$raw" --degraded
dd if=/dev/urandom of=/dev/dst-elsewhere bs=64k seek=10 count=3 oflag=direct status=none
delete elsewhere
comes_back conflict 'written to without this storage: conflict'
expect "'dst add apart [^ ]*:12301 --discard' gives up" dst status apart
same true "$(dst status apart --json | jq '.storages[0].nodes[] | select(.type | endswith(":12301")).conflict')" "conflict in JSON"
refuse 'is a copy already' dst add apart $remote
refuse 'no conflict' dst add apart $L0 --discard
line=$(so_far)
# It says what is lost: at least what was written there.
expect 'given up with .*:12301: up to [0-9.]+ [KM]iB that were written on it alone' dst add apart $remote --discard
lost=$(dst status apart --json | jq '.storages[0].nodes[] | select(.type | endswith(":12301")).given_up.bytes')
((3 * 65536 <= lost && lost <= 8 << 20)) || fail "$lost bytes are said to be given up; 192 KiB were written"
wait_until 30 told "$line" '.event == "heal-start"'
wait_until 60 told "$line" '.event == "heal-done"'
wait_until 60 healthy apart
oracle equal "$data" $disk $L0 "$image"

echo "- a copy that has another superblock, or none"
# Removed, it is not this storage that erases what another one has written there.
leaves
dst create foreign --alg alg_mirror "$raw" --force --start-array
delete foreign
comes_back refused 'belongs to another storage'
dst remove apart $remote
wait_until 30 healthy apart
raw=$(loop "$image")
dst assemble foreign "$raw"
delete foreign
wait_until 10 losetup -d "$raw"
refuse "node of storage 'foreign'" dst add apart $remote
refuse 'no copy of this storage' dst add apart $remote --discard
dst add apart $remote --force
wait_until 60 healthy apart
leaves
dd if=/dev/zero of="$raw" bs=512 seek=$((sectors - 16)) count=16 oflag=direct status=none
comes_back refused 'superblock is damaged'
dst remove apart $remote
dst add apart $remote
wait_until 60 healthy apart
oracle equal "$data" $disk $L0 "$image"
hush
delete apart

echo "- a node that is waited for"
dst create line --no-metadata $remote --start-array
listen line
server_kill 12301
wait_until 30 told 0 '.state == "lost" and .role == "none"'
line=$(so_far)
server_again 12301
wait_until 60 told "$line" '.state == "up"'
hush
delete line
wait_until 10 dmsetup remove l0
wait_until 10 dmsetup remove l1
unload
