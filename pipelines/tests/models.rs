//! `millstream models`, as it is typed.

use std::path::{Path, PathBuf};
use std::process::Command;

use millstream_operators::registry::{Metadata, Promotion, Registry, Score};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A pipeline's state with three versions of a model, each better than the one before, the last on no slice.
struct Site {
    folder: TempDir,
    ids: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(&folder.path().join("state/models")).expect("opened");
        let promote = |(revision, loss, slice): (u64, f64, f64)| {
            let score = |who: &str, over: &str, value| Score {
                name: "log_loss".to_owned(),
                who: who.to_owned(),
                over: over.to_owned(),
                value,
            };
            let metadata = Metadata {
                model: "late".to_owned(),
                revision,
                examples: revision,
                measures: vec![
                    score("model", "all", loss),
                    score("majority", "all", 0.6),
                    score("model", "carrier=AA", slice),
                ],
                promoted_ms: 1_767_225_600_000 + revision as i64,
                reason: format!("{revision} examples"),
                ..Metadata::default()
            };
            let artefacts = vec![("model.json".to_owned(), json!({"revision": revision}).to_string().into_bytes())];
            registry.promote(&Promotion { metadata, artefacts }).expect("promoted").id
        };
        let ids = [(10, 0.5, 0.5), (20, 0.4, 0.5), (30, 0.3, 0.6)].map(promote).to_vec();
        Self { folder, ids }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program: its exit code, standard output and standard error.
    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let (definition, state) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sensors.yaml"), self.path("state"));
        let places = |word: &&str| match *word {
            "FILE" => definition.clone().into_os_string(),
            word => word.into(),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("models").args(words.iter().map(places)).arg("--state").arg(state).env("USER", "ana");
        let output = command.output().expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn done(&self, words: &[&str]) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{words:?}: {out}");
        out
    }

    fn refused(&self, words: &[&str], want: &str) {
        let (code, out, err) = self.run(words);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{words:?}: {err}");
        assert!(err.contains(want), "{words:?}: {err}");
    }
}

#[test]
fn versions_are_listed_promoted_compared_and_told_about() {
    let site = Site::new();
    let [first, second, third] = [0, 1, 2].map(|at| site.ids[at].as_str());
    site.refused(&["promote", "FILE", "late@v1"], "--why");
    site.done(&["promote", "FILE", "late@v1", "--why", "the first"]);
    site.done(&["promote", "FILE", second, "--why", "better", "--by", "bob"]);
    site.refused(&["promote", "FILE", "late@latest", "--why", "best"], "0.6000 instead of 0.5000 over carrier=AA");
    let out = site.done(&["promote", "FILE", "late@latest", "--why", "best", "--slice-tolerance", "0.2"]);
    assert!(out.starts_with(&format!("late@champion is late/{third}\n")) && out.contains("-0.1000"), "{out}");
    site.done(&["alias", "set", "FILE", &first[..6], "challenger", "--why", "for fun"]);
    site.done(&["tag", "FILE", "late@challenger", "stage=old", "size=1=1"]);
    site.done(&["tag", "FILE", "late@challenger", "--remove", "size"]);
    site.done(&["describe", "FILE", "late@champion", "Good."]);
    assert_eq!(
        site.done(&["list", "FILE"]),
        format!(
            "version           model  no  aliases     revision  measure          best baseline    why\n\
             {first}  late   1   challenger  10        log_loss 0.5000  majority 0.6000  10 examples\n\
             {second}  late   2               20        log_loss 0.4000  majority 0.6000  20 examples\n\
             {third}  late   3   champion    30        log_loss 0.3000  majority 0.6000  30 examples\n"
        )
    );
    let listed = site.done(&[
        "list",
        "FILE",
        "--where",
        "\"tag.stage\" = 'old' or log_loss < 0.4",
        "--sort",
        "log_loss",
        "--format",
        "json",
    ]);
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    let ids: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|version| version["id"].as_str()).collect();
    assert_eq!(ids, [third, first]);
    assert_eq!(listed[0]["metadata"]["examples"], 30);
    assert_eq!(site.done(&["list", "FILE", "--model", "soon"]), "no such versions\n");
    site.refused(&["list", "FILE", "--where", "loss < 1"], "there is no column `loss` here");
    let shown = site.done(&["show", "FILE", "late@champion"]);
    assert!(shown.contains("aliases      champion\n") && shown.contains("description  Good.\n"), "{shown}");
    let compared = site.done(&["compare", "FILE", "late@challenger", "late@champion"]);
    assert!(compared.contains("log_loss, carrier=AA") && compared.contains("+0.1000"), "{compared}");
    let card = site.done(&["card", "FILE", "late@champion"]);
    assert!(card.starts_with("---\nlibrary_name: millstream\n") && card.contains("Good."), "{card}");
    let history = site.done(&["history", "FILE", "late@champion"]);
    assert_eq!(history.lines().count(), 4, "{history}");
    assert!(history.contains(&format!("alias champion from {second}")) && history.contains("ana"), "{history}");
    assert_eq!(site.done(&["history", "FILE", "late"]), site.done(&["history", "FILE"]));
    site.refused(&["history", "FILE", "never"], "`never` is not the start of exactly one version");
}

#[test]
fn versions_go_and_come() {
    let site = Site::new();
    let id = site.ids[0].as_str();
    let archive = site.path("version.tar");
    let archive = archive.to_str().expect("a name");
    site.done(&["export", "FILE", id, "--to", archive]);
    site.refused(&["export", "FILE", id, "--to", archive], "is there already");
    site.done(&["alias", "set", "FILE", id, "keep"]);
    site.refused(&["delete", "FILE", id], "is keep: give the alias to another version");
    site.refused(&["alias", "remove", "FILE", "keep"], "`keep` is not MODEL@ALIAS");
    site.done(&["alias", "remove", "FILE", "late@keep"]);
    assert_eq!(site.done(&["delete", "FILE", id, "--why", "old"]), format!("late/{id} is deleted\n"));
    site.refused(&["show", "FILE", id], "is not the start of exactly one version");
    assert_eq!(site.done(&["import", "FILE", archive]), format!("late/{id} is imported\n"));
    assert_eq!(site.done(&["import", "FILE", archive]), format!("late/{id} was there already\n"));
    assert!(site.done(&["list", "FILE"]).contains("late   4 "), "numbers are not given twice");
    std::fs::write(site.path("bad.tar"), b"no archive").expect("written");
    site.refused(
        &["import", "FILE", site.path("bad.tar").to_str().expect("a name")],
        "bad.tar: this is no archive of a version",
    );
}

#[test]
fn a_server_that_others_can_reach_needs_a_token_that_no_command_line_tells() {
    let site = Site::new();
    site.refused(
        &["serve", "FILE", "--listen", "0.0.0.0:0"],
        "add --token '${env:NAME}' or --tls-clients, or listen at 127.0.0.1",
    );
    site.refused(&["serve", "FILE", "--token", "c4n4ry"], "a command line is no place for a secret");
    site.refused(
        &["serve", "FILE", "--token", "${env:MILLSTREAM_NO_SUCH_TOKEN}"],
        "`MILLSTREAM_NO_SUCH_TOKEN` is not set",
    );
    site.refused(&["serve", "FILE", "--listen", "nowhere"], "--listen");
}
