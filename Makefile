# Everything is built from here; `make help` lists the targets.
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -s -w -X hezi/internal/version.Version=$(VERSION)
# ARCH is amd64 or arm64. What runs while another machine's programs are made is this machine's.
HOSTARCH := $(subst x86_64,amd64,$(subst aarch64,arm64,$(shell uname -m)))
ARCH ?= $(HOSTARCH)
STATIC = CGO_ENABLED=0 GOARCH=$(ARCH) $(GO) build -trimpath
CROSS_amd64 = x86_64-linux-gnu-gcc
CROSS_arm64 = aarch64-linux-gnu-gcc
TINYCC = $(if $(filter $(HOSTARCH),$(ARCH)),gcc,$(CROSS_$(ARCH)))
INITBIN = internal/box/initbin/bin
HELLOBIN = internal/image/hello/bin
TINYFLAGS = -Os -static -nostdlib -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Werror
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

.PHONY: build
build: embedded ## build bin/hezi, bin/hezid and bin/hezi-keeper
	$(STATIC) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/hezi ./cmd/hezid ./cmd/hezi-keeper

# What is embedded into other binaries: init and the tiny init into the
# keeper, the greeting program into the engine.
.PHONY: embedded
embedded: toolchain
	@mkdir -p $(INITBIN) $(HELLOBIN)
	$(STATIC) -ldflags '-s -w' -o $(INITBIN)/hezi-init ./cmd/hezi-init
	$(TINYCC) $(TINYFLAGS) -o $(INITBIN)/hezi-tiny cmd/hezi-tiny/tiny.c
	$(TINYCC) $(TINYFLAGS) -o $(INITBIN)/hezi-enter cmd/hezi-enter/enter.c
	$(STATIC) -ldflags '-s -w' -o $(HELLOBIN)/hezi-hello ./cmd/hezi-hello

.PHONY: race
race: embedded ## build bin/race/: the three programs with the race detector
	@mkdir -p bin/race
	CGO_ENABLED=1 $(GO) build -race -ldflags '-X hezi/internal/version.Version=$(VERSION)' -o bin/race/ ./cmd/hezi ./cmd/hezid ./cmd/hezi-keeper

.PHONY: toolchain
toolchain:
	@command -v $(TINYCC) >/dev/null || test/setup.sh $(TINYCC)

.PHONY: demo
demo: build ## build, start an engine of its own, run hezi/hello, fetch its page, clean up
	test/demo.sh

.PHONY: lint
lint: embedded ## gofmt, go vet, staticcheck, the import table, the budgets, the documents and the command reference
	@test -z "$$(gofmt -l cmd internal packaging test)" || { echo "not gofmt-ed:"; gofmt -l cmd internal packaging test; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 ./test/arch ./packaging/...

.PHONY: docs
docs: embedded ## write the command reference, docs/reference and docs/zh/reference
	$(GO) run ./packaging/reference

.PHONY: setup
setup: ## install the Debian packages that the tests need, and make the root of their virtual machines (as root)
	test/setup.sh

ifeq ($(PKG),)
ifneq ($(RUN),)
$(error RUN needs PKG, the packages that have the tests: make test PKG=./internal/cli RUN=$(RUN))
endif
endif
.PHONY: test
test: $(if $(PKG),build,setup build race lint) ## every test, against the real engine, as root; PKG=./internal/cli and RUN=EXPRESSION: only those
	$(if $(PKG),$(GO) test -count=1 $(if $(RUN),-run '$(RUN)') $(PKG),test/run.sh)

.PHONY: bench
bench: build ## compare with docker, podman, crun and runc, as far as they are installed
	$(GO) run ./test/bench

.PHONY: test-vm
test-vm: build ## what make test runs beside the rest: cgroup v2, systemd, AppArmor, SELinux, a reboot, the Debian packages, an older kernel and arm64, in virtual machines; sets itself up, as root
	test/vm/all.sh

.PHONY: test-vm-short
test-vm-short: build ## a short one: the most important of cgroup v2, systemd and AppArmor, and a reboot
	test/vm/all.sh short

.PHONY: vm
vm: build ## the one of these that needs no Debian in it (test/vm/engine.sh setup)
	test/vm/engine.sh

.PHONY: vm-powercut
vm-powercut: build ## cut the power of a small virtual machine in pulls and loads, and look for what is lost (test/vm/powercut.sh setup)
	test/vm/powercut.sh

# What is installed beside the programs: man pages and completions.
.PHONY: share
share: build
	@rm -rf dist/share && mkdir -p dist/share/man/man1 dist/share/man/man8 dist/share/completions
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || date +%s) $(GO) run ./packaging/man dist/share/man/man1
	@mv dist/share/man/man1/hezid.8 dist/share/man/man8/
	@for shell in bash zsh fish; do $(GO) run ./cmd/hezi completion $$shell >dist/share/completions/hezi.$$shell || exit 1; done

.PHONY: install
install: build share ## install the engine with its units, man pages and completions into PREFIX (/usr/local), as root
	packaging/install.sh install

.PHONY: uninstall
uninstall: ## take it away again; data and configuration stay
	packaging/install.sh uninstall

.PHONY: deb
deb: share ## make the Debian packages dist/hezi_*.deb and dist/hezi-docker_*.deb
	ARCH=$(ARCH) packaging/packages.sh deb

.PHONY: rpm
rpm: share ## make the packages dist/hezi-*.rpm and dist/hezi-docker-*.rpm of Fedora and its like
	ARCH=$(ARCH) packaging/packages.sh rpm

.PHONY: release
release: ## make archives, Debian packages and RPMs, lists of parts and checksums of the commit, for amd64 and arm64: dist/release
	packaging/release.sh

.PHONY: dev
dev: build ## run an engine under a temporary root, with debug on, until ctrl-c; it leaves nothing
	packaging/dev.sh
