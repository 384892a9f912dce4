.DEFAULT_GOAL := help
.PHONY: help demo demo-stop build deb test simulate fuzz bench bench-cloud bench-wear lint format migrate dependencies clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## The whole path on this machine, audited (DEMO_DEVICES, DEMO_SECONDS, DEMO_KEEP=1)
	@scripts/demo.sh

demo-stop: ## End a demo that DEMO_KEEP=1 left running
	@scripts/demo.sh stop

build: ## Build the three programs in release mode
	@scripts/install-dependencies.sh
	@scripts/build.sh sluice sluice-edge sluice-cloud

deb: ## Build the Debian package in release mode, into .package
	@scripts/install-dependencies.sh test
	@scripts/package.sh

test: ## Lint, build, run every test on real parts, show coverage
	@scripts/test.sh

simulate: ## The edge under seeded crashes, lost answers and failing disks, a million runs (SEEDS, FIRST, JOBS); for every night
	@scripts/simulate.sh

fuzz: ## A million inputs each for the decoder and the broker (FUZZ_RUNS, FUZZ_SECONDS); for every night
	@scripts/fuzz.sh

bench: ## The edge with its ratio to Mosquitto in the same run, then the cloud; each with what is required
	@scripts/install-dependencies.sh test
	@Benchmarks/bench.sh
	@Benchmarks/cloud.sh

bench-cloud: ## The cloud alone: log into database, sync endpoint into log, device to row
	@scripts/install-dependencies.sh test
	@Benchmarks/cloud.sh

bench-wear: ## Bytes written to the disk for each byte stored, at commit delays of 0, 10 and 100 ms
	@scripts/install-dependencies.sh test
	@Benchmarks/wear.sh

lint: ## Check the code's format
	swift format lint --strict --recursive Sources Tests Benchmarks

format: ## Mend the code's format
	swift format --in-place --recursive Sources Tests Benchmarks

migrate: ## Bring a database up to date (DATABASE=postgresql://…)
	@test -n "$(DATABASE)" || { echo "error: say which: make migrate DATABASE=postgresql://…" >&2; exit 1; }
	swift run -c release sluice migrate up --database "$(DATABASE)"

dependencies: ## Install the Debian packages for building and testing
	@scripts/install-dependencies.sh test

clean: ## Delete what building, testing and the demo made
	@scripts/demo.sh stop
	rm -rf .build .build-fuzz .demo .test .fuzz .package
