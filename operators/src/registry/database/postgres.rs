//! A server that several machines share: `PostgreSQL`.
//!
//! All is in one schema, `millstream_registry` unless the URL's options name another. A connection is kept from one transaction to
//! the next; where it was lost meanwhile, another is made. What is lost within a transaction is told, and nothing of it was done,
//! unless the connection ends while the server is to commit: then nobody knows, and asking again is right, for what is done already
//! is left as it is.

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_engine::{Fault, Result, failpoint};
use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::types::{ToSql, Type};
use postgres::{Client, Config, Error, NoTls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Cell, Row, Transaction, Value};

/// Where the tables are if nothing else is said.
const SCHEMA: &str = "millstream_registry";

/// How long a connection may take to be made.
const CONNECT_SECONDS: u64 = 5;
/// How long a server that was sent something may be silent before the connection is given up.
const SILENT_SECONDS: u64 = 30;

/// What holds for every transaction. A client that has vanished is found out by the server, too, for it may be the one that
/// keeps others out.
const SETTINGS: &str = "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '60s'; \
     SET LOCAL tcp_keepalives_idle = 20; SET LOCAL tcp_keepalives_interval = 10; SET LOCAL tcp_keepalives_count = 3;";

/// What leads from each layout to the next; the table `layout` says how many were done.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE layout (number BIGINT NOT NULL);
    INSERT INTO layout (number) VALUES (0);
    CREATE TABLE registry (id TEXT NOT NULL);
    CREATE TABLE versions (
        model TEXT NOT NULL, number BIGINT NOT NULL, id TEXT NOT NULL, deleted BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (model, number)
    );
    CREATE UNIQUE INDEX versions_present ON versions (model, id) WHERE deleted = 0;
    CREATE TABLE aliases (model TEXT NOT NULL, alias TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (model, alias));
    CREATE TABLE tags (
        model TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (model, id, key)
    );
    CREATE TABLE descriptions (model TEXT NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (model, id));
    CREATE TABLE events (
        event BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at_ms BIGINT NOT NULL, model TEXT NOT NULL, id TEXT NOT NULL,
        kind TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, why TEXT NOT NULL
    );
    CREATE INDEX events_by_version ON events (model, id, at_ms);
    CREATE FUNCTION history_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''history is only added to''; END';
    CREATE TRIGGER events_are_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION history_is_only_added_to();
"];

/// A server's database, which may have no tables yet.
pub(in crate::registry) struct Server {
    config: Config,
    /// The schema, quoted.
    schema: String,
    /// A file with the certificates of authorities, instead of those that this machine trusts.
    authorities: Option<String>,
    /// For people.
    place: String,
    /// A connection that nobody uses.
    idle: Mutex<Option<Client>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Server({})", self.place)
    }
}

