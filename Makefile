# Everything that is done with this repository. `make` lists it.

KILLS    ?= 200
FUZZTIME ?= 10m
BENCH    ?= .

# Targets and their explanations: `target: ## what it does`.
.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
	go test -race -shuffle=on -timeout 15m ./...
	@echo "== kills"
	@$(MAKE) --no-print-directory faults KILLS=20

.PHONY: faults
faults: ## kill a running grout KILLS times (200) and count what it answered for
	@go test -list 'TestKill|TestCrashPoints|TestLostStores' ./integration/ | grep -q '^Test' || { echo "no fault tests found"; exit 1; }
	GROUT_FAULT_KILLS=$(KILLS) go test -count=1 -timeout 60m -run 'TestKill|TestCrashPoints|TestLostStores' -v ./integration/

.PHONY: fuzz
fuzz: ## run every fuzz target of schemas and bus for FUZZTIME (10m) each
	@for package in ./schemas ./bus; do \
		targets="$$(go test -list '^Fuzz' $$package)" || { echo "$$targets"; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$package || exit 1; \
		done; \
	done

.PHONY: bench
bench: ## run the benchmarks that match BENCH (all)
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...
