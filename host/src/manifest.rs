//! `spin.toml`, as far as this host can run it. Anything else in a manifest is refused, never ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A manifest of version 2.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    spin_manifest_version: u32,
    /// `[application]`
    pub application: Application,
    /// `[variables]`
    #[serde(default)]
    pub variables: BTreeMap<String, Variable>,
    /// `[[trigger.…]]`
    #[serde(rename = "trigger")]
    pub triggers: Triggers,
    /// `[component.…]`
    #[serde(rename = "component")]
    pub components: BTreeMap<String, Component>,
}

/// The application's name and what people read about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Its name.
    pub name: String,
    #[serde(default, rename = "version")]
    _version: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
    #[serde(default, rename = "authors")]
    _authors: Vec<String>,
    // Settings of other tools, which Spin ignores too.
    #[serde(default, rename = "tool")]
    _tool: Option<IgnoredAny>,
}

/// An application variable; it has a default or must be given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its value when none is given.
    pub default: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default, rename = "secret")]
    _secret: bool,
}

/// What wakes the components.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triggers {
    /// `[[trigger.http]]`
    #[serde(default)]
    pub http: Vec<HttpTrigger>,
    /// `[[trigger.cron]]`
    #[serde(default)]
    pub cron: Vec<CronTrigger>,
    /// `[[trigger.timer]]`
    #[serde(default)]
    pub timer: Vec<TimerTrigger>,
}

/// Requests to a route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    #[serde(default, rename = "id")]
    _id: String,
    /// `/path` for that path, `/path/...` for it and all below.
    pub route: String,
    /// The component that answers.
    pub component: String,
}

/// A schedule, in the way of the cron trigger plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CronTrigger {
    #[serde(default, rename = "id")]
    _id: String,
    /// Six fields, the first one seconds.
    pub cron_expression: String,
    /// The component that is called.
    pub component: String,
}

/// A fixed interval, in the way of Spin's timer trigger.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimerTrigger {
    #[serde(default, rename = "id")]
    _id: String,
    /// Seconds between the end of one call and the beginning of the next, 1 or more.
    pub interval_secs: u64,
    /// The component that is called.
    pub component: String,
}

/// A component and what it may use.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The Wasm file, relative to the manifest.
    pub source: PathBuf,
    #[serde(default, rename = "description")]
    _description: String,
    /// Values of its variables; `{{ name }}` is replaced by an application variable.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Its environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Where it may send requests; see [`crate::interfaces::outbound_http`].
    #[serde(default)]
    pub allowed_outbound_hosts: Vec<String>,
    /// The labels of the key-value stores that it may open.
    #[serde(default)]
    pub key_value_stores: Vec<String>,
    /// The labels of the databases that it may open.
    #[serde(default)]
    pub sqlite_databases: Vec<String>,
    /// Components that provide what this one imports, by interface.
    #[serde(default)]
    pub dependencies: BTreeMap<String, Dependency>,
    /// Whether the dependencies may use what this component may.
    #[serde(default)]
    pub dependencies_inherit_configuration: bool,
    /// How it is built.
    pub build: Option<Build>,
    /// `[component.<id>.tool]`, which Spin ignores.
    #[serde(default)]
    pub tool: Tools,
}

/// Settings for tools; those of others are ignored.
#[derive(Debug, Default, Deserialize)]
pub struct Tools {
    /// `[component.<id>.tool.host]`: this host's own.
    #[serde(default)]
    pub host: HostSettings,
}

/// What this host does beyond Spin for a component.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSettings {
    /// A path that the component answers 2xx when it can serve. It is asked before anything is served: 503 is logged, and
    /// with any other status the application does not start.
    pub ready_path: Option<String>,
}

/// A component that provides an interface.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// Its Wasm file, relative to the manifest.
    pub path: PathBuf,
    /// The export that is meant, where it is not named like the import.
    pub export: Option<String>,
}

/// How a component is built.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// One shell command or several.
    pub command: Commands,
    /// Where they run, relative to the manifest.
    pub workdir: Option<PathBuf>,
    #[serde(default, rename = "watch")]
    _watch: Vec<String>,
}

/// One shell command or several, run one after the other.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Commands {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Commands {
    /// The commands in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(command) => std::slice::from_ref(command).iter().map(String::as_str),
            Self::Several(commands) => commands.iter().map(String::as_str),
        }
    }
}

