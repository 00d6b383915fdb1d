# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What the tests of two machines share. They leave the scripts `first` and `second` in $TMP/share, which run in the machines
# with the lower half of this file before them.
set -euo pipefail

if [[ -n ${VM:-} ]]; then
	mkdir -p "$TMP/share"
	slow=1
	[[ $KERNEL == stock ]] || slow=5
	# pair SECONDS : runs both scripts, each on a machine of its own, with a cable between them.
	pair() {
		local first status=0 file
		echo "$slow" >"$TMP/share/slow"
		for file in first second; do
			{ echo '. /mnt/dst/tests/host/machines.sh'; cat "$TMP/share/$file"; } >"$TMP/share/$file.sh"
		done
		$VM --listen "$TMP/net" --share "$TMP/share" --timeout $(($1 * slow)) -- bash /mnt/share/first.sh >"$TMP/first" 2>&1 &
		first=$!
		$VM --connect "$TMP/net" --share "$TMP/share" --timeout $(($1 * slow)) -- bash /mnt/share/second.sh >"$TMP/second" 2>&1 || status=$?
		wait "$first" || status=$?
		[[ $status -eq 0 ]] || { tail -n 60 "$TMP/first" "$TMP/second"; exit "$status"; }
	}
	return
fi

export S=/mnt/share
slow=$(<$S/slow)
# until_there FILE... : until the other machine, or somebody here, has left them in $S.
until_there() {
	local file end=$((SECONDS + 200 * slow))
	for file; do
		until [[ -e $S/$file ]]; do
			((SECONDS < end)) || { echo "$file did not come" >&2; exit 1; }
			[[ ! -e $S/failed ]] || exit 1
			sleep 0.2
		done
	done
}
trap 'status=$?; [[ $status -eq 0 ]] || { echo "FAILED: line $LINENO: $BASH_COMMAND" >&2; touch $S/failed; dst status >&2; ip -s addr >&2; }' EXIT
