//! What is asked, and what is answered.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use millstream_engine::time::Clock;
use millstream_engine::{Blame, Fault};
use millstream_operators::registry::{Author, Edit, Entry, Registry, Version};
use serde_json::{Value, json};

use super::filter::Filter;
use super::views::{Model, ModelVersion, OURS, models};

const API: &str = "/api/2.0/mlflow/";
const FILES: &str = "/api/2.0/mlflow-artifacts/artifacts";

/// How many models, or versions, are on a page at most, and if nothing is said.
const PAGE_MAX: usize = 10_000;
const PAGE: usize = 100;

/// A request under its limits; a query's and a body's parameters are the same to it.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) parameters: BTreeMap<String, Vec<String>>,
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Reply {
    Json(Value),
    Text(&'static str),
    File(Vec<u8>),
}

/// MLflow's word for what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Missing,
    NoEndpoint,
    Invalid,
    Refused,
    Unauthenticated,
    Forbidden,
    TooLarge,
    Timeout,
    Busy,
    Internal,
}

/// Why a request was not answered as it asked.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            Code::Missing | Code::NoEndpoint => StatusCode::NOT_FOUND,
            Code::Invalid => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::Refused | Code::Forbidden => StatusCode::FORBIDDEN,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Timeout => StatusCode::REQUEST_TIMEOUT,
            Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn body(&self) -> Value {
        let code = match self.code {
            Code::Missing => "RESOURCE_DOES_NOT_EXIST",
            Code::NoEndpoint => "ENDPOINT_NOT_FOUND",
            Code::Invalid | Code::TooLarge => "INVALID_PARAMETER_VALUE",
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::Refused | Code::Forbidden => "PERMISSION_DENIED",
            Code::Timeout => "DEADLINE_EXCEEDED",
            Code::Busy => "TEMPORARILY_UNAVAILABLE",
            Code::Internal => "INTERNAL_ERROR",
        };
        json!({"error_code": code, "message": self.message})
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let code = match fault.blame {
            Blame::Definition => Code::Invalid,
            _ if fault.retry => Code::Busy,
            _ => Code::Internal,
        };
        Self::new(code, fault.to_string())
    }
}

type Answer = Result<Reply, Refusal>;

impl Asked {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(|values| values.first()).map(String::as_str)
    }

    fn need(&self, name: &str) -> Result<&str, Refusal> {
        let missing = || Refusal::new(Code::Invalid, format!("Missing value for required parameter '{name}'."));
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }
}

/// What answers.
pub(super) struct Api {
    registry: Registry,
    user: String,
    clock: Arc<dyn Clock>,
}

