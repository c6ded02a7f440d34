//! What is put to the test: a playbook with its contractor's actions.

use std::{collections::BTreeMap, sync::Arc};

use contractor::{action::Actions, runtime::message_schema};
use engine::{
    catalog::{ActionSpec, Catalog, Undo},
    library::{Definition, Library, MessageKind, World},
    playbook::Policy,
    yaml::Problems,
};
use serde_json::{Value, json};
use store::Store;

use super::{
    example,
    sabotage::Bug,
    variants::{self, Variant},
};

/// The playbook of a run beside the one under test.
pub const BYSTANDER: &str = "bystander";

/// A playbook, an input for it, and the surfaces of the actions that it may name.
#[derive(Clone)]
pub struct Subject {
    /// The playbook's name.
    pub playbook: String,
    /// What is special about its input and outputs; empty for the plain ones.
    pub variant: &'static str,
    /// Whether it differs from the plain one in what follows a failure, and in nothing else.
    pub differs_in_failure: bool,
    /// What its run is given.
    pub input: Value,
    /// Laid over the made-up outputs of its actions.
    pub outputs: BTreeMap<&'static str, Value>,
    /// The contractor's actions.
    pub specs: Vec<ActionSpec>,
    /// All playbooks of the contractor.
    pub library: Library,
    /// What is wrong with the contractor, so that the harness can be put to the test.
    pub bug: Option<Bug>,
}

/// Playbooks made to be mean: fan-outs, calls, conditions, a commit point, each failure policy.
const MEAN: [&str; 5] = [
    include_str!("playbooks/diamond.yaml"),
    include_str!("playbooks/roll.yaml"),
    include_str!("playbooks/node.yaml"),
    include_str!("playbooks/burn.yaml"),
    include_str!("playbooks/careless.yaml"),
];

impl Subject {
    /// Every playbook that ships, and those of this harness.
    pub fn every() -> anyhow::Result<Vec<Self>> {
        let mut subjects = Self::shipped()?;
        subjects.extend(Self::mean()?);
        Ok(subjects)
    }

    /// Every playbook that ships, with stand-ins for the actions of its contractor.
    pub fn shipped() -> anyhow::Result<Vec<Self>> {
        let deps = talos_contractor::reach::Deps::new(
            talos_contractor::settings::TalosSettings::default(),
            talos_contractor::settings::AddonSettings::default(),
            talos::api::AllowedTargets::loopback(),
        );
        let talos = Self::specs_of(&talos_contractor::actions::actions(&deps));
        let mut subjects = Self::all(&talos_contractor::playbooks::playbooks(), &talos, &message_schema)?;
        let infrastructure = Self::specs_of(&infrastructure()?);
        subjects.extend(Self::all(&infrastructure_contractor::playbooks::shipped(), &infrastructure, &message_schema)?);
        Ok(subjects)
    }

    /// The playbooks of this harness.
    pub fn mean() -> Result<Vec<Self>, Problems> {
        let output = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        let spec = |name, undo| ActionSpec { name, undo, input: json!({"type": "object"}), output: output.clone() };
        let specs = vec![spec("make", Undo::Yes), spec("look", Undo::Nothing), spec("burn", Undo::Irreversible)];
        let files: Vec<_> = MEAN.iter().map(|text| ("playbook.yaml".to_owned(), (*text).to_owned())).collect();
        Self::all(&files, &specs, &|_, _| Some(json!({"type": "object"})))
    }

