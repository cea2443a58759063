# Everything is built from here; `make help` lists the targets.
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -s -w -X hezi/internal/version.Version=$(VERSION)
STATIC = CGO_ENABLED=0 $(GO) build -trimpath
INITBIN = internal/box/initbin/bin
HELLOBIN = internal/image/hello/bin

.PHONY: build
build: embedded ## build bin/hezi, bin/hezid and bin/hezi-keeper
	$(STATIC) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/hezi ./cmd/hezid ./cmd/hezi-keeper

# What is embedded into other binaries: init and the tiny init into the
# keeper, the greeting program into the engine.
.PHONY: embedded
embedded:
	@mkdir -p $(INITBIN) $(HELLOBIN)
	$(STATIC) -ldflags '-s -w' -o $(INITBIN)/hezi-init ./cmd/hezi-init
	gcc -Os -static -nostdlib -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Werror -o $(INITBIN)/hezi-tiny cmd/hezi-tiny/tiny.c
	$(STATIC) -ldflags '-s -w' -o $(HELLOBIN)/hezi-hello ./cmd/hezi-hello
