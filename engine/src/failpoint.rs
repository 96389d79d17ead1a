//! Places where a test may kill the process: before and after each step that makes something durable.
//!
//! `MILLSTREAM_KILL_AT=checkpoint.rename:before:3` ends the process, as `kill -9` would, before the third renaming. Nothing
//! is flushed, dropped or told to anybody: what the next run finds is what was durable at that moment.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable of the environment that says where to die: `NAME:before|after:NTH`, counted from 1.
pub const VARIABLE: &str = "MILLSTREAM_KILL_AT";

/// Every step that has a failpoint.
pub const NAMES: &[&str] = &[
    "promote.write",
    "promote.place",
    "registry.commit",
    "registry.hide",
    "registry.clear",
    "origin.write",
    "origin.rename",
    "transaction.begin",
    "transaction.send",
    "transaction.commit",
    "progress.send",
    "checkpoint.part",
    "checkpoint.manifest",
    "checkpoint.rename",
    "checkpoint.delete",
    "feed.append",
    "intake.append",
];

/// Does `act`, a step named in [`NAMES`]; dies before or after it if that is what [`VARIABLE`] says.
pub fn around<T>(name: &'static str, act: impl FnOnce() -> T) -> T {
    debug_assert!(NAMES.contains(&name), "`{name}` is not in failpoint::NAMES");
    let Some(kill) = KILL.as_ref().filter(|kill| kill.name == name) else {
        return act();
    };
    let is_it = kill.passed.fetch_add(1, Ordering::Relaxed) + 1 == kill.nth;
    if is_it && kill.side == Side::Before {
        die();
    }
    let done = act();
    if is_it && kill.side == Side::After {
        die();
    }
    done
}

/// Read at the first failpoint, and never again: that it is not set costs one load.
static KILL: LazyLock<Option<Kill>> = LazyLock::new(|| {
    let text = std::env::var_os(VARIABLE)?;
    let kill = parse(&text.to_string_lossy());
    Some(kill.unwrap_or_else(|why| {
        // A test that does not kill where it says so would prove nothing.
        eprintln!("{VARIABLE}: {why}");
        std::process::exit(2)
    }))
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

#[derive(Debug)]
struct Kill {
    name: &'static str,
    side: Side,
    nth: u64,
    passed: AtomicU64,
}

fn parse(text: &str) -> Result<Kill, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, side, nth] = parts[..] else {
        return Err(format!("`{text}` is not NAME:before|after:NTH"));
    };
    let Some(name) = NAMES.iter().find(|known| **known == name) else {
        return Err(format!("there is no failpoint `{name}`; there are: {}", NAMES.join(", ")));
    };
    let side = match side {
        "before" => Side::Before,
        "after" => Side::After,
        _ => return Err(format!("`{side}` is neither before nor after")),
    };
    match nth.parse() {
        Ok(nth) if nth > 0 => Ok(Kill { name, side, nth, passed: AtomicU64::new(0) }),
        _ => Err(format!("`{nth}` is not a number from 1")),
    }
}

/// Dies as by `kill -9`: no destructor, no flush, no handler.
fn die() -> ! {
    let sent = kill_process(getpid(), Signal::KILL);
    assert!(sent.is_ok(), "a process may kill itself");
    // The signal ends every thread; until it does, this one does nothing more.
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    use super::*;

    /// Tells a child process that it is one.
    const CHILD: &str = "MILLSTREAM_TEST_CHILD";

    /// Not a test of its own: what the child processes run.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_some() {
            for step in 1..=3 {
                around("checkpoint.part", || println!("\npart {step}"));
                around("checkpoint.rename", || println!("\nrename {step}"));
            }
        }
    }

    fn run(kill_at: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("tests know their program"));
        command.args(["failpoint::tests::child", "--exact", "--nocapture"]).env(CHILD, "1").env_remove(VARIABLE);
        command.envs(kill_at.map(|text| (VARIABLE, text)));
        command.output().expect("the program starts again")
    }

    fn steps(output: &Output) -> Vec<String> {
        let text = String::from_utf8_lossy(&output.stdout);
        let is_step = |line: &&str| line.starts_with("part ") || line.starts_with("rename ");
        text.lines().filter(is_step).map(str::to_owned).collect()
    }

    #[test]
    fn kills_before_and_after_the_nth_time() {
        let all = ["part 1", "rename 1", "part 2", "rename 2", "part 3", "rename 3"];
        let cases = [
            ("checkpoint.part:before:1", 0),
            ("checkpoint.part:after:1", 1),
            ("checkpoint.rename:before:2", 3),
            ("checkpoint.rename:after:2", 4),
            ("checkpoint.rename:after:3", 6),
        ];
        for (kill_at, done) in cases {
            let output = run(Some(kill_at));
            assert_eq!(output.status.signal(), Some(9), "{kill_at}: {output:?}");
            assert_eq!(steps(&output), all[..done], "{kill_at}");
        }
        for untouched in [None, Some("checkpoint.part:after:4"), Some("feed.append:before:1")] {
            let output = run(untouched);
            assert!(output.status.success(), "{untouched:?}: {output:?}");
            assert_eq!(steps(&output), all, "{untouched:?}");
        }
    }

    #[test]
    fn nonsense_ends_the_program_at_the_first_failpoint() {
        let cases = [
            ("checkpoint.part", "`checkpoint.part` is not NAME:before|after:NTH"),
            ("checkpoint.part:before:1:2", "`checkpoint.part:before:1:2` is not NAME:before|after:NTH"),
            ("checkpoint.prat:before:1", "there is no failpoint `checkpoint.prat`; there are: promote.write, "),
            ("checkpoint.part:during:1", "`during` is neither before nor after"),
            ("checkpoint.part:before:0", "`0` is not a number from 1"),
            ("checkpoint.part:before:x", "`x` is not a number from 1"),
        ];
        for (kill_at, message) in cases {
            let output = run(Some(kill_at));
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{kill_at}: {output:?}");
            assert!(told.contains(&format!("{VARIABLE}: {message}")), "{kill_at}: {told}");
            assert!(steps(&output).is_empty(), "{kill_at}");
        }
    }
}
