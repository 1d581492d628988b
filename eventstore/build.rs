//! A new migration is no change of any source file that the compiler knows of.
#![allow(clippy::print_stdout, missing_docs, reason = "this is how cargo is spoken to")]

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