impl Server {
    /// The database that a URL names. Does not yet connect.
    pub(in crate::registry) fn of(url: &str) -> Result<Self> {
        // The URL may hold what nobody should read, so that no part of it is repeated.
        let wrong = |why: &str| Fault::definition(format!("the registry's database: {why}"));
        if !["postgres://", "postgresql://"].iter().any(|start| url.starts_with(start)) {
            return Err(wrong("it is named by a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`"));
        }
        // What is no letter in a password may end it, so that parts of it seem to be something else.
        let unclear = |why: &str| {
            wrong(&format!(
                "its URL cannot be understood{why}: write `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, and what is no \
                 letter or digit in a password as `%40`"
            ))
        };
        if url.matches('@').count() > 1 || url.split_once(['?', '#']).is_some_and(|(_, options)| options.contains('@'))
        {
            return Err(unclear(""));
        }
        let (url, authorities) = verified(url);
        let mut config: Config = url.parse().map_err(|error: Error| {
            let value =
                error.source().map(ToString::to_string).filter(|why| why.starts_with("invalid value for option"));
            unclear(&value.map_or_else(String::new, |why| format!(" ({why})")))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("its URL names no host: write `postgres://USER:PASSWORD@HOST:PORT/DATABASE`"));
        }
        if config.get_application_name().is_none() {
            config.application_name("millstream");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(CONNECT_SECONDS));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(SILENT_SECONDS));
        }
        config.keepalives_idle(Duration::from_secs(SILENT_SECONDS / 3));
        config.keepalives_interval(Duration::from_secs(SILENT_SECONDS / 3)).keepalives_retries(2);
        let schema = config.get_options().and_then(search_path).unwrap_or(SCHEMA).to_owned();
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        let place = format!("the database {database} at {host}:{port}, schema {schema}");
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        Ok(Self { config, schema, authorities, place, idle: Mutex::default() })
    }

    pub(super) fn place(&self) -> String {
        self.place.clone()
    }

    pub(super) fn read<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<Option<T>> {
        // Everything read is of one moment.
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {SETTINGS} {}", self.path());
        self.within(&begin, "read it", commit, |open| match open.layout()? {
            0 => Ok(None),
            _ => act(open).map(Some),
        })
    }

    pub(super) fn write<T>(&self, act: impl FnOnce(&mut dyn Transaction) -> Result<T>) -> Result<T> {
        let commit = |client: &mut Client| failpoint::around("registry.commit", || client.batch_execute("COMMIT"));
        self.within(&self.exclusive(), "change it", commit, |open| {
            let layout = open.layout()?;
            let schema = "SELECT count(*) FROM pg_namespace WHERE nspname = current_schema()";
            if layout == 0 && open.rows(schema, &[])?[0].number(0)? == 0 {
                open.batch(&format!("CREATE SCHEMA IF NOT EXISTS {}", self.schema))?;
            }
            for migration in &MIGRATIONS[layout..] {
                open.batch(migration)?;
            }
            if layout < MIGRATIONS.len() {
                open.execute("UPDATE layout SET number = $1", &[Value::Number(MIGRATIONS.len() as i64)])?;
            }
            act(open)
        })
    }

    pub(super) fn alone<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.within(&self.exclusive(), "have it to ourselves", commit, |_| act())
    }

    fn path(&self) -> String {
        format!("SET LOCAL search_path TO {}", self.schema)
    }

    /// Begins a transaction that waits for all others of its kind. It is released with its end, whichever that is.
    fn exclusive(&self) -> String {
        let key = blake3::hash(self.schema.as_bytes());
        let key = i64::from_le_bytes(*key.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        format!("BEGIN; {SETTINGS} {}; SELECT pg_advisory_xact_lock({key})", self.path())
    }

    fn within<T>(
        &self,
        begin: &str,
        doing: &'static str,
        commit: impl FnOnce(&mut Client) -> Result<(), Error>,
        act: impl FnOnce(&mut Open<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut client = self.begin(begin, doing)?;
        let mut open = Open { client: &mut client, server: self, doing };
        match act(&mut open) {
            Ok(done) => {
                commit(&mut client).map_err(|error| self.fault(doing, &error))?;
                self.keep(client);
                Ok(done)
            }
            Err(fault) => {
                // Where that fails, the connection has, and the server rolls back by itself.
                if client.batch_execute("ROLLBACK").is_ok() {
                    self.keep(client);
                }
                Err(fault)
            }
        }
    }

    /// A connection with a transaction that has begun.
    fn begin(&self, begin: &str, doing: &str) -> Result<Client> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut client) = idle.filter(|client| !client.is_closed()) {
            match client.batch_execute(begin) {
                Ok(()) => return Ok(client),
                // The server, or something on the way to it, has ended what was not used.
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(self.fault(doing, &error)),
            }
        }
        let mut client = self.connect()?;
        client.batch_execute(begin).map_err(|error| self.fault(doing, &error))?;
        Ok(client)
    }

    fn keep(&self, client: Client) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    fn connect(&self) -> Result<Client> {
        let is_local = self.config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let connected = if self.config.get_ssl_mode() == SslMode::Disable || is_local {
            self.config.connect(NoTls)
        } else {
            self.config.connect(self.tls()?)
        };
        connected.map_err(|error| self.fault("reach it", &error))
    }

    /// Always verifies who the server is.
    fn tls(&self) -> Result<MakeRustlsConnect> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(file) => {
                let failed = |error: &dyn fmt::Display| {
                    Fault::definition(format!("{}: cannot read the certificates in {file}: {error}", self.place))
                };
                for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
                    let certificate = certificate.map_err(|error| failed(&error))?;
                    roots.add(certificate).map_err(|error| failed(&error))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::ours("TLS cannot be set up").because(error))?;
        Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// What has to do with the way there, with locks and with room passes; rights do not mend themselves.
    fn fault(&self, doing: &str, error: &Error) -> Fault {
        let mut why = error.to_string();
        let mut below = error.source();
        while let Some(cause) = below {
            why = format!("{why}: {cause}");
            below = cause.source();
        }
        let mend = match error.code() {
            Some(&SqlState::DUPLICATE_TABLE | &SqlState::DUPLICATE_FUNCTION) => {
                "; another program's tables are in that schema: name another in the URL, `?options=-csearch_path%3DNAME`"
            }
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "; the user must be allowed to make a schema, or own it",
            _ if why.contains("invalid peer certificate") => {
                "; `sslrootcert=FILE` in the URL names the authorities to trust; where nobody can listen on the way there, \
                 `sslmode=disable` does without TLS"
            }
            _ => "",
        };
        let message = format!("{}: cannot {doing}: {why}{mend}", self.place);
        if is_passing(error) { Fault::retry(message) } else { Fault::world(message) }
    }
}

fn commit(client: &mut Client) -> Result<(), Error> {
    client.batch_execute("COMMIT")
}

/// Takes out of a URL what `libpq` knows and the client does not: who the server is, is always verified.
fn verified(url: &str) -> (String, Option<String>) {
    let Some((start, options)) = url.split_once('?') else { return (url.to_owned(), None) };
    let (mut kept, mut authorities) = (Vec::new(), None);
    for option in options.split('&') {
        match option.split_once('=') {
            Some(("sslmode", "verify-full" | "verify-ca")) => kept.push("sslmode=require"),
            Some(("sslrootcert", file)) => authorities = Some(file.replace("%2F", "/")),
            _ => kept.push(option),
        }
    }
    (format!("{start}?{}", kept.join("&")), authorities)
}

