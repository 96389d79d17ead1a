//! What changes what is noted of versions, or which there are.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Subcommand;
use millstream_engine::{Fault, Result};
use millstream_operators::registry::{Edit, Registry, Tolerance};

use super::{Place, Who, author, show};

/// Arguments of `models promote`.
#[derive(clap::Args)]
pub(super) struct Promote {
    #[command(flatten)]
    pub(super) place: Place,
    /// The version.
    version: String,
    /// The alias that names it from now on.
    #[arg(long, value_name = "ALIAS", default_value = "champion")]
    to: String,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Who does it, by name; by default who is logged in.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Even if it is worse, or cannot be compared.
    #[arg(long)]
    force: bool,
    /// By which part of its value the measure may be worse on a slice.
    #[arg(long, value_name = "PART", default_value_t = 0.05, value_parser = part)]
    slice_tolerance: f64,
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if part >= 0.0 && part.is_finite() => Ok(part),
        _ => Err("a part is a number from 0, such as 0.05 for one twentieth".to_owned()),
    }
}

impl Promote {
    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        let version = registry.find(&self.version)?;
        let tolerance = Tolerance { slice: self.slice_tolerance, force: self.force };
        let author = author(self.by.as_deref(), &self.why);
        let comparison = registry.promote_to(&version, &self.to, tolerance, &author)?;
        let mut text = format!("{0}@{1} is {0}/{2}\n", version.metadata.model, self.to, version.id);
        if let Some(comparison) = comparison {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{}", show::compared(&comparison));
        }
        Ok(text)
    }
}

/// `models alias`.
#[derive(Subcommand)]
pub(super) enum Alias {
    /// Lets an alias name a version.
    Set {
        #[command(flatten)]
        place: Place,
        /// The version.
        version: String,
        /// The alias: `champion`, `challenger`, any name.
        alias: String,
        #[command(flatten)]
        who: Who,
    },
    /// Takes an alias away; the version stays.
    Remove {
        #[command(flatten)]
        place: Place,
        /// The model and the alias.
        #[arg(value_name = "MODEL@ALIAS")]
        name: String,
        #[command(flatten)]
        who: Who,
    },
}

impl Alias {
    pub(super) fn place(&self) -> &Place {
        let (Self::Set { place, .. } | Self::Remove { place, .. }) = self;
        place
    }

    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        match self {
            Self::Set { version, alias, who, .. } => {
                let version = registry.show(version)?;
                registry.set_alias(&version, alias, &who.author())?;
                Ok(format!("{0}@{alias} is {0}/{1}\n", version.metadata.model, version.id))
            }
            Self::Remove { name, who, .. } => {
                let Some((model, alias)) = name.split_once('@') else {
                    return Err(Fault::definition(format!("`{name}` is not MODEL@ALIAS, such as late@champion")));
                };
                registry.remove_alias(model, alias, &who.author())?;
                Ok(format!("{name} names nothing any more\n"))
            }
        }
    }
}

/// Arguments of `models tag`.
#[derive(clap::Args)]
pub(super) struct Tag {
    #[command(flatten)]
    pub(super) place: Place,
    /// The version.
    version: String,
    /// Tags to set.
    #[arg(value_name = "KEY=VALUE", required_unless_present = "remove", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A tag to take away; may be given several times.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    #[command(flatten)]
    who: Who,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE, such as stage=live")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Tag {
    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        let version = registry.find(&self.version)?;
        let set = self.set.iter().map(|(key, value)| Edit::Tag(key, Some(value)));
        let edits = set.chain(self.remove.iter().map(|key| Edit::Tag(key, None)));
        let model = &version.metadata.model;
        edits.into_iter().try_for_each(|edit| registry.edit(model, Some(&version), edit, &self.who.author()))?;
        Ok(format!("{model}/{} is tagged\n", version.id))
    }
}

/// Arguments of `models describe`.
#[derive(clap::Args)]
pub(super) struct Describe {
    #[command(flatten)]
    pub(super) place: Place,
    /// The version.
    version: String,
    /// The description, in Markdown; an empty one takes it away.
    text: String,
    #[command(flatten)]
    who: Who,
}

impl Describe {
    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        let version = registry.find(&self.version)?;
        let edit = Edit::Description(&self.text);
        registry.edit(&version.metadata.model, Some(&version), edit, &self.who.author())?;
        Ok(format!("{}/{} is described\n", version.metadata.model, version.id))
    }
}

/// Arguments of `models delete`.
#[derive(clap::Args)]
pub(super) struct Delete {
    #[command(flatten)]
    pub(super) place: Place,
    /// The version.
    version: String,
    #[command(flatten)]
    who: Who,
}

impl Delete {
    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        let (model, id) = registry.resolve(&self.version)?;
        registry.delete(&model, &id, &self.who.author())?;
        Ok(format!("{model}/{id} is deleted\n"))
    }
}

/// Arguments of `models import`.
#[derive(clap::Args)]
pub(super) struct Import {
    #[command(flatten)]
    pub(super) place: Place,
    /// A folder or archive that `export` has written.
    path: PathBuf,
    #[command(flatten)]
    who: Who,
}

impl Import {
    pub(super) fn run(&self, registry: &Registry) -> Result<String> {
        let (version, is_new) = registry.import(&self.path, &self.who.author())?;
        let what = if is_new { "is imported" } else { "was there already" };
        Ok(format!("{}/{} {what}\n", version.metadata.model, version.id))
    }
}
