# The ten commands that one types. `just` is optional: CONTRIBUTING.md has each of them in plain cargo.

# List these commands.
default:
    @just --list --unsorted

# Watch a directory that comes with the source (or: just run /srv/chroma).
run DIR="tests/fixtures/chroma-1.5.9":
    cargo run -- --store.path {{ quote(DIR) }}

# Check a directory once and print what was found.
check DIR="tests/fixtures/chroma-1.5.9":
    cargo run -- check {{ quote(DIR) }}

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

# Tests that need nothing but cargo, or those whose name contains NAME.
test NAME="":
    cargo test --locked -- {{ NAME }}

# Tests beside real Chroma, Prometheus and a browser, or those whose name contains NAME.
e2e NAME="":
    cargo test --locked --features e2e --test e2e -- {{ NAME }}

# All that must pass before a change goes in; installs what is missing.
all:
    tests/run

# Write the recorded output again. Read the diff before you commit it.
golden:
    UPDATE_GOLDEN=1 cargo test --locked

# Write tests/faults.md again.
faults:
    UPDATE_FAULTS=1 cargo test --locked --features e2e --test e2e -- faults::

# Fuzz every parser and the second checker with feedback, SECONDS each.
fuzz SECONDS="60":
    fuzz/run {{ SECONDS }}

# Measure: alert, backup, beside, dump, hnsw, integrity, neighbours, recover, run, scrape, stores, verdict or verify.
bench NAME:
    cargo bench --locked --bench {{ NAME }}