/// The first schema that `-c search_path=…` names.
fn search_path(options: &str) -> Option<&str> {
    let (_, path) = options.split_once("search_path=")?;
    path.split([' ', ',']).next().filter(|schema| !schema.is_empty())
}

/// Whether the connection is gone.
fn is_lost(error: &Error) -> bool {
    let class = error.code().map(|code| &code.code()[..2]);
    // 57: the server is stopped, or was told to end the connection.
    error.is_closed() || matches!(class, Some("08" | "57")) || error.code().is_none()
}

/// Whether the same may succeed later.
fn is_passing(error: &Error) -> bool {
    let Some(code) = error.code() else {
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        return !why.contains("certificate") && !error.to_string().contains("authentication");
    };
    // Connections, too many of them, room, locks, deadlocks, and servers that start or stop.
    ["08", "53", "55", "40", "57"].contains(&&code.code()[..2])
}

/// A transaction of the server.
struct Open<'a> {
    client: &'a mut Client,
    server: &'a Server,
    doing: &'static str,
}

impl Open<'_> {
    /// How many migrations were done.
    fn layout(&mut self) -> Result<usize> {
        let table = self
            .rows("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'layout'", &[])?;
        if table[0].number(0)? == 0 {
            return Ok(0);
        }
        let layout = self.rows("SELECT max(number) FROM layout", &[])?[0].number(0)?;
        match usize::try_from(layout) {
            Ok(layout) if (1..=MIGRATIONS.len()).contains(&layout) => Ok(layout),
            _ => Err(Fault::world(format!(
                "{} is of a newer program (layout {layout}, this one knows {}): use that one",
                self.server.place,
                MIGRATIONS.len()
            ))),
        }
    }

    fn batch(&mut self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|error| self.server.fault(self.doing, &error))
    }
}

impl Transaction for Open<'_> {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<()> {
        let executed = self.client.execute_typed(sql, &typed(values));
        executed.map(drop).map_err(|error| self.server.fault(self.doing, &error))
    }

    fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        // Without a statement's name, so that it works through what hands out connections by the transaction, too.
        let rows = self.client.query_typed(sql, &typed(values));
        let rows = rows.map_err(|error| self.server.fault(self.doing, &error))?;
        let cell = |row: &postgres::Row, at: usize| match *row.columns()[at].type_() {
            Type::INT8 => row.try_get(at).map(Cell::Number),
            _ => row.try_get(at).map(Cell::Text),
        };
        let row = |row: &postgres::Row| (0..row.len()).map(|at| cell(row, at)).collect::<Result<_, _>>().map(Row);
        rows.iter().map(row).collect::<Result<_, _>>().map_err(|error| self.server.fault(self.doing, &error))
    }
}

/// Values with their types. An absent one is a text.
fn typed<'a>(values: &'a [Value<'_>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let typed = |value: &'a Value<'_>| -> (&'a (dyn ToSql + Sync), Type) {
        match value {
            Value::Text(text) => (text, Type::TEXT),
            Value::Number(number) => (number, Type::INT8),
            Value::Absent => (&None::<&str>, Type::TEXT),
        }
    };
    values.iter().map(typed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood_or_refused_without_what_they_hold() {
        let cases = [
            (
                "postgres://ana:secret@db.example:5433/models",
                "the database models at db.example:5433, schema millstream_registry",
            ),
            (
                "postgresql://ana@db.example?sslmode=verify-full&sslrootcert=/ca.pem",
                "the database ana at db.example:5432",
            ),
            ("postgres://ana@/models?host=/run/postgresql", "the database models at /run/postgresql:5432"),
            ("postgres://ana@h/m?options=-csearch_path%3Dstaging", "at h:5432, schema staging"),
        ];
        for (url, place) in cases {
            let server = Server::of(url).expect(url);
            assert!(server.place.contains(place), "{}", server.place);
            assert!(!format!("{server:?}").contains("secret"));
        }
        let server = Server::of("postgres://h/m?sslmode=verify-ca&sslrootcert=%2Fetc%2Fca.pem").expect("understood");
        assert_eq!(
            (server.config.get_ssl_mode(), server.authorities.as_deref()),
            (SslMode::Require, Some("/etc/ca.pem"))
        );
        for (url, why) in [
            ("mysql://ana:secret@h/m", "it is named by a URL"),
            ("host=h password=secret", "it is named by a URL"),
            ("postgres://ana:sec?ret@h/m", "its URL cannot be understood: write"),
            ("postgres://ana:secret@h/m?sslmode=maybe", "cannot be understood (invalid value for option `sslmode`)"),
            ("postgres://ana:secret@h:port/m", "cannot be understood"),
            ("postgres://", "its URL names no host"),
        ] {
            let message = Server::of(url).expect_err(url).message;
            assert!(message.contains(why), "{url}: {message}");
            assert!(!message.contains("secret") && !message.contains("ret@"), "{message}");
        }
    }
}
