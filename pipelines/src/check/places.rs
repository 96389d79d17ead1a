//! Places: where checkpoints and versions are kept, and where processes are.

use std::collections::BTreeSet;

use millstream_operators::registry::check_database;

use super::Checker;
use crate::definition::{Data, Entry, Node};
use crate::report::Finding;
use crate::{plan, shape};

/// How the URLs begin of stores that outlive the program.
const STORES: [&str; 4] = ["file", "s3", "gs", "az"];

/// A secret of fewer can be guessed.
const SECRET_CHARACTERS: usize = 16;

impl Checker<'_> {
    pub(super) fn checkpoints(&mut self, root: &Node) -> plan::Checkpoints {
        let Some(entry) = root.entry("checkpoints") else { return plan::Checkpoints::default() };
        if let Some(to) = entry.value.entry("to") {
            self.kept_at(to, "checkpoints", true);
        }
        self.read(Some(&entry.value)).unwrap_or_default()
    }

    /// Where promoted versions are.
    pub(super) fn registry(&mut self, root: &Node) -> shape::Registry {
        let Some(entry) = root.entry("registry") else { return shape::Registry::default() };
        self.registry_at(&entry.value);
        self.read(Some(&entry.value)).unwrap_or_default()
    }

    /// What a definition says of a registry: a place, or that and a database.
    pub(super) fn registry_at(&mut self, node: &Node) {
        if let Some(artefacts) = node.entry("artefacts") {
            self.kept_at(artefacts, "versions", false);
        }
        if let Some(database) = node.entry("database") {
            self.database(database);
        }
    }

    /// A folder, or the URL of a store.
    pub(super) fn kept_at(&mut self, at: &Entry, what: &str, memory: bool) {
        let Some(to) = at.value.text() else { return };
        let stores = STORES.into_iter().chain(memory.then_some("memory")).collect::<Vec<_>>();
        let message = match to.split_once("://") {
            _ if to.trim().is_empty() => format!("`{}` is empty", at.key),
            Some((scheme, place)) if !stores.contains(&scheme) || place.is_empty() => {
                format!("`{to}` is no place where {what} can be kept")
            }
            _ => return,
        };
        let help = format!("name a folder, or a URL that starts with `{}://`", stores.join("://`, `"));
        self.find(Finding::error(at.value.span, "bad-store", message).help(help));
    }

    /// Where the processes are, if there are several.
    pub(super) fn processes(&mut self, root: &Node) -> Option<plan::Processes> {
        let entry = root.entry("processes").filter(|entry| entry.value.data != Data::Null)?;
        let mut seen = BTreeSet::new();
        for address in entry.value.get("addresses").map_or(&[][..], Node::items) {
            let Some(text) = address.text() else { continue };
            let is_place =
                |(host, port): (&str, &str)| !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0);
            if !text.rsplit_once(':').is_some_and(is_place) {
                let message = format!("`{text}` is no address of a process");
                let help = "give a host and a port: `10.0.0.1:7100`";
                self.find(Finding::error(address.span, "bad-address", message).help(help));
            } else if !seen.insert(text) {
                let message = format!("two processes have the address `{text}`");
                self.find(Finding::error(address.span, "bad-address", message).help("give each its own"));
            }
        }
        if let Some(secret) = entry.value.get("secret") {
            let help = "write `${env:PROCESSES_SECRET}`, and set the variable: `openssl rand -hex 16` makes one";
            let (code, message) = match &secret.data {
                Data::Text(_) => ("open-secret", "the secret is read by everyone who reads the definition".to_owned()),
                Data::Reference(reference)
                    if self.secrets.knows(reference)
                        && self.secrets.value(reference).chars().count() < SECRET_CHARACTERS =>
                {
                    ("weak-secret", format!("the secret has fewer than {SECRET_CHARACTERS} characters"))
                }
                _ => return self.read(Some(&entry.value)),
            };
            self.find(Finding::error(secret.span, code, message).help(help));
        }
        self.read(Some(&entry.value))
    }

    fn database(&mut self, at: &Entry) {
        let url = match &at.value.data {
            // Nothing can be said of a value that is not known yet.
            Data::Reference(reference) if !self.secrets.knows(reference) => return,
            Data::Reference(reference) => self.secrets.value(reference),
            Data::Text(text) => text.clone(),
            _ => return,
        };
        if let Err(fault) = check_database(&url) {
            let help =
                "for instance `${env:REGISTRY_DATABASE}`, where that is `postgres://ana:secret@db.example/models`";
            self.find(Finding::error(at.value.span, "bad-database", fault.message).help(help));
        } else if at.value.text().is_some_and(holds_password) {
            let message = format!("`{}` holds a password, which everyone reads who reads the definition", at.key);
            let help = "write `${env:REGISTRY_DATABASE}`, and set the variable to the URL";
            self.find(Finding::error(at.value.span, "open-secret", message).help(help));
        }
    }
}

fn holds_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?']).next().unwrap_or_default();
    let in_options = url.split_once('?').is_some_and(|(_, options)| options.contains("password="));
    in_options || authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}
