//! Puts a component's dependencies in, as `[component.<id>.dependencies]` says: every import that a
//! dependency is named for is connected to its export, all other imports stay the host's to provide.

use std::path::Path;

use anyhow::{Context, Result, bail};
use wac_graph::CompositionGraph;
use wac_graph::types::Package;

use crate::manifest::Component;

/// The bytes of `component` with its dependencies in it.
pub fn compose(name: &str, component: &Component, base: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| {
        let path = base.join(path);
        std::fs::read(&path).with_context(|| format!("cannot read {}; was it built?", path.display()))
    };
    let bytes = read(&component.source)?;
    if component.dependencies.is_empty() {
        return Ok(bytes);
    }
    let mut graph = CompositionGraph::new();
    let main = Package::from_bytes(name, None, bytes, graph.types_mut())?;
    let world = main.ty();
    let main = graph.register_package(main)?;
    let main = graph.instantiate(main);
    let imports: Vec<String> = graph.types()[world].imports.keys().cloned().collect();
    let exports: Vec<String> = graph.types()[world].exports.keys().cloned().collect();

    for (dependency_name, dependency) in &component.dependencies {
        let matched: Vec<&String> = imports.iter().filter(|import| names(dependency_name, import)).collect();
        if matched.is_empty() {
            bail!("component {name:?} imports nothing by the name of its dependency {dependency_name:?}");
        }
        let package = Package::from_bytes(dependency_name, None, read(&dependency.path)?, graph.types_mut())?;
        let package = graph.register_package(package)?;
        let instance = graph.instantiate(package);
        for import in matched {
            let export = dependency.export.as_ref().unwrap_or(import);
            let node = graph
                .alias_instance_export(instance, export)
                .with_context(|| format!("{} does not provide {export:?}", dependency.path.display()))?;
            graph
                .set_instantiation_argument(main, import, node)
                .with_context(|| format!("{} provides another {export:?}", dependency.path.display()))?;
        }
    }
    for export in exports {
        let node = graph.alias_instance_export(main, &export)?;
        graph.export(node, &export)?;
    }
    graph.encode(Default::default()).context("cannot compose the component with its dependencies")
}

/// Whether a dependency's name means an import: the same name, or the name of the import's package, each
/// with or without a version.
fn names(dependency: &str, import: &str) -> bool {
    let (dependency, version) = match dependency.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (dependency, None),
    };
    let (import, import_version) = match import.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (import, None),
    };
    let package = import.split_once('/').map_or(import, |(package, _)| package);
    (dependency == import || dependency == package) && (version.is_none() || version == import_version)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_dependency_is_named_by_interface_or_package() {
        for dependency in ["a:b/c@1.0.0", "a:b/c", "a:b@1.0.0", "a:b"] {
            assert!(names(dependency, "a:b/c@1.0.0"), "{dependency}");
        }
        for dependency in ["a:b/c@1.0.1", "a:b/d", "a:bc", "b"] {
            assert!(!names(dependency, "a:b/c@1.0.0"), "{dependency}");
        }
    }
}