    /// Every playbook of a contractor that can be started, with an input made from its schema.
    pub fn all(
        files: &[(String, String)],
        specs: &[ActionSpec],
        messages: &dyn Fn(MessageKind, &str) -> Option<Value>,
    ) -> Result<Vec<Self>, Problems> {
        // Outputs are made up, so only the real actions can say whether they fit the next step's input.
        let specs: Vec<_> =
            specs.iter().map(|spec| ActionSpec { input: json!({"type": "object"}), ..spec.clone() }).collect();
        let (specs, files) = beside(specs, files);
        let catalog = Specs(&specs);
        let library = Library::load(
            &files,
            &World { catalog: &catalog, messages, conditions: talos_contractor::background::CONDITIONS },
        )?;
        let subject = |definition: &Arc<Definition>, variant: Variant| {
            let mut input = definition.input.as_ref().map_or_else(|| json!({}), |schema| example::of(schema, ""));
            variants::patch(&mut input, &variant.input);
            Self {
                playbook: definition.playbook.name.value.clone(),
                variant: variant.name,
                differs_in_failure: variant.differs_in_failure,
                input,
                outputs: variant.outputs.into_iter().collect(),
                specs: specs.clone(),
                library: library.clone(),
                bug: None,
            }
        };
        let tested = library.iter().filter(|definition| definition.playbook.name.value != BYSTANDER);
        let mut subjects = Vec::new();
        for definition in tested {
            subjects.extend(variants::of(name(definition)).into_iter().map(|variant| subject(definition, variant)));
        }
        Ok(subjects)
    }

    /// The surfaces of a contractor's actions.
    pub fn specs_of(actions: &Actions) -> Vec<ActionSpec> {
        actions.names().into_iter().filter_map(|name| actions.action(name).cloned()).collect()
    }

    /// What undoing an action means.
    pub fn undo_of(&self, action: &str) -> Option<Undo> {
        self.specs.iter().find(|spec| spec.name == action).map(|spec| spec.undo)
    }

    /// What its input asks for when a step fails for good before the commit point.
    pub fn policy(&self) -> Policy {
        let asked = self.definition().playbook.on_failure.policy(&self.input, &Value::Null);
        asked.expect("an input made from the schema asks for a policy that exists")
    }

    /// The playbook, and what is special about its input.
    pub fn title(&self) -> String {
        if self.variant.is_empty() { self.playbook.clone() } else { format!("{} ({})", self.playbook, self.variant) }
    }

    /// The playbook, linked.
    pub fn definition(&self) -> &Arc<Definition> {
        self.library.get(&self.playbook).expect("the subject was made from its library")
    }
}

/// The actions of infrastructure-contractor, which connect to nothing before they run.
fn infrastructure() -> anyhow::Result<Actions> {
    // A second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, "cortex@pve!survive=00000000-0000-0000-0000-000000000000")?;
    let sections = toml::from_str(&format!(
        r#"
        [proxmox]
        endpoints = ["https://127.0.0.1:8006"]
        credential_file = "{}"
        pool = "cortex"

        [[network]]
        name = "lan"
        cidr = "127.9.0.0/16"
        gateway = "127.9.0.1"
        dns_servers = ["127.9.0.1"]
        ranges = ["127.9.1.10-127.9.1.60"]
        bridge = "vmbr0"
        "#,
        token.display(),
    ))?;
    let store = Store::open(&folder.path().join("store"), store::Options::default())?;
    let deps = infrastructure_contractor::Deps::new(sections, &["127.0.0.0/8".to_owned()], store)?;
    Ok(infrastructure_contractor::actions(&deps))
}

fn name(definition: &Definition) -> &str {
    &definition.playbook.name.value
}

/// The playbook of a run beside the one under test, and its action, with those of the contractor.
fn beside(mut specs: Vec<ActionSpec>, files: &[(String, String)]) -> (Vec<ActionSpec>, Vec<(String, String)>) {
    let any = json!({"type": "object"});
    specs.push(ActionSpec { name: "stand_by", undo: Undo::Yes, input: any.clone(), output: any });
    let mut files = files.to_vec();
    files.push(("bystander.yaml".to_owned(), include_str!("playbooks/bystander.yaml").to_owned()));
    (specs, files)
}

struct Specs<'s>(&'s [ActionSpec]);

impl Catalog for Specs<'_> {
    fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.0.iter().find(|spec| spec.name == name)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|spec| spec.name).collect()
    }
}
