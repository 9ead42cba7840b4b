# Everything a user needs: `make demo` and `make test` do all set-up themselves.
.PHONY: setup build install demo test verify lint bench clean

PREFIX ?= /usr/local

setup:
	@scripts/setup

build: setup
	cargo build --release --locked -p twinplane

install: build
	install -D -m 755 target/release/twinplane $(DESTDIR)$(PREFIX)/bin/twinplane

demo: build
	target/release/twinplane trace --out target/demo
	@echo "page: $(CURDIR)/target/demo/index.html"

test: setup lint
	cargo test --workspace --locked --no-fail-fast

# Generated states, a few of them by real sockets; ARGS="--states 5000 --seed 7" for others.
verify: setup
	cargo run --locked -p twinplane -- verify $(or $(ARGS),--states 1000 --sockets 10)

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# ARGS=--quick: a minute instead of six.
bench: setup
	@cargo build --release --locked -p twinplane-bench
	@target/release/twinplane-bench $(ARGS)

clean:
	cargo clean