impl Manifest {
    /// Reads a manifest and checks that this host can run all of it.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!("{} holds something that this host does not have; Spin itself may run it", path.display())
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text)?;
        ensure!(manifest.spin_manifest_version == 2, "spin_manifest_version must be 2");
        let triggers = &manifest.triggers;
        let http = triggers.http.iter().map(|trigger| &trigger.component);
        let cron = triggers.cron.iter().map(|trigger| &trigger.component);
        let timer = triggers.timer.iter().map(|trigger| &trigger.component);
        for component in http.chain(cron).chain(timer) {
            ensure!(manifest.components.contains_key(component), "a trigger names the unknown component {component:?}");
        }
        for trigger in &triggers.http {
            let fixed = trigger.route.strip_suffix("/...").unwrap_or(&trigger.route);
            ensure!(
                trigger.route.starts_with('/') && !fixed.contains(':') && !fixed.contains("..."),
                "the route {:?} is neither a path nor a path with /... at its end",
                trigger.route
            );
        }
        for (name, component) in &manifest.components {
            let Some(ready_path) = &component.tool.host.ready_path else { continue };
            ensure!(ready_path.starts_with('/'), "the ready_path {ready_path:?} of component {name:?} is not a path");
            let has_route = triggers.http.iter().any(|trigger| trigger.component == *name);
            ensure!(has_route, "component {name:?} has a ready_path and no HTTP trigger");
        }
        for trigger in &triggers.timer {
            ensure!(trigger.interval_secs > 0, "interval_secs must be 1 or more");
        }
        for (name, component) in &manifest.components {
            // Spin's runtime configuration, which maps other labels, is Spin's own.
            for label in component.sqlite_databases.iter().chain(&component.key_value_stores) {
                ensure!(label == "default", "component {name:?} uses the label {label:?}; there is only \"default\"");
            }
            if !component.dependencies.is_empty() && !component.dependencies_inherit_configuration {
                bail!("component {name:?} has dependencies without dependencies_inherit_configuration = true");
            }
        }
        Ok(manifest)
    }

    /// Leaves the components of these names and their triggers, and nothing else; all of them where there is no name, as
    /// `spin up` has it.
    ///
    /// # Errors
    /// A name that no component with a trigger has.
    pub fn keep(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let is_kept = |component: &String| names.contains(component);
        self.triggers.http.retain(|trigger| is_kept(&trigger.component));
        self.triggers.cron.retain(|trigger| is_kept(&trigger.component));
        self.triggers.timer.retain(|trigger| is_kept(&trigger.component));
        let known: Vec<&str> = self.components.keys().map(String::as_str).collect();
        for name in names {
            ensure!(known.contains(&name.as_str()), "there is no component {name:?}, only {}", known.join(", "));
        }
        self.components.retain(|name, _| is_kept(name));
        Ok(())
    }

    /// The application variables: what `given` says, else the environment's `SPIN_VARIABLE_<NAME>`, else the
    /// default.
    pub fn resolve_variables(&self, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        if let Some(name) = given.keys().find(|name| !self.variables.contains_key(*name)) {
            bail!("there is no variable {name:?} in the manifest");
        }
        let mut resolved = BTreeMap::new();
        for (name, variable) in &self.variables {
            let key = format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase());
            let value = given.get(name).cloned().or_else(|| std::env::var(&key).ok()).or(variable.default.clone());
            match value {
                Some(value) => _ = resolved.insert(name.clone(), value),
                None if variable.required => bail!("the variable {name:?} is required: set {key}"),
                None => bail!("the variable {name:?} has neither a default nor required = true"),
            }
        }
        Ok(resolved)
    }
}

