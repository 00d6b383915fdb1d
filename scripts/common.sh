# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# What every script here shares: where things are kept, how a step is announced, and how an artefact
# of the cache is made once, by one process, under a name that appears only when it is complete.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${DST_CACHE:-$HOME/.cache/dst}
# The suite whose toolchain built the kernel, and the kernel series that DST is written for.
SUITE=trixie
SERIES=7.3

step() { printf '==> %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

need_root() { [[ $EUID -eq 0 ]] || die "this needs root (build and VM roots are made with mmdebstrap): use sudo"; }

need_commands() {
	local c
	for c; do
		command -v "$c" >/dev/null || die "$c is missing: apt-get install $(package_of "$c")"
	done
}

package_of() {
	case $1 in
	qemu-system-x86_64) echo qemu-system-x86 ;;
	mkfs.ext4) echo e2fsprogs ;;
	depmod) echo kmod ;;
	*) echo "$1" ;;
	esac
}

# key FILE-OR-STRING... : a short hash of the contents of files and of plain strings.
key() {
	local a
	for a; do
		if [[ -f $a ]]; then sha256sum <"$a"; else printf '%s\n' "$a"; fi
	done | sha256sum | cut -c1-12
}

# cached NAME FUNCTION : make $CACHE/NAME by running `FUNCTION TEMPORARY`, unless it is there.
# Only the finished artefact gets the name, so an interrupted run leaves nothing that looks finished.
cached() {
	local name=$1 make=$2 lock
	[[ -e $CACHE/$name ]] && return 0
	mkdir -p "$CACHE/lock"
	exec {lock}>"$CACHE/lock/${name//\//_}"
	flock -n "$lock" || { step "waiting for another process that makes $name"; flock "$lock"; }
	if [[ ! -e $CACHE/$name ]]; then
		rm -rf "$CACHE/$name.new"
		mkdir -p "$(dirname "$CACHE/$name")"
		"$make" "$CACHE/$name.new" >&2
		mv -T "$CACHE/$name.new" "$CACHE/$name"
	fi
	exec {lock}>&-
}

# The Debian mirror that this machine uses itself.
mirror() {
	local uri
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
		'Origin: Debian' 'Label: Debian' 'Component: main' | head -n 1)
	[[ -n $uri ]] || die "apt knows no Debian mirror (main): run apt-get update"
	printf '%s\n' "$uri"
}

# The apt settings that a root of ours needs in order to reach that mirror as this machine does.
apt_options() {
	apt-config dump | grep -E '^Acquire::(http|https)::Proxy |^Acquire::Check-(Valid-Until|Date) ' |
		sed 's/^/--aptopt=/' || true
}

# debstrap DIR PACKAGES [OPTION...] : a minimal Debian with these packages.
debstrap() {
	local dir=$1 packages=$2 uri options
	shift 2
	uri=$(mirror)
	mapfile -t options < <(apt_options)
	mmdebstrap --mode=root --variant=minbase --format=directory --quiet \
		--aptopt='APT::Install-Recommends "false"' "${options[@]}" \
		--include="${packages//[[:space:]]/,}" "$@" "$SUITE" "$dir" \
		"deb $uri $SUITE main" "deb $uri $SUITE-updates main" "deb $uri $SUITE-backports main"
}

# inside ROOT COMMAND... : run in a root that sees the cache and this checkout at their own paths.
# The mounts live in a mount namespace of their own: they are gone with its last process.
inside() {
	local root=$1
	shift
	# shellcheck disable=SC2016
	unshare -m --propagation private bash -ec '
		root=$1 cache=$2 top=$3; shift 3
		mount --bind "$root" "$root"
		mkdir -p "$root$cache" "$root$top"
		mount --bind "$cache" "$root$cache"
		mount --bind "$top" "$root$top"
		for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
		[[ -e /etc/resolv.conf ]] && cp -L /etc/resolv.conf "$root/etc/resolv.conf"
		[[ -e /etc/hosts ]] && cp -L /etc/hosts "$root/etc/hosts"
		exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
			"TERM=${TERM:-dumb}" "$@"
	' inside "$root" "$CACHE" "$TOP" "$@"
}

# cached_tree NAME FUNCTION : as `cached`, for what can't be moved after it was made: the mark of completeness is a
# file in it. A run that was interrupted is taken up where it stopped.
cached_tree() {
	local name=$1 make=$2 lock
	[[ -e $CACHE/$name/.complete ]] && return 0
	mkdir -p "$CACHE/lock" "$CACHE/$name"
	exec {lock}>"$CACHE/lock/${name//\//_}"
	flock -n "$lock" || { step "waiting for another process that makes $name"; flock "$lock"; }
	if [[ ! -e $CACHE/$name/.complete ]]; then
		"$make" "$CACHE/$name" >&2
		touch "$CACHE/$name/.complete"
	fi
	exec {lock}>&-
}
