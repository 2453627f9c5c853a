# Everything here needs Go and, from Debian, make, git, python3, age, openssl, postgresql, pgbouncer, nats-server, redis-server, nodejs, npm and prometheus (promtool); "race" also needs gcc. Nothing is written outside
# of bin/ and Go's caches.

MODULE  := orrery.example/orrery
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X $(MODULE)/internal/cli.Version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Packages at once. Two fit a small machine; a large one may say more: make test JOBS=8
JOBS      ?= 2
TIMEOUT   ?= 10m
RACE      ?= ./internal/engine/... ./internal/store/... ./internal/worker/... ./internal/control/... ./internal/attest/... ./internal/app/...
FUZZTIME  ?= 10s
BENCH     ?= .
BENCHTIME ?= 1s

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build test unit services format vet arch race fuzz lint bench bench-peers bench-smoke demo docs docs-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build bin/orrery
	./scripts/build.sh bin/orrery -ldflags '$(LDFLAGS)'

test: format arch vet unit ## THE tests: format, shape of the tree, vet and every test

format:
	@bad=$$(gofmt -l .); \
	if [ -n "$$bad" ]; then echo "not formatted; run gofmt -w on:"; echo "$$bad"; exit 1; fi

arch:
	go test ./internal/arch

vet:
	go vet ./...

unit: services
	go test -vet=off -p $(JOBS) -timeout $(TIMEOUT) ./...

services: ## build the servers and the second kernel that tests use, once
	go test ./internal/testservice -run '^TestPrebuild$$' -timeout 30m

race: ## run the packages that work concurrently under the race detector (needs gcc)
	CGO_ENABLED=1 go test -race -p $(JOBS) -timeout $(TIMEOUT) $(RACE)

fuzz: ## run every fuzz target for FUZZTIME (10s); FUZZTOTAL bounds the whole
	FUZZTIME=$(FUZZTIME) FUZZTOTAL=$(FUZZTOTAL) ./scripts/fuzz.sh

lint: ## run staticcheck
	go run $(STATICCHECK) ./...

bench: ## run the benchmarks that match BENCH (all)
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 30m ./...

bench-peers: ## measure Orrery beside River, Temporal's dev server, Asynq, JetStream and backlite; writes docs/performance and the table of the README
	cd bench && go run -mod=mod -tags temporal . -report ../docs/performance/report

bench-smoke: ## see that the same bench still runs, with next to nothing to do
	cd bench && go vet -mod=mod . && go run -mod=mod . -passes 1 -systems orrery-embedded,orrery-up,jetstream,backlite -workloads W1,W2,W3,W7 \
		-jobs 200 -singles 50 -samples 5 -fan 20 -strict

demo: build ## show the product on examples
	PATH="$(CURDIR)/bin:$$PATH" ./scripts/demo.sh

docs: ## write what is generated: the list of packages, the reference of commands
	go test ./internal/arch -run '^TestArchitecture$$' -write
	go test ./internal/cli -run '^TestReference$$' -update
	go test ./internal/metric -run '^TestReference$$' -update

docs-check: ## check links, what is generated, and every command that the documents show
	go test ./internal/arch -run '^TestArchitecture$$|^TestTree$$/^(link|adr|word)$$'
	go test ./internal/cli ./internal/metric -run '^TestReference$$'
	go test ./test/blackbox -run '^TestDocuments$$|^TestExitCodes$$'

clean: ## remove what was built
	rm -rf bin
