# SPDX-License-Identifier: GPL-2.0
# DST. `make help` lists what there is.

# Which kernel to build for and to test on: stock (Debian's) or debug (tests/debug.config).
KERNEL ?= stock
# A prepared tree with Rust metadata, to build against natively. Default: the running kernel's where it has them; else
# a tree of Debian's kernel that is made in the cache folder (DST_CACHE, ~/.cache/dst).
KDIR ?=
# The release that install puts the module under, and that the cache's kernel must be.
KVER ?=
# Tests to run: parts of their names. Options of tests/run. Rounds of the soak test.
T ?=
RUN ?=
N ?= 20
export KDIR KVER DESTDIR PREFIX

.PHONY: all setup module tools check-kernel install uninstall clean test test-host test-debug simulate demo bench soak shell fmt lint \
	docs help

all: module tools ## Build dst.ko and the dst command

setup:
	@scripts/setup

module: ## Build the modules only (KERNEL=debug, KDIR=, KVER=)
	@scripts/build-module $(KERNEL)

tools: ## Build the dst command only
	@scripts/build-tools build --release --quiet

check-kernel: ## Say what keeps the module from being built natively for a kernel (KDIR=)
	@scripts/check-kernel $(KDIR)

install: ## Install module (KVER=), command, man page, completions, udev rule, systemd unit (PREFIX=, DESTDIR=)
	@scripts/install

uninstall: ## Remove what install installed
	@scripts/install --remove

clean: ## Remove what was built in this checkout; the cache stays
	rm -rf out *.ko
	@test ! -e tools/Cargo.toml || scripts/build-tools clean --quiet

test-host: ## Tests that need no VM
	@scripts/build-tools test --release --quiet --workspace

test: setup all test-host ## Host tests, and VM tests on Debian's kernel (T="NAME...": only those)
	@tests/run $(RUN) $(T)

test-debug: setup tools ## VM tests on the debug kernel, which is built first (20 minutes, once)
	@scripts/build-module debug
	@tests/run --kernel debug $(RUN) $(T)

simulate: ## The mirror's core, and sessions, against everything that can fail, until interrupted (DST_SIM_FROM=seed)
	@DST_SIM_SECONDS=0 DST_SIM_FROM=$${DST_SIM_FROM:-$$(date +%s)000} \
		scripts/build-tools test --release --quiet -p dst-core --test simulate other_ -- --nocapture --test-threads 2

demo: setup all ## A storage of three nodes, a filesystem on it, and every byte checked
	@tests/demo

bench: setup all ## Instructions for each I/O, beside dm-linear, NVMe/TCP and nbd
	@tests/bench

soak: setup all ## N=20 rounds of mkfs, copy, compare on three remote nodes, and as many power cuts of a mirror (N="--power 100": only these)
	@tests/soak $(N)

shell: setup all ## An interactive shell in a VM (KERNEL=debug)
	@test $(KERNEL) = stock || scripts/build-module $(KERNEL)
	@tests/vm --kernel $(KERNEL) --shell

fmt: ## Format all Rust sources
	@scripts/lint --fix

lint: ## rustfmt, clippy, rustdoc, house rules, shellcheck
	@scripts/lint

docs: ## The documentation in the sources, as pages
	@scripts/docs

help: ## This list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 14
