# `make help` says what there is.
.PHONY: help demo test fuzz check soak bench bench-quick instructions fmt clippy docs

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | column -t -s '|'

demo: ## a proxy before a registry, with a user and the lines to paste; Ctrl-C stops it
	scripts/demo

test: ## installs what the tests need, and runs them all
	tests/install-deps
	tests/run

fuzz: ## every fuzz target for 10 seconds
	tests/fuzz/run

check: fmt clippy docs test fuzz ## what CI runs: format, lints, documentation, tests, fuzzing

# Half an hour; `make soak DURATION=600` is ten minutes.
DURATION ?= 1800
soak: ## clients of every kind and attackers for half an hour: nothing may grow
	tests/install-deps
	SOAK_SECONDS=$(DURATION) cargo test --locked --test it -- soak:: --nocapture

bench: ## what one request costs, step by step; then the same work beside nginx and others
	cargo bench --locked --bench micro
	bench/run

bench-quick: ## the main cases beside nginx, in a minute
	bench/run --cases manifest-basic,blob-get,blob-push,tls-full,memory --peers nginx --repeats 3

instructions: ## fails where a request takes over 5 % more instructions than was kept (callgrind)
	bench/instructions

fmt: ## the code is formatted
	cargo fmt --check
	cargo fmt --check --manifest-path bench/load/Cargo.toml
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml

clippy: ## the lints, all of them errors
	cargo clippy --locked --all-targets -- -D warnings
	CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-$(CURDIR)/target}" \
		cargo clippy --locked --manifest-path bench/load/Cargo.toml --all-targets -- -D warnings
	CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-$(CURDIR)/target}" \
		cargo clippy --locked --manifest-path tests/fuzz/Cargo.toml -- -D warnings

docs: ## the documentation builds and says nothing that is not so
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	scripts/check-docs
