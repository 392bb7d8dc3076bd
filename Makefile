# `make help` says what there is.
.PHONY: help demo test check bench fmt clippy docs

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | column -t -s '|'

demo: ## a proxy before a registry, with a user and the lines to paste; Ctrl-C stops it
	scripts/demo

test: ## installs what the tests need, and runs them all
	tests/install-deps
	tests/run

check: fmt clippy docs test ## what CI runs: format, lints, documentation, tests

bench: ## what one request costs, step by step
	cargo bench --locked --bench micro

fmt: ## the code is formatted
	cargo fmt --check

clippy: ## the lints, all of them errors
	cargo clippy --locked --all-targets -- -D warnings

docs: ## the documentation builds and says nothing that is not so
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	scripts/check-docs
