# Everything that is done with this repository. `make` lists it.

KILLS    ?= 200
FUZZTIME ?= 10m
SEED     ?= 1
DAMAGE   ?= $(or $(TMPDIR),/tmp)/grout-damage
BENCH    ?=
SHARED   ?=

# Targets and their explanations: `target: ## what it does`.
.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## start grout in development mode, data in ./data
	go run ./cmd/grout serve

.PHONY: build
build: ## build ./bin/grout
	go build -trimpath -o bin/grout ./cmd/grout

.PHONY: test
test: ## run all tests
	go test ./...

.PHONY: fmt
fmt: ## format all Go files
	go tool gofumpt -w .

.PHONY: lint
lint: ## formatting, vet and staticcheck
	@echo "== gofumpt"
	@unformatted="$$(go tool gofumpt -l .)" || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	@echo "== go vet"
	go vet ./...
	go vet -tags faults ./...
	@echo "== staticcheck"
	go tool staticcheck ./...

.PHONY: check
check: lint ## all that CI runs: lint, tests with the race detector, a few kills
	@echo "== tests"
	go test -race -shuffle=on -timeout 20m ./...
	@echo "== kills"
	@$(MAKE) --no-print-directory faults KILLS=20

.PHONY: faults
faults: ## kill a running grout KILLS times (200) and count what it answered for
	@go test -list 'TestKill|TestCrashPoints|TestLostStores' ./integration/ | grep -q '^Test' || { echo "no fault tests found"; exit 1; }
	GROUT_FAULT_KILLS=$(KILLS) go test -count=1 -timeout 60m -run 'TestKill|TestCrashPoints|TestLostStores' -v ./integration/

.PHONY: clients
clients: ## let the reference clients meet a grout that is killed, and pipe a million events (ROUNDS=200)
	GROUT_FAULT_KILLS=$(or $(ROUNDS),200) go test -count=1 -timeout 60m -run 'TestReference|TestPipe' -v ./integration/

.PHONY: deliveries
deliveries: ## let a Platform and endpoints of webhooks be away while grout is killed ROUNDS times (30)
	GROUT_DELIVER_ROUNDS=$(or $(ROUNDS),30) go test -count=1 -timeout 60m -run 'TestDeliveries|TestGroutsThatReport' -v ./integration/

.PHONY: live
live: ## let CLIENTS (1000) watch 50 chats while grout is killed ROUNDS times (20), two not read for a minute, and 10,000 come with bad tokens
	GROUT_LIVE_CLIENTS=$(or $(CLIENTS),1000) GROUT_LIVE_KILLS=$(or $(ROUNDS),20) GROUT_LIVE_STALL=60 GROUT_LIVE_BAD_TOKENS=10000 go test -count=1 -timeout 60m -run 'TestLive|TestStalled|TestBadToken|TestSocket|TestEventStream' -v ./integration/

.PHONY: cluster
cluster: ## kill, pause, cut off and slow three NATS nodes and grout, ROUNDS times (100), and count what was answered for
	GROUT_CLUSTER_ROUNDS=$(or $(ROUNDS),100) go test -count=1 -timeout 120m -run 'TestCluster' -v ./integration/ ./bus/

.PHONY: disks
disks: ## let the disk under a running grout fail, fill, hang and be read-only, ROUNDS times (100)
	GROUT_FAULT_KILLS=$(or $(ROUNDS),100) go test -count=1 -timeout 60m -run 'TestDiskErrors|TestSmallDisk|TestReadOnlyDisk|TestStreamThat|TestFullDisk' -v ./integration/

.PHONY: strict
strict: ## let 500 callers race for the last tokens, ROUNDS times (1000), with a kill in every tenth, and search orders for what few did
	GROUT_STRICT_ROUNDS=$(or $(ROUNDS),1000) go test -count=1 -timeout 90m -run 'TestStrict' -v ./integration/

.PHONY: hostile
hostile: ## call plugins that harm, ROUNDS times (100), and look for what they leave behind
	GROUT_HOSTILE_ROUNDS=$(or $(ROUNDS),100) go test -count=1 -p 1 -timeout 150m -run 'TestHostile|TestHostKilled|TestNeighbours' -v ./handlers/plugins/ ./integration/

.PHONY: damage
damage: ## harm one file after the other and compare every answer (KINDS=store,facts ROUNDS=100 SEED=1; goes on where it was, FRESH=1 does not)
	@mkdir -p bin && go build -trimpath -o bin/grout ./cmd/grout && go build -trimpath -o bin/damage ./integration/damage
	bin/damage -binary bin/grout -dir "$(DAMAGE)" -seed $(SEED) $(if $(KINDS),-kinds $(KINDS)) $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(FRESH),-fresh)

.PHONY: formats
formats: ## write the files of RELEASE that every later one must open (never of one that is out)
	@test -n "$(RELEASE)" || { echo "formats needs a release: make formats RELEASE=0.2.0" >&2; exit 1; }
	go test ./store -count=1 -run '^TestMakeFormat$$' -make-format "$(RELEASE)"
	go test ./integration -count=1 -run '^TestMakeDataDirectory$$' -make-data-dir "$(RELEASE)"

.PHONY: fuzz
fuzz: ## run every fuzz target of schemas, store, bus and identity for FUZZTIME (10m) each
	@for package in ./schemas ./store ./bus ./handlers/identity; do \
		targets="$$(go test -list '^Fuzz' $$package)" || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$package || exit 1; \
		done; \
	done

.PHONY: bench
bench: ## measure it from outside and in parts (IDS=10000000: also with ids stored; BENCH=regexp: Go benchmarks; bench-peers: beside PostgreSQL)
ifneq ($(BENCH),)
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...
else
	@dir="$$(mktemp -d)" && trap 'rm -rf "$$dir"' EXIT INT TERM && \
	go build -trimpath -o "$$dir/grout" ./cmd/grout && \
	go build -trimpath -o "$$dir/floor" ./cmd/grout/load/testdata/floor && \
	"$$dir/grout" bench --matrix --floor "$$dir/floor" $(if $(IDS),--stored $(IDS)) $(if $(CACHE),--cache $(CACHE)) $(if $(DURATION),--duration $(DURATION)) $(BENCHFLAGS)
	@echo "== parts"
	go test -run '^$$' -bench . -benchmem ./schemas ./store ./bus ./handlers/...
endif

.PHONY: bench-peers
bench-peers: ## measure beside PostgreSQL by turns, with the yard-stick in SHARED/peers (DURATION and ROUNDS of each line)
	@test -n "$(SHARED)" || { echo "bench-peers needs the directory with peers/load and peers/pgpeer: make bench-peers SHARED=../shared" >&2; exit 1; }
	@for peer in load pgpeer; do test -f "$(SHARED)/peers/$$peer/go.mod" || { echo "bench-peers: there is no yard-stick in $(SHARED)/peers/$$peer" >&2; exit 1; }; done
	GROUT_BENCH_SHARED="$(abspath $(SHARED))" GROUT_BENCH_DURATION="$(DURATION)" GROUT_BENCH_ROUNDS="$(ROUNDS)" \
		go test -run '^$$' -bench '^BenchmarkPeers$$' -benchtime 1x -timeout 60m ./cmd/grout
