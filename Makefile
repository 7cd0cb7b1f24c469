# blockd: what a developer does with it. `make` alone prints this menu; every
# target does its own set-up (as root it installs the Debian packages that are
# missing, otherwise it prints the one line that does).

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

GO       ?= go
BINARIES := blockd blockctl blockbench testenv
# Static: no cgo. -trimpath and an empty build id make two builds of one commit equal.
GOBUILD  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags=-buildid=
FUZZTIME ?= 20s
# How many power cuts `make powercut` makes, and with which seed (0: by the clock).
CUTS     ?= 1000000
SEED     ?= 0
# How many times `make vm` and `make test` kill blockd while a VM writes to it.
KILLS    ?= 10
# How many simulated networks `make wire` and `make test` try.
WIRE_SEEDS ?= 10000
# How many simulated clusters `make simulate` tries, without end if it is not set, and `make test`, 2000 then.
SIM_SEEDS ?=
# How many times `make crash` kills blockd while blockbench writes to it.
CRASHES  ?= 30

# How often `make reliability-all` does each fault.
ROUNDS   ?= 1

# The nodes of `make cluster`, and where it keeps them.
NODES    ?= 3
CLUSTER_DIR ?= /tmp/blockd-cluster

.PHONY: help
help: ## this menu
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET, where TARGET is one of"} \
	  /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## static bin/blockd, bin/blockctl, bin/blockbench, bin/testenv
	@scripts/need.sh build
	@mkdir -p bin
	$(GOBUILD) -o bin/ $(addprefix ./tools/,$(BINARIES))
	@scripts/check-static.sh $(addprefix bin/,$(BINARIES))

.PHONY: run
run: build ## build, then run a one-node blockd in the foreground
	bin/blockd dev

.PHONY: test
test: ## everything that CI runs, with a summary at the end (up to 40 minutes)
	@KILLS=$(KILLS) WIRE_SEEDS=$(WIRE_SEEDS) SIM_SEEDS=$(SIM_SEEDS) scripts/test.sh

.PHONY: unit
unit: ## the Go tests of all packages, under the race detector
	@scripts/need.sh build race
	$(GO) test -race ./...

.PHONY: lint
lint: ## formatting, vet, golangci-lint, generated code, go.mod
	@scripts/lint.sh

.PHONY: conformance
conformance: build ## iscsi-test-cu, qemu-img and qemu-io against bin/blockd
	@scripts/need.sh conformance
	$(GO) test -tags e2e -count=1 -timeout 20m -v ./testenv/conformance/...

.PHONY: crash
crash: build ## CRASHES=30 times kill -9 of bin/blockd under a load that is verified
	BLOCKD_E2E_CRASHES=$(CRASHES) $(GO) test -tags e2e -count=1 -timeout 60m -v ./tools/blockbench

.PHONY: vm
vm: build ## the Linux initiators in a VM against bin/blockd; KILLS=n crashes
	@scripts/need.sh vm
	BLOCKD_E2E_KILLS=$(KILLS) $(GO) test -p 1 -parallel 2 -tags e2e -count=1 -timeout 60m -v ./testenv/vm ./testenv/vmtest

.PHONY: vm-cluster
vm-cluster: build ## the Linux initiators in a VM with paths to three nodes, which are killed and restarted; needs root
	@scripts/need.sh vm cluster
	$(GO) test -tags e2e -count=1 -timeout 30m -v -skip Faults ./testenv/vmcluster

.PHONY: vm-faults
vm-faults: build ## the same initiators while nodes, disks and networks fail in ten ways; needs root
	@scripts/need.sh vm cluster
	$(GO) test -tags e2e -count=1 -timeout 60m -v -run Faults ./testenv/vmcluster

.PHONY: cluster
cluster: build ## NODES=3 real nodes in network namespaces, in the foreground; needs root
	@scripts/need.sh cluster
	@bin/testenv cluster up --foreground --nodes $(NODES) --dir $(CLUSTER_DIR)

.PHONY: powercut
powercut: ## CUTS=1000000 power cuts of the extent store; SEED=n repeats a run
	@CUTS=$(CUTS) SEED=$(SEED) scripts/powercut.sh

.PHONY: wire
wire: ## WIRE_SEEDS=10000 simulated networks under the transport between nodes
	@scripts/need.sh build
	BLOCKD_WIRE_SEEDS=$(WIRE_SEEDS) $(GO) test -count=1 -run 'TestSeeds$$' -v ./replication/wire

.PHONY: simulate
simulate: ## simulated clusters under the replication protocol, ever new ones until ^C, or SIM_SEEDS=2000
	@scripts/need.sh build
	$(GO) test -tags invariants -count=1 -timeout 0 -run 'TestCluster$$' -v ./replication/sim -seeds $(or $(SIM_SEEDS),0)

.PHONY: simulate-mutations
simulate-mutations: ## the simulation finds every mistake planted in the protocol
	@scripts/need.sh build
	$(GO) test -tags mutations -count=1 -timeout 30m -run TestMutations -v ./replication/sim

.PHONY: links
links: ## AF_XDP and UDP links, and nodes on them, in network namespaces; needs root
	@scripts/need.sh build
	$(GO) test -p 1 -tags e2e -count=1 -run 'ConformanceEverywhere|Kinds|Full|MTU|NoRoute|Suite' -v \
	  ./afxdp/xdplink ./afxdp/link/udplink ./replication/wire/endpoint ./tools/blockbench/netbench

.PHONY: cluster-test
cluster-test: build ## clusters of real nodes in network namespaces, under faults; needs root
	@scripts/need.sh cluster
	$(GO) test -p 1 -tags e2e -count=1 -timeout 15m -v ./testenv/cluster ./testenv/clusterbench
	$(GO) test -p 2 -tags e2e -count=1 -timeout 15m -v ./testenv/calls ./testenv/mixed
	$(GO) test -tags e2e -count=1 -timeout 15m -run TestNoAcknowledgedChangeIsLost -v ./tools/blockd/daemon

.PHONY: reliability
reliability: build ## replicated volumes on three real nodes under most faults; needs root
	@scripts/need.sh cluster
	$(GO) test -p 1 -tags e2e -count=1 -timeout 20m -v ./testenv/cluster/trial

.PHONY: reliability-all
reliability-all: build ## the same under every fault, ROUNDS=1 times, as a table; needs root
	@scripts/need.sh cluster
	bin/testenv cluster trial --dir $(CLUSTER_DIR)-trial --rounds $(ROUNDS)

.PHONY: kernels
kernels: ## the kernel programs and AF_XDP under Debian's kernels 6.1 and 6.12, in VMs
	@scripts/need.sh build vm
	$(GO) test -p 1 -tags e2e -count=1 -timeout 30m -v ./testenv/kernels

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME=20s
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: bench
bench: build ## the benchmarks, beside the peers that are installed
	@scripts/need.sh bench
	bin/blockbench suite
	bin/blockbench net suite
	bin/testenv cluster bench

.PHONY: bench-net
bench-net: build ## the network between nodes beside the kernel's TCP; needs root
	bin/blockbench net suite

.PHONY: generate
generate: ## regenerate what is generated
	@scripts/need.sh generate
	$(GO) generate ./...

.PHONY: clean
clean: ## remove what the other targets made, but not ./data
	rm -rf bin .build
