//! Migrations are embedded by a macro that cannot see files being added.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