impl Api {
    pub(super) fn new(registry: Registry, user: String, clock: Arc<dyn Clock>) -> Self {
        Self { registry, user, clock }
    }

    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.path.as_str();
        if let Some(call) = path.strip_prefix(API) {
            return self.call(asked, call);
        }
        if let Some(below) = path.strip_prefix(FILES).filter(|below| below.is_empty() || below.starts_with('/')) {
            return match asked.method {
                Method::GET if below.is_empty() => self.list_files(asked.get("path").unwrap_or_default()),
                Method::GET => self.file(&below[1..]),
                _ => Err(refused("a version's files never change")),
            };
        }
        match (&asked.method, path) {
            (&Method::GET, "/health") => Ok(Reply::Text("OK")),
            _ => Err(unknown(asked)),
        }
    }

    fn call(&self, asked: &Asked, call: &str) -> Answer {
        match (asked.method.as_str(), call) {
            ("GET", "registered-models/search") => self.search_models(asked),
            ("GET", "registered-models/get") => {
                Ok(Reply::Json(json!({"registered_model": self.model(asked.need("name")?)?.json()})))
            }
            ("GET" | "POST", "registered-models/get-latest-versions") => {
                let model = self.model(asked.need("name")?)?;
                // Stages are a thing of the past, and every version's is `None`.
                let stages = asked.parameters.get("stages").map_or(&[][..], Vec::as_slice);
                let is_asked = stages.is_empty() || stages.iter().any(|stage| stage.eq_ignore_ascii_case("none"));
                let latest = model.latest().filter(|_| is_asked).map(ModelVersion::json);
                Ok(Reply::Json(json!({"model_versions": latest.into_iter().collect::<Vec<_>>()})))
            }
            ("GET", "registered-models/alias") => {
                let (model, alias) = (self.model(asked.need("name")?)?, asked.need("alias")?);
                let found =
                    model.versions.iter().find(|version| version.entry.aliases.iter().any(|name| name == alias));
                let missing = || missing(&format!("Registered model alias {alias} of {} not found.", model.name));
                Ok(Reply::Json(json!({"model_version": found.ok_or_else(missing)?.json()})))
            }
            ("POST", "registered-models/alias") => {
                let version = self.sound(asked)?;
                self.registry.set_alias(&version, asked.need("alias")?, &self.author())?;
                Ok(done())
            }
            ("DELETE", "registered-models/alias") => {
                let (model, alias) = (self.model(asked.need("name")?)?, asked.need("alias")?);
                let is_there =
                    model.versions.iter().any(|version| version.entry.aliases.iter().any(|name| name == alias));
                if !is_there {
                    return Err(missing(&format!("Registered model alias {alias} of {} not found.", model.name)));
                }
                self.registry.remove_alias(&model.name, alias, &self.author())?;
                Ok(done())
            }
            ("POST", "registered-models/set-tag") | ("DELETE", "registered-models/delete-tag") => {
                self.edit(asked, None)
            }
            ("PATCH", "registered-models/update") => {
                self.edit(asked, None)?;
                Ok(Reply::Json(json!({"registered_model": self.model(asked.need("name")?)?.json()})))
            }
            ("GET", "model-versions/search") => self.search_versions(asked),
            ("GET", "model-versions/get") => Ok(Reply::Json(json!({"model_version": self.version(asked)?.json()}))),
            ("GET", "model-versions/get-download-uri") => {
                Ok(Reply::Json(json!({"artifact_uri": self.version(asked)?.source()})))
            }
            ("POST", "model-versions/set-tag") | ("DELETE", "model-versions/delete-tag") => {
                self.edit(asked, Some(&self.sound(asked)?))
            }
            ("PATCH", "model-versions/update") => {
                self.edit(asked, Some(&self.sound(asked)?))?;
                Ok(Reply::Json(json!({"model_version": self.version(asked)?.json()})))
            }
            ("POST", "registered-models/create" | "model-versions/create") => Err(refused(
                "versions come from runs (`promote:` in the definition) and from `millstream models import`",
            )),
            ("POST", "registered-models/rename") => {
                Err(refused("a model's name is the one in the pipeline's definition"))
            }
            ("POST", "model-versions/transition-stage") => {
                Err(refused("there are no stages: give the version an alias, such as `champion`"))
            }
            ("DELETE", "registered-models/delete" | "model-versions/delete") => {
                Err(refused("versions are deleted where they are: `millstream models delete FILE VERSION`"))
            }
            _ => Err(unknown(asked)),
        }
    }

    fn author(&self) -> Author {
        Author { by: self.user.clone(), why: "asked over HTTP".to_owned(), at_ms: self.clock.now_ms() }
    }

    fn model(&self, name: &str) -> Result<Model, Refusal> {
        let missing = || missing(&format!("Registered Model with name={name} not found"));
        models(&self.registry)?.remove(name).ok_or_else(missing)
    }

    fn version(&self, asked: &Asked) -> Result<ModelVersion, Refusal> {
        let (name, number) = (asked.need("name")?, asked.need("version")?);
        self.numbered(name, number)
    }

    fn numbered(&self, name: &str, number: &str) -> Result<ModelVersion, Refusal> {
        let wrong = |_| Refusal::new(Code::Invalid, format!("version `{number}` is no number"));
        let wanted: u64 = number.parse().map_err(wrong)?;
        let missing = || missing(&format!("Model Version (name={name}, version={number}) not found"));
        let model = self.model(name)?;
        model.versions.into_iter().find(|version| version.number == wanted).ok_or_else(missing)
    }

    /// A version whose files can be used.
    fn sound(&self, asked: &Asked) -> Result<Version, Refusal> {
        Ok(self.version(asked)?.entry.version?)
    }

    /// Sets or removes a tag, or describes.
    fn edit(&self, asked: &Asked, version: Option<&Version>) -> Answer {
        let model = self.model(asked.need("name")?)?.name;
        let edit = match asked.path.rsplit('/').next() {
            Some("update") => Edit::Description(asked.get("description").unwrap_or_default()),
            change => {
                let key = asked.need("key")?;
                if key.starts_with(OURS) {
                    let message =
                        format!("tags that begin with `{OURS}` say what the registry knows: choose another name");
                    return Err(Refusal::new(Code::Invalid, message));
                }
                Edit::Tag(key, (change == Some("set-tag")).then(|| asked.get("value").unwrap_or_default()))
            }
        };
        self.registry.edit(&model, version, edit, &self.author())?;
        Ok(done())
    }

    fn search_models(&self, asked: &Asked) -> Answer {
        let filter = filter(asked)?;
        let models = models(&self.registry)?.into_values().filter(|model| filter.passes(&model.facts()));
        let mut models: Vec<Model> = models.collect();
        order(asked, &mut models, |model, by| match by {
            "name" => Some(Key::Text(model.name.clone())),
            "creation_timestamp" => Some(Key::Number(model.created_ms())),
            "last_updated_timestamp" => Some(Key::Number(model.changed_ms())),
            _ => None,
        })?;
        let (page, next) = page(asked, &models)?;
        let page: Vec<Value> = page.iter().map(Model::json).collect();
        Ok(Reply::Json(json!({"registered_models": page, "next_page_token": next})))
    }

    fn search_versions(&self, asked: &Asked) -> Answer {
        let filter = filter(asked)?;
        let versions = models(&self.registry)?.into_values().flat_map(|model| model.versions);
        let mut versions: Vec<ModelVersion> = versions.filter(|version| filter.passes(&version.facts())).collect();
        versions.sort_by_key(|version| Reverse((version.changed_ms(), version.number)));
        order(asked, &mut versions, |version, by| match by {
            "name" => Some(Key::Text(version.entry.model.clone())),
            "version_number" => Some(Key::Number(version.number as i64)),
            "creation_timestamp" => Some(Key::Number(version.created_ms())),
            "last_updated_timestamp" => Some(Key::Number(version.changed_ms())),
            _ => None,
        })?;
        let (page, next) = page(asked, &versions)?;
        let page: Vec<Value> = page.iter().map(ModelVersion::json).collect();
        Ok(Reply::Json(json!({"model_versions": page, "next_page_token": next})))
    }

    /// What lies at a path: models, their versions, the files of one.
    fn list_files(&self, path: &str) -> Answer {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let folder = |name: String| json!({"path": name, "is_dir": true});
        let files: Vec<Value> = match parts[..] {
            [] => models(&self.registry)?.into_keys().map(folder).collect(),
            [name] => self.model(name)?.versions.iter().map(|version| folder(version.number.to_string())).collect(),
            [name, number] => {
                let version = self.numbered(name, number)?.entry.version?;
                let file = |(name, bytes)| json!({"path": name, "is_dir": false, "file_size": bytes});
                self.registry.sizes(&version)?.into_iter().map(file).collect()
            }
            // A file has nothing in it.
            _ => self.file(path).map(|_| Vec::new())?,
        };
        Ok(Reply::Json(json!({"files": files})))
    }

    /// A file's bytes, which are those that were promoted.
    fn file(&self, path: &str) -> Answer {
        let [name, number, file] = path.split('/').collect::<Vec<_>>()[..] else {
            return Err(missing(&format!("there is no file `{path}`")));
        };
        let Entry { version, .. } = self.numbered(name, number)?.entry;
        let version = version?;
        if !version.stored().any(|stored| stored == file) {
            return Err(missing(&format!("there is no file `{path}`")));
        }
        Ok(Reply::File(self.registry.file(&version, file)?))
    }
}

