//! A stand-in for the LLVM that `cubecl-llvm` wants at build time.
//!
//! `cubecl-cuda` can compile kernels in two ways, and always builds both: LLVM to PTX, and CUDA C++ for NVRTC. This program
//! takes the second (`cubecl/cuda-cpp`), in which no function of LLVM is ever called, and still its build would download LLVM.
//! The stand-in is a folder of the layout that the build script looks for: an `llvm-config` that names its parts, headers that
//! declare just what CubeCL's C++ files use, and a static library in which every function of LLVM's C interface aborts with its
//! name. See `docs/building-cuda.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::{example, root};

/// `cargo xtask llvm-stand-in`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove the stand-in, so that the next build downloads LLVM.
    #[arg(long)]
    remove: bool,
}

/// The crate whose build script downloads LLVM, and the bindings that name its functions.
const BUNDLER: &str = "tracel-llvm-bundler";
const BINDINGS: &str = "llvm-sys";

/// The library in the stand-in, by which it is told from the real LLVM.
const LIBRARY: &str = "lib/libllvmstandin.a";

/// What the build script looks for to know that LLVM is there.
const SENTINEL: &str = ".tracel-llvm-installed";

/// The types of LLVM's C interface that the initializers need.
const CORE_H: &str = "\
#pragma once
typedef struct LLVMOpaqueModule *LLVMModuleRef;
typedef int LLVMBool;
";

/// Initializers that return nothing, and those that return whether they failed.
const INITIALIZERS: [&str; 6] = [
    "AllTargetInfos",
    "AllTargets",
    "AllTargetMCs",
    "AllAsmPrinters",
    "AllAsmParsers",
    "AllDisassemblers",
];
const NATIVE_INITIALIZERS: [&str; 4] = [
    "NativeTarget",
    "NativeAsmParser",
    "NativeAsmPrinter",
    "NativeDisassembler",
];

/// As much of LLVM's C++ interface as `cubecl-llvm`'s C++ files are compiled with.
const STANDIN_H: &str = r#"#pragma once
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <llvm-c/Core.h>
namespace llvm {
struct StringRef { StringRef(const char *, size_t) {} StringRef(const char *) {} };
struct MemoryBufferRef {};
struct MemoryBuffer { MemoryBufferRef getMemBufferRef() { return {}; }
  static std::unique_ptr<MemoryBuffer> getMemBuffer(StringRef, const char *, bool = true) { std::abort(); } };
struct LLVMContext {};
struct Module { LLVMContext &getContext() { std::abort(); } };
inline Module *unwrap(LLVMModuleRef) { std::abort(); }
struct Error {};
template <class T> struct Expected { explicit operator bool() const { return false; } T &operator*() { std::abort(); } Error takeError() { return {}; } };
inline std::string toString(Error) { return "no LLVM in this build"; }
inline Expected<std::unique_ptr<Module>> parseBitcodeFile(MemoryBufferRef, LLVMContext &) { return {}; }
struct Linker { struct Flags { enum { LinkOnlyNeeded }; }; static bool linkModules(Module &, std::unique_ptr<Module>, int) { return true; } };
namespace cl {
struct Option { bool addOccurrence(unsigned, StringRef, StringRef) { return true; } };
inline std::map<std::string, Option *> &getRegisteredOptions() { static std::map<std::string, Option *> none; return none; }
}
}
"#;

/// The headers that CubeCL includes; each of them includes [`STANDIN_H`].
const HEADERS: [&str; 6] = [
    "Bitcode/BitcodeReader",
    "IR/Module",
    "Linker/Linker",
    "Support/Error",
    "Support/MemoryBuffer",
    "Support/CommandLine",
];

/// Lays the stand-in out, or removes it, and prints the folder.
///
/// # Errors
///
/// If what is to be removed is the real LLVM, if the crates are not in the workspace's lock file, or if there is no C compiler.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let crates = Crates::find()?;
    let folder = folder(&crates.bundler_version)?;
    let there = folder.exists();
    if there && !is_stand_in(&folder) {
        let told = format!("{} holds an LLVM that is no stand-in", folder.display());
        ensure!(
            !args.remove,
            "{told}. Remove it by hand if you do not want it"
        );
        println!("{told}; it serves as it is");
        return Ok(());
    }
    if args.remove {
        if there {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
            println!("removed {}", folder.display());
        } else {
            println!("{} is not there", folder.display());
        }
        return Ok(());
    }
    lay_out(&folder, &crates.bindings)?;
    println!("{}", folder.display());
    Ok(())
}

/// Whether a folder is a stand-in, complete or not. A real LLVM has no such library.
fn is_stand_in(folder: &Path) -> bool {
    folder.join(LIBRARY).exists() || !folder.join(SENTINEL).exists()
}

/// Writes the stand-in into `folder`. The sentinel comes last, so that half a stand-in is none.
fn lay_out(folder: &Path, bindings: &Path) -> anyhow::Result<()> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    write("bin/llvm-config", &llvm_config(folder)?)?;
    make_executable(&folder.join("bin/llvm-config"))?;
    write("include/llvm-c/Core.h", CORE_H)?;
    write("include/llvm-c/Target.h", &target_h())?;
    write("include/llvm/standin.h", STANDIN_H)?;
    for header in HEADERS {
        let name = format!("include/llvm/{header}.h");
        write(&name, "#include <llvm/standin.h>\n")?;
    }
    library(folder, &functions(&bindings.join("src"))?)?;
    write(SENTINEL, "")
}

