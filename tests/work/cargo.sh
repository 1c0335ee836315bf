# A crate with a library, a build script and tests is built, tested and run, with a toolchain of the user's or
# else of the system.
# needs: /root/.cargo/bin/cargo|/usr/bin/cargo
export PATH="/root/.cargo/bin:$PATH" RUSTUP_HOME=/root/.rustup CARGO_HOME="$HOME/.cargo"
export RUSTUP_TOOLCHAIN=nightly CARGO_NET_OFFLINE=true
cargo new --quiet greeter
cd greeter
mkdir helper helper/src
printf '[package]\nname = "helper"\nversion = "0.1.0"\nedition = "2021"\n[lib]\nproc-macro = true\n' > helper/Cargo.toml
printf 'use proc_macro::TokenStream;\n#[proc_macro]\npub fn same(tokens: TokenStream) -> TokenStream { tokens }\n' > helper/src/lib.rs
printf 'helper = { path = "helper" }\n' >> Cargo.toml
printf 'fn main() { println!("cargo:rustc-env=GREETING=hello"); }\n' > build.rs
cat > src/main.rs <<'RUST'
fn main() { println!("{}", helper::same!(env!("GREETING"))); }
#[test]
fn greets() { assert_eq!(env!("GREETING"), "hello"); }
RUST
cargo build --quiet
cargo test --quiet
cargo run --quiet | grep -qx hello
touch src/main.rs
cargo check --quiet
cargo clean --quiet
