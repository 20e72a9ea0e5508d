# make run trains; make test checks. make help lists the rest.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUILD   := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# The packages with goroutines, which the race detector runs again; the command apart, without what
# takes turns or happens in other processes.
RACE := ./protocol ./deploy ./dispatch ./actor ./replay ./learner ./monitor ./monitor/dashboard ./watchdog ./model ./model/internal/kernel

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: help build run test kernel-paths test-dashboard bench chaos soak demo-dispatch fmt-check lint vuln alert-check generate-check cross-build deploy-check test-compose clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build bin/dreamfleet, static
	$(BUILD) -o bin/dreamfleet ./cmd/dreamfleet

run: build ## train the preset small; the same command again resumes it
	bin/dreamfleet train --preset small --run runs/small

test: ## vet, all tests with fuzz seeds, the race detector on the concurrent packages
	go vet ./...
	go test -timeout 8m ./...
	go test -timeout 8m -race $(RACE)
	go test -timeout 8m -race -skip 'Lockstep|Launch|Experiment' ./cmd/dreamfleet
	go test -timeout 8m -race -run Runner ./experiment
	@$(MAKE) --no-print-directory kernel-paths

# Not from the cache, which does not know that the variable is read before the tests
# begin, and without the tests that learn, which take long on the portable path.
kernel-paths: ## the agent's tests on the kernel paths that make test does not take
	DREAMFLEET_KERNEL=avx2 go test -count=1 -short ./model/... ./learner/dreamer
	DREAMFLEET_KERNEL=portable go test -count=1 -short ./model/... ./learner/dreamer

# The page in a real headless Chromium. With DASHBOARD_SCREENSHOTS=$PWD/docs/dashboard and
# DASHBOARD_URL, the page of a run under way, it leaves pictures of that, to be looked at.
test-dashboard: ## the dashboard's page in a headless Chromium
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then \
		go vet -tags browser ./monitor/dashboard && go test -count=1 -tags browser ./monitor/dashboard; \
	elif [ -n "$$CI" ]; then \
		echo "no chromium: the dashboard's page cannot be tested; apt-get install chromium"; exit 1; \
	else \
		echo "dashboard's page NOT TESTED: there is no chromium here; apt-get install chromium"; \
	fi

bench: build ## measure every part against the limits of this machine, five to fifteen minutes
	bin/dreamfleet bench

# BOUND is what a client may take to find another server; 0 only measures.
FAULTS ?= 20
SEED   ?= 0
BOUND  ?= 15s

chaos: ## kill roles and servers, cut links, and check that nothing is lost; as root
	go test -count=1 -timeout 2h -v ./chaos -faults $(FAULTS) -seed $(SEED) -bound $(BOUND)

# The plots of a short run show the shape of things; whether they are flat takes hours.
DURATION ?= 2h
SOAK_OUT ?= docs/results/soak

soak: ## a fault each minute for DURATION; memory, goroutines, files and disk of every role, plotted; as root
	go test -count=1 -timeout 0 -v ./chaos -run TestSoak -soak $(DURATION) -seed $(SEED) -soak-out $(abspath $(SOAK_OUT))

# A policy of four minutes, then three of jobs.
demo-dispatch: build ## train a policy, then show it at work before real HTTP servers, eight minutes
	bin/dreamfleet train --config dispatch/demo/demo.yaml --run runs/demo-dispatch
	go run ./dispatch/demo --run runs/demo-dispatch --out docs/results/dispatch

fmt-check: ## fail when a file is not formatted
	@files=$$(gofmt -l actor bench chaos cmd deploy dispatch env experiment learner model monitor protocol replay view watchdog); \
	if [ -n "$$files" ]; then echo "gofmt these:"; echo "$$files"; exit 1; fi

lint: ## static analysis
	go run $(STATICCHECK) ./...

# Without the vulnerability database there is nothing to check against; everything else fails.
vuln: ## known vulnerabilities in what is called
	@if out=$$(go run $(GOVULNCHECK) ./... 2>&1); then echo "$$out"; \
	elif echo "$$out" | grep -q 'govulncheck: fetching vulnerabilities:'; then \
		echo "vulnerability check NOT DONE, its database cannot be reached: $$(echo "$$out" | grep fetching)"; \
	else echo "$$out"; exit 1; fi

alert-check: ## give the alert rules and the dashboard to Prometheus's own parser and engine
	cd .ci/alertcheck && go test ./...

generate-check: ## fail when generated files are not what their sources generate
	go generate ./cmd/dreamfleet ./model/internal/kernel
	git diff --exit-code -- docs/configuration.md docs/metrics.md docs/sizing.md model/internal/kernel

# The files of deploy that other programs are for, read as these would. What needs large modules is a
# module of its own; what needs a program that is not there is left out, and said so.
deploy-check: ## check the Dockerfile, compose file, manifests, user data and shell scripts
	cd deploy/internal/validate && go vet ./... && go run . ../..
	sh -n deploy/host.sh && sh -n deploy/compose_test.sh
	@for check in "shellcheck deploy/host.sh deploy/compose_test.sh" "kubectl kustomize deploy/kubernetes" "cloud-init schema --config-file deploy/cloud-init/actor.yaml"; do \
		if ! command -v $${check%% *} >/dev/null; then echo "NOT DONE, $${check%% *} is not installed: $$check"; \
		else echo "$$check" && $$check >/dev/null || exit 1; fi; done

test-compose: ## train in containers, where there is Docker
	@if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then deploy/compose_test.sh; \
	else echo "NOT DONE, there is no Docker with its plugin compose here: deploy/compose_test.sh"; fi

cross-build: ## build for both architectures
	GOOS=linux GOARCH=amd64 $(BUILD) -o bin/dreamfleet-linux-amd64 ./cmd/dreamfleet
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/dreamfleet-linux-arm64 ./cmd/dreamfleet

clean: ## remove what was built; runs stay
	rm -rf bin
