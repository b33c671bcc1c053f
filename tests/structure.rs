//! The shape of the crates: inside each, modules refer to one another in one direction only.
//!
//! A module may use its siblings and what is below it, never the module that declares it, so that whoever reads a file
//! can read what it stands on first. Tests and documentation may refer to anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CRATES: [&str; 9] = [
    "order-core",
    "runtime",
    "order-api",
    "order-worker",
    "fulfillment",
    "host",
    "simulator",
    "bench",
    "tests/processor",
];

/// The modules of a crate by their paths (`["store", "orders"]`), each with its source.
type Modules = BTreeMap<Vec<String>, String>;

fn modules(src: &Path) -> Modules {
    let mut modules = Modules::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                modules.insert(name(src, &path), code(&std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    modules
}

fn name(src: &Path, file: &Path) -> Vec<String> {
    let relative: PathBuf = file.strip_prefix(src).unwrap().with_extension("");
    let mut name: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    // The crate itself: a library or a binary.
    if name == ["lib"] || name == ["main"] {
        name.clear();
    }
    if name.last().is_some_and(|last| last == "mod") {
        name.pop();
    }
    name
}

/// A source without its comments and its tests, which come last in a file. A module that is written out inside the
/// file is a part of it: its `super` is the file.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut is_inside = false;
    let line = |line: &str| {
        let line = line.split("//").next().unwrap();
        is_inside = match line {
            "}" => false,
            _ => is_inside || line.trim_start_matches("pub ").starts_with("mod ") && line.ends_with('{'),
        };
        if is_inside { line.replacen("super::", "", 1) } else { line.to_owned() }
    };
    source.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate::` or `super::`, with the branches of `{…}` written out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            // `$crate::…` is one too; `super::super::…` begins with its first.
            if before.is_some_and(|character| character.is_alphanumeric() || "_:".contains(character)) {
                continue;
            }
            expand(&code[at..], Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path at the beginning of `text`, up to what cannot be a part of one; answers how long it was.
fn expand(text: &str, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if let Some(inner) = rest.strip_prefix('{') {
            let mut inside = 1;
            loop {
                let skipped = inner[inside - 1..].chars().take_while(|c| c.is_whitespace() || *c == ',').count();
                inside += skipped;
                if inner[inside - 1..].starts_with('}') || inside > inner.len() {
                    return at + inside + 1;
                }
                let length = expand(&inner[inside - 1..], prefix.clone(), found);
                // `x as y`, `*` and the like.
                let other = inner[inside - 1 + length..].chars().take_while(|c| !",}{".contains(*c)).count();
                inside += (length + other).max(1);
            }
        }
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            break;
        }
        at += word.len();
        prefix.push(word);
        match text[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => break,
        }
    }
    found.push(prefix);
    at
}

/// The module that a path out of `from` leads to: the deepest one that there is.
fn target(modules: &Modules, from: &[String], path: &[String]) -> Vec<String> {
    let mut at: Vec<String> = from.to_vec();
    let mut parts = path.iter().peekable();
    if parts.next_if(|part| *part == "crate").is_some() {
        at.clear();
    }
    while parts.next_if(|part| *part == "super").is_some() {
        at.pop();
    }
    for part in parts {
        let deeper: Vec<String> = at.iter().chain([part]).cloned().collect();
        if !modules.contains_key(&deeper) {
            break;
        }
        at = deeper;
    }
    at
}

/// What each module uses: what it refers to, and the modules that it declares.
fn arrows(modules: &Modules) -> BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> {
    let uses = |(name, code): (&Vec<String>, &String)| -> BTreeSet<Vec<String>> {
        let referred = paths(code).into_iter().map(|path| target(modules, name, &path));
        let declared =
            modules.keys().filter(|other| other.split_last().is_some_and(|(_, parent)| parent == name)).cloned();
        referred.chain(declared).filter(|other| other != name).collect()
    };
    modules.iter().map(|module| (module.0, uses(module))).collect()
}

/// A circle of modules, if there is one.
fn circle(modules: &Modules) -> Option<Vec<String>> {
    let mut arrows = arrows(modules);
    loop {
        let ends: Vec<Vec<String>> =
            arrows.iter().filter(|(_, uses)| uses.is_empty()).map(|(name, _)| (*name).clone()).collect();
        if ends.is_empty() {
            break;
        }
        arrows.retain(|name, _| !ends.contains(name));
        arrows.values_mut().for_each(|uses| uses.retain(|used| !ends.contains(used)));
    }
    let told = |(name, uses): (&&Vec<String>, &BTreeSet<Vec<String>>)| {
        let uses: Vec<String> = uses.iter().map(|used| format!("crate::{}", used.join("::"))).collect();
        format!("crate::{} uses {}", name.join("::"), uses.join(", "))
    };
    (!arrows.is_empty()).then(|| arrows.iter().map(told).collect())
}

#[test]
fn no_crate_has_a_circle_of_modules() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in CRATES {
        let modules = modules(&project.join(name).join("src"));
        assert!(!modules.is_empty(), "{name}");
        if let Some(circle) = circle(&modules) {
            panic!("{name}, in a circle or above one:\n{}", circle.join("\n"));
        }
    }
}

#[test]
fn a_circle_is_found() {
    let modules = |sources: &[(&str, &str)]| -> Modules {
        let module = |(name, source): &(&str, &str)| {
            (name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect(), code(source))
        };
        sources.iter().map(module).collect()
    };
    let straight = [
        ("", "mod a; mod b;"),
        ("a", "use crate::b::{self, c::{D, E as F}};\n// use crate::b;"),
        ("b", "mod c;\n#[cfg(test)]\nmod tests { use crate::a::A; }"),
        ("b::c", "/// See [`crate::a`].\nuse std::fmt;\nmod inside {\n    use super::X;\n}"),
    ];
    assert_eq!(circle(&modules(&straight)), None);
    for (module, source) in [
        ("b", "use crate::a::A;"),
        ("b::c", "use crate::{x, a::A};"),
        ("b::c", "use super::X;"),
        ("b::c", "fn f() { crate::a::f() }"),
        ("b::c", "use super::super::a;"),
    ] {
        let mut sources = straight.to_vec();
        sources.push((module, source));
        assert!(circle(&modules(&sources)).is_some(), "{module}: {source}");
    }
}
