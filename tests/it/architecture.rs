//! The architecture, checked: what may depend on what, and how files look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// What would make a pure crate impure: async runtimes, sockets, TLS, databases.
const IMPURE: [&str; 14] = [
    "async-nats",
    "axum",
    "h2",
    "hyper",
    "kube",
    "mio",
    "native-tls",
    "quinn",
    "reqwest",
    "rustls",
    "sled",
    "socket2",
    "tokio",
    "tonic",
];

const LONGEST_FILE: usize = 500;
const LONGEST_MAIN: usize = 20;

/// A crate of the workspace.
struct Member {
    name: String,
    folder: PathBuf,
    /// The project's own crates that it needs to be built.
    needs: BTreeSet<String>,
    /// The project's own crates that only its tests need.
    tests_need: BTreeSet<String>,
}

#[test]
fn crates_depend_only_on_what_architecture_md_allows() {
    let table = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md can be read");
    let rows = allowed(&table);
    let mut wrong = Vec::new();
    for member in members() {
        let place = member.folder.strip_prefix(root()).expect("a member is in the workspace");
        let family = format!("{}/*", place.parent().expect("a member has a folder").display());
        let Some(row) = rows.get(&place.display().to_string()).or_else(|| rows.get(&family)) else {
            wrong.push(format!("{} has no row in the code map of ARCHITECTURE.md: add one", place.display()));
            continue;
        };
        let Some((needs, tests_need)) = row else { continue };
        for name in member.needs.difference(needs) {
            wrong.push(format!("{} depends on {name}: its row in ARCHITECTURE.md does not allow it", member.name));
        }
        for name in member.tests_need.iter().filter(|name| !needs.contains(*name) && !tests_need.contains(*name)) {
            wrong.push(format!("tests of {} depend on {name}: allow it as `{name} in tests`, or do not", member.name));
        }
    }
    assert!(wrong.is_empty(), "move the code to where it may be used, or change the table:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_but_the_tests_depends_on_an_agent() {
    let members = members();
    let agents: BTreeSet<&String> =
        members.iter().filter(|member| member.folder.starts_with(root().join("agents"))).map(|it| &it.name).collect();
    assert!(agents.len() >= 2, "the agents are in agents/, one folder each: {agents:?}");
    for member in members.iter().filter(|member| member.name != "tests") {
        let found: Vec<_> = agents.iter().filter(|agent| member.needs.contains(**agent)).collect();
        assert!(
            found.is_empty(),
            "{} depends on {found:?}: put what both need into a crate below crates/",
            member.name
        );
    }
}

#[test]
fn messages_and_engine_are_pure_down_to_their_last_dependency() {
    let packages = locked();
    for pure in ["messages", "engine"] {
        let found: Vec<_> =
            everything_below(pure, &packages).into_iter().filter(|it| IMPURE.contains(&&**it)).collect();
        assert!(found.is_empty(), "{pure} drags in {found:?}: `cargo tree -p {pure} -i {}` says how", found[0]);
        let other: Vec<_> = members().into_iter().filter(|it| it.name == pure && !it.needs.is_empty()).collect();
        assert!(other.is_empty(), "{pure} depends on crates of ours, and it must stand alone");
    }
}

#[test]
fn nothing_that_deny_toml_bans_is_in_the_tree() {
    let packages = locked();
    let deny = read_toml("deny.toml");
    let banned = deny["bans"]["deny"].as_array().expect("something is banned");
    let banned: Vec<_> = banned.iter().filter_map(|ban| ban["crate"].as_str()).collect();
    for name in ["aws-lc-rs", "openssl"] {
        assert!(banned.contains(&name), "ring is the one TLS provider: ban {name} in deny.toml");
    }
    let found: Vec<_> = banned.into_iter().filter(|name| packages.contains_key(*name)).collect();
    assert!(found.is_empty(), "{found:?} came into Cargo.lock: `cargo tree --target all -i NAME` says how");
}

#[test]
fn a_folder_has_the_name_of_its_crate() {
    for member in members() {
        let folder = member.folder.file_name().expect("a member has a folder").to_string_lossy();
        assert_eq!(folder, member.name, "rename the folder {} or the crate", member.folder.display());
    }
}

#[test]
fn every_file_opens_with_a_sentence_and_is_short() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let shown = path.strip_prefix(root()).unwrap_or(&path).display();
        let opening = text.lines().next().unwrap_or_default();
        if !opening.starts_with("//! ") {
            wrong.push(format!("{shown} does not open with a `//!` sentence that says what it is"));
        }
        let longest = if path.ends_with("src/main.rs") { LONGEST_MAIN } else { LONGEST_FILE };
        let lines = text.lines().count();
        if lines > longest {
            wrong.push(format!("{shown} has {lines} lines, and {longest} are the most: split it by subject"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// The crates of the workspace, as cargo sees them.
fn members() -> Vec<Member> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata speaks JSON");
    metadata["packages"].as_array().expect("there are packages").iter().map(member).collect()
}

fn member(package: &Value) -> Member {
    let text = |value: &Value| value.as_str().expect("cargo metadata names it").to_owned();
    let own = |wanted: fn(&Value) -> bool| {
        let all = package["dependencies"].as_array().expect("there are dependencies");
        let own = all.iter().filter(|dependency| dependency.get("path").is_some() && wanted(&dependency["kind"]));
        own.map(|dependency| text(&dependency["name"])).collect()
    };
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    Member {
        name: text(&package["name"]),
        folder: manifest.parent().expect("a manifest is in a folder").to_owned(),
        needs: own(|kind| kind != "dev"),
        tests_need: own(|kind| kind == "dev"),
    }
}

/// What a row allows: crates, and crates for tests. `None` allows everything.
type Allowed = Option<(BTreeSet<String>, BTreeSet<String>)>;

/// The code map of ARCHITECTURE.md: `| `folder` | what | depends on |`, by folder.
fn allowed(markdown: &str) -> BTreeMap<String, Allowed> {
    let mut rows = BTreeMap::new();
    for line in markdown.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [folder, _, depends_on] = cells[..] else { continue };
        let row = match depends_on {
            "all" => None,
            "nothing of ours" => Some((BTreeSet::new(), BTreeSet::new())),
            names => {
                let (tests, own): (Vec<&str>, Vec<&str>) =
                    names.split(", ").filter(|name| !name.is_empty()).partition(|name| name.ends_with(" in tests"));
                let tests = tests.into_iter().map(|name| name.trim_end_matches(" in tests").to_owned());
                Some((own.into_iter().map(str::to_owned).collect(), tests.collect()))
            }
        };
        rows.insert(folder.trim_matches('`').trim_end_matches('/').to_owned(), row);
    }
    rows
}

/// The packages of Cargo.lock with what each depends on; versions of one name are taken together.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = read_toml("Cargo.lock");
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("there are packages") {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        let needs = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        let needs = needs.filter_map(|it| it.as_str()?.split(' ').next().map(str::to_owned));
        packages.entry(name).or_default().extend(needs);
    }
    packages
}

fn read_toml(path: &str) -> toml::Table {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn everything_below(name: &str, packages: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        let needs = packages.get(&name).cloned().unwrap_or_default();
        if found.insert(name) {
            open.extend(needs);
        }
    }
    found
}

/// Every Rust file that somebody wrote.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = ["agents", "crates", "tests"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
