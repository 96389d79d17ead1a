//! Names what is missing to build the C libraries, before their own scripts fail in other words.

use std::process::{Command, Stdio};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_missing = |tool: &&str| {
        let run = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_err()
    };
    let missing: Vec<&str> = ["cc", "make", "perl"].into_iter().filter(is_missing).collect();
    assert!(
        missing.is_empty(),
        "librdkafka and OpenSSL are built from source, and that needs {}. \
         On Debian and Ubuntu: apt-get install build-essential perl",
        missing.join(" and ")
    );
}
