//! `cortexctl store verify|export|import|accept-loss|rekey|compact`: through the daemon, or on a stopped one's folder.

use std::path::{Path, PathBuf};

use ::store::{Options, Recovery, Rekey, RekeyError, Store};
use clap::{Args, Subcommand};
use messages::subject::Party;
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    output::Output,
};

/// Which store.
#[derive(Args)]
pub struct Which {
    /// The contractor whose daemon is asked: infrastructure or talos.
    #[arg(long, conflicts_with = "folder", required_unless_present = "folder")]
    of: Option<Party>,
    /// The store's folder, of a daemon that is stopped.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The age key file, to verify sealed secrets too.
    #[arg(long, requires = "folder")]
    key_file: Option<PathBuf>,
}

/// What to do with a store.
#[derive(Subcommand)]
pub enum Command {
    /// Read every row and check that they fit together.
    Verify {
        #[command(flatten)]
        which: Which,
    },
    /// Write everything into a file (JSON lines with a checksum). Secrets stay sealed.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file, where nothing is yet; if a daemon is asked, its whole path on the daemon's machine.
        file: PathBuf,
    },
    /// Fill a new folder from an export. Only offline: a daemon's store cannot be replaced beneath it.
    Import {
        /// The folder.
        #[arg(long)]
        folder: PathBuf,
        /// The file.
        file: PathBuf,
        /// Replace what the folder holds, even if it cannot be opened.
        #[arg(long)]
        replace: bool,
    },
    /// Go on without commits that a store lost, which its daemon refuses to start on. Only offline. What the contractor
    /// did in them it does not know of any more.
    AcceptLoss {
        /// The folder.
        #[arg(long)]
        folder: PathBuf,
    },
    /// Seal every secret again under a new key. Only offline: a running daemon seals with the key that it read at its
    /// start, and would go on to do so.
    Rekey {
        /// The folder.
        #[arg(long)]
        folder: PathBuf,
        /// The age key file that opens the secrets now; the recovery key does, too.
        #[arg(long)]
        key_file: PathBuf,
        /// The age key file that opens them from then on; it is made where there is none.
        #[arg(long)]
        new_key_file: PathBuf,
        /// An age recipient whose key is kept offline and opens them, too.
        #[arg(long, value_name = "RECIPIENT", conflicts_with = "without_recovery")]
        recovery_recipient: Option<String>,
        /// Nobody but the new key is to open them.
        #[arg(long)]
        without_recovery: bool,
    },
    /// Give disk space back: export, import, swap.
    Compact {
        #[command(flatten)]
        which: Which,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::Verify { which } => {
            let verified: Value = match open(&which)? {
                Some(store) => {
                    let verified = store.reader().verify().map_err(|error| failed(&error))?;
                    if let Some(doubt) = store.doubt() {
                        out.note(doubt);
                    }
                    store.close().await;
                    serde_json::to_value(verified).map_err(Failure::other)?
                }
                None => connection.connect().await?.query(party(&which)?, "store.verify", json!({})).await?,
            };
            out.value(&verified)?;
            let sound = verified.get("problems").and_then(Value::as_array).is_some_and(Vec::is_empty);
            Ok(if sound { Ending::Ok } else { Ending::Failed })
        }
        Command::Export { which, file } => {
            match open(&which)? {
                Some(store) => {
                    let exported = store.export(&file).await;
                    store.close().await;
                    out.value(&exported.map_err(|error| failed(&error))?)?;
                }
                None => {
                    let arguments = json!({ "file": file });
                    let told: Value =
                        connection.connect().await?.command(party(&which)?, "store.export", arguments).await?;
                    out.value(&told)?;
                }
            }
            Ok(Ending::Ok)
        }
        Command::Import { folder, file, replace } => {
            let imported = ::store::import(&folder, &file, replace).map_err(|error| failed(&error))?;
            out.value(&imported)?;
            Ok(Ending::Ok)
        }
        Command::AcceptLoss { folder } => {
            let loss = ::store::accept_loss(&folder).map_err(|error| failed(&error))?;
            out.value(&loss)?;
            out.note(&format!(
                "the daemon starts again; `cortexctl store verify --folder {}` says whether what is left fits together",
                folder.display()
            ));
            Ok(Ending::Ok)
        }
        Command::Rekey { folder, key_file, new_key_file, recovery_recipient, without_recovery } => {
            let recovery = match &recovery_recipient {
                Some(recipient) => Recovery::Recipient(recipient),
                None if without_recovery => Recovery::Nobody,
                None => Recovery::Unsaid,
            };
            rekey(&folder, Rekey { old_key: &key_file, new_key: &new_key_file, recovery }, out)
        }
        Command::Compact { which } => {
            match open(&which)? {
                Some(store) => {
                    let compacted = store.compact().await;
                    store.close().await;
                    out.value(&compacted.map_err(|error| failed(&error))?)?;
                }
                None => {
                    let told: Value =
                        connection.connect().await?.command(party(&which)?, "store.compact", json!({})).await?;
                    out.value(&told)?;
                }
            }
            Ok(Ending::Ok)
        }
    }
}

fn rekey(folder: &Path, how: Rekey<'_>, out: &mut Output) -> Outcome {
    if !how.new_key.exists() {
        ::store::create_key_file(how.new_key).map_err(|error| failed(&error))?;
    }
    let rekeyed = ::store::rekey(folder, how).map_err(|error| match error {
        RekeyError::Unsaid(_) => Failure::Usage(format!("{error}: --recovery-recipient or --without-recovery")),
        other => failed(&other),
    })?;
    out.value(&rekeyed)?;
    out.note(&format!(
        "set store.key_file to {} before the daemon starts; {} still opens exports that were made before: keep it with \
         them, or destroy both",
        how.new_key.display(),
        how.old_key.display()
    ));
    Ok(Ending::Ok)
}

fn open(which: &Which) -> Result<Option<Store>, Failure> {
    let Some(folder) = &which.folder else { return Ok(None) };
    if !folder.is_dir() {
        return Err(Failure::Usage(format!("{} is no folder", folder.display())));
    }
    let options = Options { key_file: which.key_file.clone(), ..Options::default() };
    Store::open(folder, options).map(Some).map_err(|error| failed(&error))
}

/// With all causes.
fn failed(error: &dyn std::error::Error) -> Failure {
    let causes = std::iter::successors(Some(error), |error| error.source());
    Failure::Other(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

fn party(which: &Which) -> Result<Party, Failure> {
    which.of.ok_or_else(|| Failure::Usage("either --of or --folder must be given".into()))
}
