# Everything a fresh Debian 12 with git and cargo needs is installed by the targets that need it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BUILD_PACKAGES := clang m4 libelf-dev zlib1g-dev make pkg-config gcc libc6-dev linux-libc-dev
RUN_PACKAGES   := iproute2 iptables nftables ipset
BENCH_PACKAGES := ethtool procps util-linux
TEST_PACKAGES  := iputils-ping iperf3 netcat-openbsd bird2 curl conntrack conntrackd dnsmasq-base traceroute valgrind

.PHONY: help packages build release demo test twin fmt lint bench peers micro fib scale crowd clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

packages: ## install the missing Debian packages
	@./.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(BENCH_PACKAGES) $(TEST_PACKAGES)

build: packages ## build everything, with debug assertions
	cargo build --workspace --all-targets --locked

release: packages ## build the shunt binary for use: target/release/shunt
	cargo build --release --locked -p shunt-control

demo: packages ## the "marking packets" chapter, live, in network namespaces (as root)
	cargo build --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/debug/demo

test: packages ## rustfmt, clippy, all tests; those in network namespaces need root
	@./.ci/test

twin: packages ## random configurations and packets against the kernel (as root): SECONDS=600 KIND=netfilter|nat REPLAY=on|off SEED=n CASE=n
	cargo build --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/debug/twin --seconds $(or $(SECONDS),60) $(if $(KIND),--kind $(KIND)) $(if $(REPLAY),--replay $(REPLAY)) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

fmt: ## format the code
	cargo fmt --all

lint: packages ## rustfmt and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: packages ## shunt against the kernel, measured (as root): benches/results/bench.json, target/bench.html; SCENARIO=name ROUNDS=5 SECONDS=1
	cargo build --release --locked -p shunt-control
	@./.ci/as-root target/release/shunt bench $(if $(SCENARIO),--scenario $(SCENARIO)) --rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),1) \
		--json benches/results/bench.json --html target/bench.html

peers: packages ## install what make bench then measures besides: dpdk-testpmd
	@./.ci/packages dpdk-dev librte-net-af-xdp23

micro: packages ## micro-benchmarks of the packet path on the in-memory port
	cargo bench --locked -p shunt-benches

fib: packages ## route look-ups beside those of DPDK's rte_fib
	@./.ci/packages libdpdk-dev
	FIB_TABLE=$(CURDIR)/target/fib.txt cargo bench --locked -p shunt-benches --bench fib
	gcc -O3 -march=native benches/peers/rte_fib.c -o target/rte_fib $$(pkg-config --cflags --libs libdpdk)
	target/rte_fib target/fib.txt

scale: packages ## the mirror at the size of the Internet, measured (as root): benches/results/scale.json
	@./.ci/packages python3-pyasn
	cargo build --release --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/release/scale

crowd: packages ## new TCP connections a second through masquerade, by the kernel and by shunt (as root): RATE=10000 SECONDS=60
	cargo build --release --locked -p shunt-control
	cargo test --locked -p shunt-tests --test nat --no-run
	@./.ci/crowd $(or $(RATE),10000) $(or $(SECONDS),60)

clean: ## remove what was built
	cargo clean
