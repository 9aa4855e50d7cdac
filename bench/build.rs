//! Hands the compiler's version and the profile to the crate, for the description of the machine.

use std::process::Command;

fn main() {
    let of_cargo = |name: &str| std::env::var(name).unwrap_or_default();
    let version = Command::new(of_cargo("RUSTC")).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo::rustc-env=RINGFS_RUSTC={}", version.unwrap_or_else(|_| "unknown".to_owned()));
    let (profile, level) = (of_cargo("PROFILE"), of_cargo("OPT_LEVEL"));
    println!("cargo::rustc-env=RINGFS_PROFILE={profile}, opt-level {level}");
    println!("cargo::rerun-if-changed=build.rs");
}