/// Puts the values of application variables in the place of `{{ name }}`.
pub fn fill_template(template: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").with_context(|| format!("{template:?} has a {{{{ without }}}}"))?;
        let name = name.trim();
        let value = variables.get(name).with_context(|| format!("{template:?} names the unknown variable {name:?}"))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        spin_manifest_version = 2
        [application]
        name = "x"
        [[trigger.http]]
        route = "/..."
        component = "a"
        [component.a]
        source = "a.wasm"
    "#;

    #[test]
    fn the_manifest_of_this_project_is_one_that_this_host_runs() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
        let manifest = Manifest::load(&path).unwrap();
        assert_eq!(manifest.triggers.cron.len(), 1);
        assert!(manifest.components.values().all(|component| component.build.is_some()));
    }

    #[test]
    fn the_components_that_are_named_are_kept_with_their_triggers() {
        let more = "[[trigger.cron]]\ncron_expression = \"* * * * * *\"\ncomponent = \"b\"\n[component.b]\nsource = \"b.wasm\"";
        let kept = |names: &[&str]| {
            let mut manifest = Manifest::parse(&format!("{MINIMAL}\n{more}")).unwrap();
            manifest.keep(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).map(|()| {
                let components: Vec<_> = manifest.components.into_keys().collect();
                (components.join(","), manifest.triggers.http.len(), manifest.triggers.cron.len())
            })
        };
        assert_eq!(kept(&[]).unwrap(), ("a,b".to_owned(), 1, 1));
        assert_eq!(kept(&["a"]).unwrap(), ("a".to_owned(), 1, 0));
        assert_eq!(kept(&["b"]).unwrap(), ("b".to_owned(), 0, 1));
        assert_eq!(kept(&["b", "a"]).unwrap(), ("a,b".to_owned(), 1, 1));
        assert_eq!(kept(&["a", "c"]).unwrap_err().to_string(), "there is no component \"c\", only a, b");
    }

    #[test]
    fn what_this_host_does_not_have_is_refused_by_name() {
        for (addition, word) in [
            ("files = [\"assets/*\"]", "files"),
            ("ai_models = [\"llama2-chat\"]", "ai_models"),
            ("[[trigger.redis]]\nchannel = \"x\"\ncomponent = \"a\"", "redis"),
            ("[[trigger.http]]\nroute = \"/x/:id\"\ncomponent = \"a\"", "/x/:id"),
            ("[[trigger.http]]\nroute = { private = true }\ncomponent = \"a\"", "string"),
            ("[[trigger.timer]]\ninterval_secs = 0\ncomponent = \"a\"", "interval_secs"),
            ("[[trigger.timer]]\ninterval_secs = 1\ncomponent = \"b\"", "\"b\""),
            ("sqlite_databases = [\"other\"]", "\"other\""),
            ("[component.a.tool.host]\nready = 1", "ready"),
            ("[component.a.tool.host]\nready_path = \"x\"", "\"x\""),
            ("[component.b]\nsource = \"b\"\n[component.b.tool.host]\nready_path = \"/x\"", "no HTTP trigger"),
            ("[component.a.dependencies]\n\"x:y/z\" = { path = \"b.wasm\" }", "dependencies_inherit_configuration"),
            ("[component.a.dependencies]\n\"x:y/z\" = { registry = \"r\" }", "registry"),
        ] {
            let error = Manifest::parse(&format!("{MINIMAL}\n{addition}")).unwrap_err();
            assert!(format!("{error:#}").contains(word), "{addition}: {error:#}");
        }
        assert!(Manifest::parse(MINIMAL).is_ok());
        let tools = "[component.a.tool.other]\nx = 1\n[component.a.tool.host]\nready_path = \"/readyz\"";
        let manifest = Manifest::parse(&format!("{MINIMAL}\n{tools}")).unwrap();
        assert_eq!(manifest.components["a"].tool.host.ready_path.as_deref(), Some("/readyz"));
    }

    #[test]
    fn variables_come_from_the_caller_or_the_default() {
        let manifest = Manifest::parse(&format!(
            "{MINIMAL}\n[variables]\nhost_test_a = {{ default = \"1\" }}\nhost_test_b = {{ required = true }}"
        ))
        .unwrap();
        assert!(
            manifest.resolve_variables(&BTreeMap::new()).unwrap_err().to_string().contains("SPIN_VARIABLE_HOST_TEST_B")
        );
        let given = BTreeMap::from([("host_test_b".to_owned(), "2".to_owned())]);
        let resolved = manifest.resolve_variables(&given).unwrap();
        assert_eq!(fill_template("<{{ host_test_a }}{{host_test_b}}>", &resolved).unwrap(), "<12>");
        assert!(fill_template("{{ missing }}", &resolved).is_err());
        assert!(fill_template("{{ host_test_a", &resolved).is_err());
        let unknown = BTreeMap::from([("unknown".to_owned(), String::new())]);
        assert!(manifest.resolve_variables(&unknown).is_err());
    }
}
