# Everything a fresh Debian 12 with git and cargo needs is installed by the targets that need it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BUILD_PACKAGES := clang m4 libelf-dev zlib1g-dev make pkg-config gcc libc6-dev linux-libc-dev
RUN_PACKAGES   := iproute2 iptables nftables ipset
TEST_PACKAGES  := iputils-ping iperf3 netcat-openbsd procps util-linux bird2 curl conntrack conntrackd dnsmasq-base traceroute

.PHONY: help packages build release demo test twin fmt lint bench scale clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

packages: ## install the missing Debian packages
	@./.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)

build: packages ## build everything, with debug assertions
	cargo build --workspace --all-targets --locked

release: packages ## build the shunt binary for use: target/release/shunt
	cargo build --release --locked -p shunt-control

demo: packages ## the "marking packets" chapter, live, in network namespaces (as root)
	cargo build --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/debug/demo

test: packages ## rustfmt, clippy, all tests; those in network namespaces need root
	@./.ci/test

twin: packages ## random configurations and packets against the kernel (as root): SECONDS=600 KIND=netfilter|nat SEED=n CASE=n
	cargo build --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/debug/twin --seconds $(or $(SECONDS),60) $(if $(KIND),--kind $(KIND)) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

fmt: ## format the code
	cargo fmt --all

lint: packages ## rustfmt and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: packages ## micro-benchmarks of the packet path on the in-memory port
	cargo bench --locked -p shunt-benches

scale: packages ## the mirror at the size of the Internet, measured (as root): benches/results/scale.json
	@./.ci/packages python3-pyasn
	cargo build --release --locked -p shunt-control -p shunt-tests --bins
	@./.ci/as-root target/release/scale

clean: ## remove what was built
	cargo clean
