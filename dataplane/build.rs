//! Compiles the BPF programs, with the reasons of `shunt-policy` as a generated C header.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;
use shunt_policy::PassReason;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("reasons.h"), reasons()).expect("OUT_DIR is writable");
    for program in ["redirect", "punt", "load"] {
        compile(program, &out);
    }
    println!("cargo:rerun-if-changed=bpf");
}

/// `enum pass_reason`, equal to [`PassReason`] by construction.
fn reasons() -> String {
    let mut header = String::from("/* Generated from shunt_policy::PassReason. */\nenum pass_reason {\n");
    for reason in PassReason::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(header, "\tPASS_{} = {},", reason.word().to_uppercase(), reason.index());
    }
    let _ = writeln!(header, "\tPASS_REASONS = {},\n}};", PassReason::ALL.len());
    header
}

fn compile(program: &str, out: &Path) {
    let source = format!("bpf/{program}.bpf.c");
    // <asm/types.h> lives in the multiarch folder on Debian and its kin; clang does not look there for the target bpf.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let multiarch = format!("-I/usr/include/{arch}-linux-gnu");
    let generated = format!("-I{}", out.display());
    // Version 3 has the atomic instructions (Linux 5.12).
    let result = SkeletonBuilder::new()
        .source(&source)
        .obj(out.join(format!("{program}.bpf.o")))
        .clang_args([multiarch.as_str(), generated.as_str(), "-Wall", "-Werror", "-mcpu=v3"])
        .build();
    if let Err(error) = result {
        panic!("{source} does not compile (clang and linux-libc-dev are needed): {error:#}");
    }
}
