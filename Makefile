# The one door to building and testing. `make` alone lists what there is.
# Needs: Go (the version in go.mod), git, make. Everything else is fetched into
# a cache directory of the user, or named with the command that installs it.

MODULE   := github.com/holdfast-dr/holdfast
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
DATE     := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast
LINTER   := v2.15.0
GOLANGCI := $(CACHE)/bin/golangci-lint-$(LINTER)

FUZZTIME ?= 10s
STACK    ?=
BENCH    ?=
SCHEDULES ?= 20000
POINTS ?= 20
REAL ?= 100

# Kinds of test run one after the other: they share two cores and one cache.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help build test unit integration lint fuzz demo stack bench-mirror bench-backup chaos-lease chaos-mirror chaos-recovery tools-race
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## one static binary with its version stamped, in build/holdfast
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION) -X main.date=$(DATE)" -o build/holdfast ./cmd/holdfast

test: ## lint, unit tests and integration tests; ends with what ran (what .ci/run calls)
	@rm -rf build/test; failed=0; \
	for kind in lint unit integration; do $(MAKE) --no-print-directory $$kind || failed=1; done; \
	go run ./internal/tidy/testrun -report vet lint unit integration || failed=1; \
	exit $$failed

unit: tools-race ## unit tests with the race detector
	@CGO_ENABLED=1 go run ./internal/tidy/testrun -kind unit -- go test -json -race -timeout 10m ./...

integration: ## tests on real Kafka, ClickHouse, Postgres and S3, which are installed on first use
	@go run ./internal/tidy/testrun -kind integration -- go test -json -tags integration -count 1 -p 1 -timeout 25m ./integration/...

lint: $(GOLANGCI) ## formatting, go vet, golangci-lint (.golangci.yml says why each linter is there)
	@unformatted=$$(gofmt -l . | grep -v '^build/' || true); \
	if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	@go run ./internal/tidy/testrun -kind vet -- go vet -tags integration ./...
	@go run ./internal/tidy/testrun -kind lint -- $(GOLANGCI) run ./...

fuzz: ## every fuzz target for FUZZTIME (10s) each
	@found=0; while IFS=: read -r file name; do \
		found=1; echo "fuzz $${name#func } in $$(dirname $$file) for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$${name#func }\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$(dirname $$file)"; \
	done < <(git grep --untracked -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go'); \
	[ $$found = 1 ] || { echo "no fuzz target found"; exit 1; }

demo: ## two regions and a witness on real services: planned switch, recovery set, failover, drill, return, planned failback (100 s once installed)
	@go build -o build/bin/ ./integration/demo && exec build/bin/demo

stack: ## two regions' services in the foreground, described in build/stack/endpoints.yaml
	@go build -o build/bin/stack ./integration/stack/cmd && exec build/bin/stack $(STACK)

bench-mirror: ## the mirror beside a consumer and producer, on real Kafka; ends with ratios (BENCH="-records 300000 -size 1000")
	@go build -o build/bin/ ./integration/bench && exec build/bin/bench mirror $(BENCH)

bench-backup: ## backups and restores beside the stores' own means, on real Postgres, ClickHouse and S3; ends with ratios (BENCH="-issues 200000 -events 2000000 -rounds 3")
	@go build -o build/bin/ ./integration/bench && exec build/bin/bench backup $(BENCH)

chaos-lease: ## SCHEDULES (20000) random lease histories on skewed clocks; SEED=n repeats one run
	@seed=$${SEED:-$$(date +%s)}; echo "chaos-lease: $(SCHEDULES) schedules, repeat with: make chaos-lease SEED=$$seed"; \
	out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	HOLDFAST_SEED=$$seed HOLDFAST_SCHEDULES=$(SCHEDULES) \
		go test ./consensus -run 'TestLease_TwoRegionsNeverAct$$' -count 1 -v -timeout 60m | tee "$$out" | grep --line-buffered -v '^{' || failed=1; \
	grep '^{' "$$out" | tail -n 1; exit $${failed:-0}

chaos-mirror: MODEL = $(if $(filter file,$(origin SCHEDULES)),1000,$(SCHEDULES))
chaos-mirror: ## SCHEDULES (1000) histories of racing mirrors on the model, REAL (100) on real Kafka with kills, stops and cuts; SEED=n repeats one run (6 min)
	@seed=$${SEED:-$$(date +%s)}; echo "chaos-mirror: $(MODEL) schedules and $(REAL) real ones, repeat with: make chaos-mirror SEED=$$seed"; \
	out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	HOLDFAST_SCHEDULES=$(MODEL) go test ./replicate -run 'TestPartition_NeverRewindsNeverGapsNeverDuplicates$$' -count 1 -timeout 60m -rapid.seed=$$seed; \
	HOLDFAST_SEED=$$seed HOLDFAST_SCHEDULES=$(MODEL) HOLDFAST_REAL=$(REAL) \
		go test -tags integration ./integration -run 'TestChaos_MirrorsKeepOffsetsThroughKillsAndCuts$$' -count 1 -v -timeout 120m | tee "$$out" | grep --line-buffered -v '^{' || failed=1; \
	grep '^{' "$$out" | tail -n 1; exit $${failed:-0}

chaos-recovery: ## POINTS (20) kills of daemon, S3, ClickHouse and Postgres each, in backups and in drills; SEED=n repeats one run (25 min)
	@seed=$${SEED:-$$(date +%s)}; echo "chaos-recovery: $(POINTS) points for each of 8 victims, repeat with: make chaos-recovery SEED=$$seed"; \
	out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	HOLDFAST_SEED=$$seed HOLDFAST_POINTS=$(POINTS) \
		go test -tags integration ./integration -run 'TestRecovery_SurvivesKillsInTheMiddle$$' -count 1 -v -timeout 120m | tee "$$out" | grep --line-buffered -v '^{' || failed=1; \
	grep '^{' "$$out" | tail -n 1; exit $${failed:-0}

# The race detector needs a C compiler; the product does not.
tools-race:
	@command -v "$$(go env CC)" >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing gcc, which go test -race needs"; apt-get update -q && apt-get install -q -y gcc libc6-dev; \
	else \
		echo "go test -race needs a C compiler; install one: sudo apt-get install gcc libc6-dev"; exit 1; \
	fi

$(GOLANGCI):
	@echo "installing golangci-lint $(LINTER) into $(CACHE)/bin (once, about 2 minutes)"
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	CGO_ENABLED=0 GOFLAGS= GOBIN=$$tmp go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINTER); \
	mkdir -p $(CACHE)/bin; mv $$tmp/golangci-lint $@