fn done() -> Reply {
    Reply::Json(json!({}))
}

fn missing(what: &str) -> Refusal {
    Refusal::new(Code::Missing, what)
}

fn refused(why: &str) -> Refusal {
    Refusal::new(Code::Refused, format!("this registry does not do that: {why}"))
}

fn unknown(asked: &Asked) -> Refusal {
    Refusal::new(Code::NoEndpoint, format!("there is no {} {} here", asked.method, asked.path))
}

fn filter(asked: &Asked) -> Result<Filter, Refusal> {
    let text = asked.get("filter").or_else(|| asked.get("filter_string")).unwrap_or_default();
    Filter::parse(text).map_err(|why| Refusal::new(Code::Invalid, why))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Text(String),
    Number(i64),
}

/// Sorts by `order_by`: `name ASC`, `version_number DESC`; where it says nothing, all stays as it is.
fn order<T>(asked: &Asked, items: &mut [T], key: impl Fn(&T, &str) -> Option<Key>) -> Result<(), Refusal> {
    let clauses = asked.parameters.get("order_by").map_or(&[][..], Vec::as_slice);
    let mut by = Vec::new();
    for clause in clauses.iter().flat_map(|clauses| clauses.split(',')) {
        let mut words = clause.split_whitespace();
        let name = words.next().unwrap_or_default();
        let direction = words.next().unwrap_or("asc");
        let descending = direction.eq_ignore_ascii_case("desc");
        let is_known = items.first().is_none_or(|item| key(item, name).is_some());
        if !is_known || !(descending || direction.eq_ignore_ascii_case("asc")) || words.next().is_some() {
            let message = format!("`{clause}` is no order: write `name ASC`, or `last_updated_timestamp DESC`");
            return Err(Refusal::new(Code::Invalid, message));
        }
        by.push((name.to_owned(), descending));
    }
    items.sort_by(|a, b| {
        let compare = |(name, descending): &(String, bool)| {
            let order = key(a, name).cmp(&key(b, name));
            if *descending { order.reverse() } else { order }
        };
        by.iter().map(compare).find(|order| *order != Ordering::Equal).unwrap_or(Ordering::Equal)
    });
    Ok(())
}

/// The page that is asked for, and the token of the next one; empty where there is none. A token is the place of the first
/// item, so what is added meanwhile may move an item from one page to the next.
fn page<'a, T>(asked: &Asked, items: &'a [T]) -> Result<(&'a [T], String), Refusal> {
    let number = |name: &str, default: usize| match asked.get(name).filter(|value| !value.is_empty()) {
        None => Ok(default),
        Some(value) => {
            let wrong = |_| Refusal::new(Code::Invalid, format!("`{value}` is no {name}"));
            value.parse::<usize>().map_err(wrong)
        }
    };
    let size = number("max_results", PAGE)?;
    if !(1..=PAGE_MAX).contains(&size) {
        let message = format!("max_results is {size}, and must be between 1 and {PAGE_MAX}");
        return Err(Refusal::new(Code::Invalid, message));
    }
    let from = number("page_token", 0)?.min(items.len());
    let to = (from + size).min(items.len());
    let next = if to < items.len() { to.to_string() } else { String::new() };
    Ok((&items[from..to], next))
}
