//! Ends what this program started when it is killed itself, and can end nothing any more.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Reads who is to be ended, or no longer, until its reader's end: the death of this program closes the pipe.
const SCRIPT: &str = r#"
guarded=""
while read -r change process; do
    others=""
    for other in $guarded; do [ "$other" = "$process" ] || others="$others $other"; done
    guarded=$others
    [ "$change" = "+" ] && guarded="$guarded $process"
done
[ -z "$guarded" ] && exit
kill -TERM $guarded
sleep 3
kill -KILL $guarded
"#;

/// From now on a process ends with this one, at the latest.
pub fn guard(process: u32) {
    tell('+', process);
}

/// It has ended: its id may soon be somebody else's.
pub fn release(process: u32) {
    tell('-', process);
}

fn tell(change: char, process: u32) {
    static GUARDIAN: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    // Without a guardian everything is as it would be without guarding.
    if let Some(guardian) = GUARDIAN.get_or_init(start) {
        let mut pipe = guardian.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(pipe, "{change} {process}");
    }
}

/// In a process group of its own, so that no Ctrl-C ends it too soon.
fn start() -> Option<Mutex<ChildStdin>> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().ok()?.stdin.map(Mutex::new)
}