/// The program that build scripts ask for flags. It answers each of its arguments that it knows.
fn llvm_config(folder: &Path) -> anyhow::Result<String> {
    let folder = folder
        .to_str()
        .with_context(|| format!("{} is not UTF-8", folder.display()))?;
    Ok(format!(
        r#"#!/bin/sh
for a; do case $a in
  --version) echo 23.1.0;; --libs|--libnames) echo -lllvmstandin;; --system-libs) echo;;
  --libdir) echo "{folder}/lib";; --includedir) echo "{folder}/include";;
  --cxxflags|--cflags) echo "-I{folder}/include -std=c++17";;
esac; done
"#
    ))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> anyhow::Result<()> {
    bail!("the stand-in for LLVM is made of a shell script: it needs Linux")
}

/// `llvm-c/Target.h`, whose functions are inline in LLVM too.
fn target_h() -> String {
    let mut text = String::from("#pragma once\ntypedef int LLVMBool;\n");
    for name in INITIALIZERS {
        text += &format!("static inline void LLVMInitialize{name}(void) {{}}\n");
    }
    for name in NATIVE_INITIALIZERS {
        text += &format!("static inline LLVMBool LLVMInitialize{name}(void) {{ return 1; }}\n");
    }
    text
}

/// The functions `LLVM…` that the Rust files of a folder declare.
fn functions(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            names.append(&mut functions(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            names.extend(text.split("fn ").filter_map(function));
        }
    }
    Ok(names)
}

/// The name that follows an `fn `, if it is one of LLVM's.
fn function(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    let name = &text[..end.unwrap_or(text.len())];
    (name.len() > "LLVM".len() && name.starts_with("LLVM")).then(|| name.to_string())
}

/// Compiles the library: each function prints its name and aborts.
fn library(folder: &Path, functions: &BTreeSet<String>) -> anyhow::Result<()> {
    ensure!(
        !functions.is_empty(),
        "{BINDINGS} declares no function of LLVM"
    );
    let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n");
    for name in functions {
        text += &format!(
            "void {name}(void) {{ fputs(\"this build has no LLVM: {name} was called\\n\", stderr); abort(); }}\n"
        );
    }
    let library = folder.join(LIBRARY);
    let (source, object) = (library.with_extension("c"), library.with_extension("o"));
    let parent = library.parent().unwrap_or(folder);
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&source, text))
        .with_context(|| format!("cannot write {}", source.display()))?;
    // `ar` adds to a library that is there.
    if library.exists() {
        fs::remove_file(&library)?;
    }
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O1", "-w", "-c", "-fPIC", "-ffunction-sections"])
        .arg(&source)
        .arg("-o")
        .arg(&object);
    let mut archiver = Command::new("ar");
    archiver.arg("rcs").arg(&library).arg(&object);
    for mut command in [compiler, archiver] {
        let status = command
            .status()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        ensure!(status.success(), "{command:?} failed");
    }
    fs::remove_file(source)?;
    fs::remove_file(object)?;
    Ok(())
}

/// Where the build script looks for LLVM: in `XDG_DATA_HOME`, if it is an absolute path, or in its default.
fn folder(version: &str) -> anyhow::Result<PathBuf> {
    if !cfg!(target_os = "linux") {
        bail!("the stand-in for LLVM is made for Linux; elsewhere let the build download LLVM");
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .context("there is no home directory; set XDG_DATA_HOME")?;
    Ok(data.join("tracel").join(format!("tracel-llvm-{version}")))
}

/// What cargo knows of the two crates.
struct Crates {
    /// The version of [`BUNDLER`], which is also that of the folder.
    bundler_version: String,
    /// The sources of [`BINDINGS`].
    bindings: PathBuf,
}

/// The part of `cargo metadata` that is read here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

impl Crates {
    /// Asks cargo, which downloads the crates where they are not there yet.
    fn find() -> anyhow::Result<Self> {
        let mut cargo = example::cargo();
        cargo
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--all-features"])
            .current_dir(root());
        let text = example::printed(&mut cargo, "cargo metadata")?;
        Self::read(&text)
    }

    /// Picks the two crates from what `cargo metadata` prints.
    fn read(text: &str) -> anyhow::Result<Self> {
        let metadata: Metadata = serde_json::from_str(text)
            .context("`cargo metadata` has printed something else than its format 1")?;
        let find = |name: &str| {
            let mut found = metadata.packages.iter().filter(|one| one.name == name);
            let package = found
                .next()
                .with_context(|| format!("{name} is not among the workspace's dependencies"))?;
            ensure!(
                found.next().is_none(),
                "there are two versions of {name} among the workspace's dependencies"
            );
            Ok(package)
        };
        let (bundler, bindings) = (find(BUNDLER)?, find(BINDINGS)?);
        let folder = bindings.manifest_path.parent();
        Ok(Self {
            bundler_version: bundler.version.clone(),
            bindings: folder
                .context("a manifest lies in no folder")?
                .to_path_buf(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_end_where_the_name_ends() {
        let text = "pub fn LLVMDump(x: T);\n    pub fn LLVMAdd\n(); fn other(); fn LLVM_Initialize(); fn LLVM";
        let found: Vec<String> = text.split("fn ").filter_map(function).collect();
        assert_eq!(found, ["LLVMDump", "LLVMAdd"]);
    }

    #[test]
    fn the_crates_are_found_in_what_cargo_prints() {
        let text = r#"{"packages": [
            {"name": "llvm-sys", "version": "231.0.2", "manifest_path": "/r/llvm-sys-231.0.2/Cargo.toml", "id": "a"},
            {"name": "tracel-llvm-bundler", "version": "23.1.0-4", "manifest_path": "/r/b/Cargo.toml", "id": "b"}
        ]}"#;
        let crates = Crates::read(text).unwrap();
        assert_eq!(crates.bundler_version, "23.1.0-4");
        assert_eq!(crates.bindings, Path::new("/r/llvm-sys-231.0.2"));
        assert!(Crates::read(r#"{"packages": []}"#).is_err());
    }
}
