//! Compares `ARCHITECTURE.md` with the workspace: the arrows with the manifests, the invariants with the sources.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what helps a test fails as a test does")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates, and for each the crates of this workspace that it depends on.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_arrows_on_the_page_are_those_of_the_manifests() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert_eq!(
        arrows_on(&page),
        arrows_of_the_manifests(),
        "left: ARCHITECTURE.md, right: [dependencies] of the manifests"
    );
}

#[test]
fn every_crate_has_its_line_on_the_page() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for name in crates() {
        assert!(page.contains(&format!("\n- `{name}`: ")), "ARCHITECTURE.md has no line for {name}");
    }
}

#[test]
fn there_are_ten_invariants_on_the_page() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = page.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count(), 10);
}

#[test]
fn the_protocol_crate_stands_without_std() {
    let lib = fs::read_to_string(root().join("crates/bluetrace-protocol/src/lib.rs")).unwrap();
    assert!(lib.lines().any(|line| line == "#![no_std]"));
    for (at, line) in lib.lines().enumerate().filter(|(_, line)| line.starts_with("extern crate std")) {
        let above = lib.lines().nth(at - 1).unwrap();
        assert_eq!(above, r#"#[cfg(any(test, feature = "proptest"))]"#, "std is for tests: {line}");
    }
    let manifest = manifest("bluetrace-protocol");
    let defaults = manifest.lines().find(|line| line.starts_with("default =")).unwrap_or("default = []");
    assert_eq!(defaults, "default = []", "a default feature may bring std in");
}

#[test]
fn only_the_binary_reads_the_clock_the_environment_and_the_systems_randomness() {
    for name in crates().into_iter().filter(|name| name != "bluetrace") {
        for file in sources(&root().join("crates").join(&name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for ambient in ["SystemTime::now", "SysRng", "rand::rng(", "env::var"] {
                assert!(!text.contains(ambient), "{} names {ambient}: it is an argument there", file.display());
            }
        }
    }
}

#[test]
fn rules_and_formats_know_no_sockets_no_database_and_no_runtime() {
    for name in ["bluetrace-protocol", "bluetrace-authority"] {
        let needs = dependencies(&manifest(name));
        for foreign in ["tokio", "rusqlite", "tokio-postgres", "rustls", "tokio-rustls", "socket2"] {
            assert!(!needs.contains(foreign), "{name} depends on {foreign}");
        }
        for file in sources(&root().join("crates").join(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for foreign in ["std::net", "std::fs", "std::io", "std::time"] {
                assert!(!text.contains(foreign), "{} names {foreign}", file.display());
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn crates() -> Vec<String> {
    let folders = fs::read_dir(root().join("crates")).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = folders
        .filter(|folder| folder.path().join("Cargo.toml").is_file())
        .map(|folder| folder.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 5, "found only {names:?}");
    names
}

fn manifest(name: &str) -> String {
    fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap()
}

/// The arrows in the page's block marked `arrows`.
fn arrows_on(page: &str) -> Arrows {
    let block = page.split("```arrows\n").nth(1).expect("a block of arrows").split("```").next().unwrap();
    block
        .lines()
        .map(|line| {
            let (from, to) = line.split_once("->").expect("an arrow a line");
            (from.trim().to_owned(), to.split(',').map(|name| name.trim().to_owned()).collect())
        })
        .collect()
}

/// What the manifests say, without development dependencies: those are no part of what is shipped.
fn arrows_of_the_manifests() -> Arrows {
    let names = crates();
    let own = |needs: BTreeSet<String>| needs.into_iter().filter(|need| names.contains(need)).collect::<BTreeSet<_>>();
    names
        .iter()
        .map(|name| (name.clone(), own(dependencies(&manifest(name)))))
        .filter(|(_, needs)| !needs.is_empty())
        .collect()
}

/// The names in the `[dependencies]` of a manifest, platform-specific ones too.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut is_inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            is_inside =
                section == "dependencies" || (section.starts_with("target.") && section.ends_with(".dependencies"));
        } else if is_inside && !line.starts_with('#') {
            names.extend(line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    names
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}
