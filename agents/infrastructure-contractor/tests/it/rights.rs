//! The rights that the README gives are enough, none of them is too much, and `check` names each that is missing with the
//! line that mends it: the line is performed, and the problem is gone.

use infrastructure_contractor::check::{self, Problem};
use reqwest::Method;
use serde_json::json;
use simulators::proxmox::{Options, Version};
use uuid::Uuid;

use crate::{
    life::{assert_succeeded, request},
    shell::Shell,
    world::World,
};

const README: &str = include_str!("../../../../README.md");

/// Role, path and rights of the README's lines.
const RIGHTS: [(&str, &str, &str); 6] = [
    (
        "CortexVm",
        "/pool/cortex",
        "VM.Allocate VM.Audit VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType \
         VM.Config.Memory VM.Config.Network VM.Config.Options VM.PowerMgmt VM.GuestAgent.Audit Pool.Audit",
    ),
    ("CortexAudit", "/", "Sys.Audit"),
    ("CortexNode", "/nodes", "Sys.AccessNetwork Sys.Audit"),
    ("CortexImages", "/storage/local", "Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit"),
    ("CortexDisks", "/storage/local-lvm", "Datastore.AllocateSpace Datastore.Audit"),
    ("CortexNet", "/sdn/zones/localnetwork/vmbr0", "SDN.Use"),
];

/// A hypervisor on which nothing was done for us, but for an account with a token.
fn bare(options: &mut Options) {
    options.pools.clear();
    options.users[0].role = "Nothing".into();
    options.users[0].privileges.clear();
    options.users[0].paths.clear();
    options.storages[0].content.retain(|content| content != "import");
}

/// What the README tells root to type, as `version` has it.
fn readme(version: Version) -> Vec<String> {
    let lines = README.lines().filter(|line| line.starts_with("pveum ") || line.starts_with("pvesm "));
    let agent = if version == Version::V8 { "VM.Monitor" } else { "VM.GuestAgent.Audit" };
    lines.map(|line| line.replace("VM.GuestAgent.Audit", agent)).collect()
}

/// A hypervisor set up as the README says.
async fn set_up(net: u8, version: Version) -> (World, Shell) {
    let world = World::start(net, |options| {
        options.version = version;
        bare(options);
    })
    .await;
    let shell = Shell::open(&world).await;
    // The lab's own account carries this role; it goes, so that only the README's lines count.
    shell.call(Method::DELETE, "/access/roles/CortexAudit", &[]).await;
    let token = "cortex@pve!infrastructure";
    for line in readme(version).iter().filter(|line| !line.starts_with("pveum user ")) {
        shell.run(&line.replace("--users cortex@pve", &format!("--users cortex@pve --tokens {token}"))).await;
    }
    (world, shell)
}

async fn problems(world: &World) -> Vec<Problem> {
    check::check(&world.deps.proxmox, &world.deps.sections).await
}

fn whats(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.what.as_str()).collect()
}

#[tokio::test]
async fn what_the_readme_gives_is_enough_for_a_whole_life() {
    for (net, version) in [(221, Version::V9), (222, Version::V8)] {
        let (world, _) = set_up(net, version).await;
        assert_eq!(problems(&world).await, Vec::new(), "{version:?}");
        assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(1)).await);
        let removed = json!({ "handoff_type": "cluster_removed", "cluster_name": "prod" });
        assert_succeeded(&world.run("destroy-cluster", Uuid::new_v4(), removed).await);
        assert!(world.proxmox.snapshot().vms.is_empty());
    }
}

#[tokio::test]
async fn each_right_that_is_taken_away_is_named_with_the_line_that_gives_it_back() {
    let (world, shell) = set_up(223, Version::V9).await;
    for (role, path, rights) in RIGHTS {
        for taken in rights.split_whitespace() {
            let left: Vec<_> = rights.split_whitespace().filter(|right| *right != taken).collect();
            let left = left.join(" ");
            shell.run(&format!("pveum role modify {role} --privs '{left}'")).await;
            let roles = named_and_mended(&world, &shell, taken, path, "add").await;
            // The line is right too where the role that it makes is there already and has too little.
            for own in &roles {
                shell.run(&format!("pveum role modify {own} --privs '{left}'")).await;
            }
            named_and_mended(&world, &shell, taken, path, "modify").await;
            shell.run(&format!("pveum role modify {role} --privs '{rights}'")).await;
            for own in &roles {
                shell.call(Method::DELETE, &format!("/access/roles/{own}"), &[]).await;
            }
        }
    }
}

/// The right is named as missing and nothing else is, and its line gives it back. The roles that the line is about.
async fn named_and_mended(world: &World, shell: &Shell, taken: &str, path: &str, verb: &str) -> Vec<String> {
    let found = problems(world).await;
    let missing = |problem: &Problem| problem.what.contains(&format!("lacks {taken} on {path}"));
    assert!(!found.is_empty() && found.iter().all(missing), "without {taken} on {path}: {found:#?}");
    let mut roles = Vec::new();
    for problem in &found {
        let role = problem.mend.strip_prefix(&format!("pveum role {verb} ")).unwrap_or_else(|| panic!("{problem}"));
        roles.push(role.split(' ').next().unwrap().to_owned());
        shell.run(&problem.mend).await;
    }
    assert_eq!(problems(world).await, Vec::new(), "mended {taken}");
    roles
}

#[tokio::test]
async fn on_a_bare_hypervisor_everything_is_named_at_once_and_the_lines_mend_it() {
    let world = World::start(224, bare).await;
    let shell = Shell::open(&world).await;
    shell.call(Method::DELETE, "/access/roles/CortexAudit", &[]).await;
    let found = problems(&world).await;
    for (_, path, rights) in RIGHTS {
        for right in rights.split_whitespace() {
            let paths: Vec<_> = match path {
                "/nodes" => vec!["/nodes/pve1", "/nodes/pve2", "/nodes/pve3"],
                path => vec![path],
            };
            for path in paths {
                let named = |what: &&str| what.contains(right) && what.ends_with(&format!(" on {path}"));
                assert!(whats(&found).iter().any(named), "{right} on {path}: {found:#?}");
            }
        }
    }
    for problem in &found {
        shell.run(&problem.mend).await;
    }
    let found = problems(&world).await;
    assert_eq!(
        whats(&found),
        [
            "storage local does not take content type import, only backup,iso,snippets,vztmpl",
            "there is no resource pool cortex"
        ],
        "what the missing rights hid"
    );
    for problem in &found {
        shell.run(&problem.mend).await;
    }
    assert_eq!(problems(&world).await, Vec::new());
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
}

#[tokio::test]
async fn each_setting_of_a_storage_that_is_wrong_is_named_with_the_line_that_mends_it() {
    let (world, shell) = set_up(225, Version::V9).await;
    for (broken, what) in [
        ("pvesm set local --content iso", "storage local does not take content type import, only iso"),
        ("pvesm set local-lvm --content rootdir", "storage local-lvm does not take content type images, only rootdir"),
        ("pvesm set local --nodes pve1", "storage local is not available on pve2, pve3"),
        ("pvesm set local-lvm --disable 1", "storage local-lvm is disabled"),
    ] {
        shell.run(broken).await;
        let found = problems(&world).await;
        assert_eq!(whats(&found), [what], "{broken}: {found:#?}");
        shell.run(&found[0].mend).await;
        assert_eq!(problems(&world).await, Vec::new(), "{broken}");
    }
}
