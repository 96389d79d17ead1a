//! Objects in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure.
//!
//! Such a store makes an object durable and whole before it says so; there is nothing to add but waiting for it.

use std::env;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use millstream_engine::checkpoint::{Object, Store};
use millstream_engine::failpoint;
use millstream_engine::{Fault, Result};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, ObjectStoreScheme, parse_url_opts};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::{CHOICES, check_name, is_part, write_step};

/// The client tries again by itself, for three minutes at most; what takes longer than that is given up.
const CALL_SECONDS_MAX: u64 = 240;
/// How much of an object is written in a second at least.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// The start of the environment's variables that the clients understand: keys, endpoints, regions.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// A bucket, or a part of one. Its calls block, and must not be made from asynchronous code.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// What the names of all objects start with.
    under: Path,
    runtime: Runtime,
    /// How long the store may take to answer.
    call_seconds_max: u64,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({}, {})", self.store, self.under)
    }
}

impl Bucket {
    /// The bucket that a URL names; the keys to it are taken from the environment. Does not yet connect.
    pub fn open(url: &Url) -> Result<Self> {
        let wrong = |why: &str| Fault::definition(format!("nothing can be kept in `{url}`: {why}"));
        let choices = || wrong(&format!("it is {CHOICES}"));
        match ObjectStoreScheme::parse(url) {
            Ok((ObjectStoreScheme::Http | ObjectStoreScheme::Local, _)) | Err(_) => return Err(choices()),
            Ok(_) => {}
        }
        let options = env::vars().filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start)));
        let (store, under) =
            parse_url_opts(url, options).map_err(|error| wrong("it cannot be opened").because(error))?;
        Self::on(Arc::from(store), under)
    }

    /// A bucket in memory, gone with the process.
    pub fn in_memory() -> Result<Self> {
        Self::on(Arc::new(InMemory::new()), Path::default())
    }

    /// The objects of a store whose names start with `under`.
    pub(super) fn on(store: Arc<dyn ObjectStore>, under: Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Fault::world("cannot start the object store's client").because(error))?;
        Ok(Self { store, under, runtime, call_seconds_max: CALL_SECONDS_MAX })
    }

    /// The same, for those whom nobody should wait for: a store that has not answered after so many seconds is given up.
    #[must_use]
    pub fn within_seconds(self, seconds: u64) -> Self {
        Self { call_seconds_max: seconds, ..self }
    }

    fn below(&self, name: &str) -> Path {
        self.under.parts().chain(Path::from(name).parts()).collect()
    }

    fn path(&self, name: &str) -> Result<Path> {
        check_name(name)?;
        Ok(self.below(name))
    }

    /// Waits for an answer; `None` if there is no such object.
    fn wait<T>(&self, what: &str, name: &str, call: impl Future<Output = Result<T, Error>>) -> Result<Option<T>> {
        self.wait_for(what, name, self.call_seconds_max, call)
    }

    fn wait_for<T>(
        &self,
        what: &str,
        name: &str,
        seconds_max: u64,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>> {
        let message = || format!("cannot {what} `{name}` in {}", self.store);
        let bounded = async { tokio::time::timeout(Duration::from_secs(seconds_max), call).await };
        match self.runtime.block_on(bounded) {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(Error::NotFound { .. })) => Ok(None),
            // The network, or the server's trouble: the client has tried more than once, and may succeed another time. All
            // that goes wrong with a listing is told like this, too.
            Ok(Err(error @ Error::Generic { .. })) => Err(Fault::retry(message()).because(error)),
            Ok(Err(error)) => Err(Fault::world(message()).because(error)),
            Err(_) => Err(Fault::retry(format!("{}: no answer within {seconds_max} s", message()))),
        }
    }
}

impl Store for Bucket {
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        let seconds_max = self.call_seconds_max + content.len() as u64 / BYTES_PER_SECOND_MIN;
        let content = content.to_vec().into();
        let put = || self.wait_for("write", name, seconds_max, self.store.put(&path, content));
        match failpoint::around(write_step(name), put)? {
            Some(_) => Ok(()),
            None => Err(Fault::world(format!("cannot write `{name}` in {}: there is no such bucket", self.store))),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        let Some(found) = self.wait("read", name, self.store.get(&path))? else { return Ok(None) };
        let seconds_max = self.call_seconds_max + found.meta.size / BYTES_PER_SECOND_MIN;
        Ok(self.wait_for("read", name, seconds_max, found.bytes())?.map(Vec::from))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        // The store lists by whole parts of names.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let within = self.below(folder);
        let all = self.wait("list", prefix, self.store.list(Some(&within)).try_collect::<Vec<_>>())?;
        let named = all.into_iter().flatten().filter_map(|meta| {
            let name: Vec<_> = meta.location.prefix_match(&self.under)?.map(|part| part.as_ref().to_owned()).collect();
            name.iter().all(|part| is_part(part)).then(|| Object { name: name.join("/"), bytes: meta.size })
        });
        let mut found: Vec<Object> = named.filter(|object| object.name.starts_with(prefix)).collect();
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        failpoint::around("checkpoint.delete", || self.wait("remove", name, self.store.delete(&path))).map(drop)
    }
}
