# A dozen one-liners, readable without `just`: copy the command.

# formatting, lints, tests and documentation, as CI does
check: fmt-check lint test doc

fmt:
    cargo fmt --all

fmt-check:
    .ci/run format

lint:
    .ci/run lint

test *args:
    cargo test --workspace {{args}}

doc:
    .ci/run docs

# everything at once on loopback, under a minute
demo *args:
    cargo run --release -- demo {{args}}

server *args:
    cargo run --release -- server {{args}}

bench *args:
    cargo bench --workspace {{args}}

# ten seconds for each fuzz target
fuzz:
    .ci/run fuzz

# licences, sources, banned crates; `cargo install --locked cargo-deny` first
deny:
    cargo deny check licenses sources bans

# the picture in the README, from a real run
picture:
    docs/make-demo-picture

# all that has to hold before a change is taken
ci:
    .ci/run
