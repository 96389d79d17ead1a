//! Which client options a definition may set. The client can run programs, read files and call URLs by option, so
//! only what is listed here is taken.

use std::collections::BTreeMap;

use millstream_engine::catalogue::Problem;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// Options handed to the client as they are.
const ALLOWED: &[&str] = &[
    "bootstrap.servers",
    "broker.address.family",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "delivery.timeout.ms",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "linger.ms",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.max.age.ms",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queued.max.messages.kbytes",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.password",
    "ssl.key.pem",
    "topic.metadata.refresh.interval.ms",
    "transaction.timeout.ms",
];

/// Not the client's options: they say that something unsafe is meant.
const ALLOW_PLAINTEXT_PASSWORD: &str = "allow.plaintext.password";
const ALLOW_UNVERIFIED_TLS: &str = "allow.unverified.tls";

/// What the engine sets itself, and why nobody else may.
const OWNED: &[(&str, &str)] = &[
    ("acks", "an append is durable only when all replicas have it"),
    ("allow.auto.create.topics", "a misspelt name must not become a topic"),
    ("auto.offset.reset", "a position that cannot be read is an error, never a skip"),
    ("check.crcs", "every record is verified"),
    ("enable.auto.commit", "positions are part of the pipeline's own progress"),
    ("enable.auto.offset.store", "positions are part of the pipeline's own progress"),
    ("enable.idempotence", "appends are transactions"),
    ("enable.metrics.push", "nothing is reported to others"),
    ("enable.partition.eof", "the reader needs to know where the log ends"),
    ("group.id", "partitions are assigned, not shared by a consumer group"),
    ("group.instance.id", "partitions are assigned, not shared by a consumer group"),
    ("group.protocol", "partitions are assigned, not shared by a consumer group"),
    ("isolation.level", "only committed records are read"),
    ("max.in.flight", "the order of records must not change"),
    ("max.in.flight.requests.per.connection", "the order of records must not change"),
    ("partition.assignment.strategy", "partitions are assigned, not shared by a consumer group"),
    ("partitioner", "a key has the same partition on every broker"),
    ("request.required.acks", "an append is durable only when all replicas have it"),
    ("transactional.id", "it must be the same at each start, so that a new run fences the old one"),
];

const RUNS_CODE: &[&str] = &[
    "interceptors",
    "plugin.library.paths",
    "sasl.kerberos.kinit.cmd",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.providers",
];

/// Options whose values are never shown.
pub(super) fn is_secret(option: &str) -> bool {
    ["password", "secret", ".key.pem", "passphrase"].iter().any(|part| option.contains(part))
}

/// All that is wrong with the options. Nothing is opened or called.
pub fn check_options(options: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = options.iter().filter_map(|(option, value)| check_option(option, value)).collect();
    let servers = options.get("bootstrap.servers").map_or("", |servers| servers.trim());
    if servers.is_empty() {
        let problem = Problem::new("", "missing-option", "`bootstrap.servers` is missing");
        problems.push(problem.help("name the servers: `bootstrap.servers: \"host:9092\"`"));
    }
    problems.extend(check_security(options));
    problems
}

fn problem(option: &str, code: &'static str, message: impl Into<String>) -> Problem {
    let mut problem = Problem::new("", code, message);
    // An option's name is one segment, dots and all.
    problem.path = vec![option.to_owned()];
    problem
}

fn check_option(option: &str, value: &str) -> Option<Problem> {
    if [ALLOW_PLAINTEXT_PASSWORD, ALLOW_UNVERIFIED_TLS].contains(&option) {
        let message = format!("`{option}` is true or false, not `{value}`");
        return value.parse::<bool>().is_err().then(|| problem(option, "bad-value", message));
    }
    if ALLOWED.contains(&option) {
        return check_value(option, value);
    }
    let Some((why, help)) = refusal(option) else {
        let unknown = problem(option, "unknown-option", format!("`{option}` is no option that can be set here"));
        return Some(unknown.choices(option, ALLOWED.iter().copied()));
    };
    Some(problem(option, "refused-option", format!("`{option}` is refused: {why}")).help(help))
}

/// Why an option is refused, and what to do instead.
fn refusal(option: &str) -> Option<(String, &'static str)> {
    let leave_out = "leave it out";
    if let Some((_, why)) = OWNED.iter().find(|(owned, _)| *owned == option) {
        return Some((format!("the engine sets it, for {why}"), leave_out));
    }
    if RUNS_CODE.contains(&option) {
        return Some(("it makes the client run other code".to_owned(), leave_out));
    }
    // By their last words: the client may learn more of them.
    let last = option.rsplit('.').next();
    if last == Some("url") || option.contains("oauthbearer") || option.starts_with("https.") {
        let help = "use SASL PLAIN or SCRAM over TLS, or client certificates";
        return Some(("it makes the client call a URL".to_owned(), help));
    }
    if matches!(last, Some("location" | "keytab" | "file")) {
        let help = "give the content instead: `ssl.ca.pem`, `ssl.certificate.pem`, `ssl.key.pem`";
        return Some(("it makes the client read a file".to_owned(), help));
    }
    None
}

/// Lets the client judge the value.
fn check_value(option: &str, value: &str) -> Option<Problem> {
    let error = ClientConfig::new().set(option, value).create_native_config().err()?;
    let why = match error {
        _ if is_secret(option) => format!("`{option}` has no valid value"),
        KafkaError::ClientConfig(_, why, ..) => why,
        error => error.to_string(),
    };
    Some(problem(option, "bad-value", why))
}

/// What the options mean together.
fn check_security(options: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let get = |option: &str| options.get(option).map(|value| value.to_ascii_lowercase());
    let allowed = |option: &str| get(option).as_deref() == Some("true");
    let protocol = get("security.protocol").unwrap_or_else(|| "plaintext".to_owned());
    let mechanism = get("sasl.mechanism").or_else(|| get("sasl.mechanisms"));

    let uses_sasl = protocol.starts_with("sasl_");
    if let Some(option) = options.keys().find(|option| option.starts_with("sasl.")).filter(|_| !uses_sasl) {
        let message = format!("`{option}` has no effect: `security.protocol` is `{protocol}`");
        problems.push(problem(option, "no-effect", message).help("set `security.protocol: sasl_ssl`"));
    }
    let known = ["plain", "scram-sha-256", "scram-sha-512"];
    match mechanism.as_deref() {
        None if uses_sasl => {
            let message = format!("`security.protocol: {protocol}` needs `sasl.mechanism`");
            problems.push(Problem::new("", "missing-option", message).choices("", known.map(str::to_uppercase)));
        }
        Some(mechanism) if !known.contains(&mechanism) => {
            let message = format!("`{mechanism}` is no mechanism that can be used here");
            let choices = known.map(str::to_uppercase);
            problems.push(problem("sasl.mechanism", "bad-value", message).choices(mechanism, choices));
        }
        Some("plain") if protocol == "sasl_plaintext" && !allowed(ALLOW_PLAINTEXT_PASSWORD) => {
            let message = "PLAIN without TLS sends the password in the clear";
            let help = format!("set `security.protocol: sasl_ssl`, or say `{ALLOW_PLAINTEXT_PASSWORD}: true`");
            problems.push(problem("security.protocol", "plaintext-password", message).help(help));
        }
        _ => {}
    }
    for (option, off) in
        [("enable.ssl.certificate.verification", "false"), ("ssl.endpoint.identification.algorithm", "none")]
    {
        if get(option).as_deref() == Some(off) && !allowed(ALLOW_UNVERIFIED_TLS) {
            let message = format!("`{option}: {off}` lets anyone pose as the server");
            let help = format!("leave it out, or say `{ALLOW_UNVERIFIED_TLS}: true`");
            problems.push(problem(option, "unverified-tls", message).help(help));
        }
    }
    problems
}

/// A client's configuration: defaults that suit the engine, then the user's options.
pub(super) fn client(options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Log lines go to the client's context, never to standard error.
    config.set_log_level(RDKafkaLogLevel::Error);
    config.set("enable.metrics.push", "false");
    config.set("message.max.bytes", crate::broker::MAX_RECORD_BYTES.to_string());
    config.set("receive.message.max.bytes", (2 * crate::broker::MAX_RECORD_BYTES).to_string());
    let own = [ALLOW_PLAINTEXT_PASSWORD, ALLOW_UNVERIFIED_TLS];
    for (option, value) in options.iter().filter(|(option, _)| !own.contains(&option.as_str())) {
        config.set(option, value);
    }
    // By default up to 10 s pass before a server that came back is noticed.
    default(&mut config, "reconnect.backoff.max.ms", "1000");
    config
}

/// A consumer that is told what to read, and that never commits or skips.
pub(super) fn consumer(options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = client(options);
    // The client demands a group, though none is joined.
    config.set("group.id", "millstream-unused");
    config.set("allow.auto.create.topics", "false");
    config.set("auto.offset.reset", "error");
    config.set("check.crcs", "true");
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    config.set("isolation.level", "read_committed");
    // By default a full queue pauses fetching for a second.
    default(&mut config, "fetch.queue.backoff.ms", "5");
    // What is fetched and not yet read, over all partitions; a fetch that is under way may go beyond it.
    default(&mut config, "queued.max.messages.kbytes", "65536");
    config
}

/// A transactional producer.
pub(super) fn producer(options: &BTreeMap<String, String>, id: &str) -> ClientConfig {
    let mut config = plain(options);
    config.set("transactional.id", id);
    default(&mut config, "transaction.timeout.ms", "60000");
    config
}

/// A producer without transactions: what it delivers is there once per call, in order, and visible at once.
pub(super) fn plain(options: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = client(options);
    // Lost connections are told at this level.
    config.set_log_level(RDKafkaLogLevel::Info);
    config.set("acks", "all");
    config.set("enable.idempotence", "true");
    // An append sends everything at once and waits, so lingering longer only adds to its time.
    default(&mut config, "linger.ms", "1");
    // Copies of messages that are under way; an append that is larger waits in between.
    default(&mut config, "queue.buffering.max.kbytes", (2 * crate::broker::MAX_RECORD_BYTES / 1024).to_string());
    if config.get("delivery.timeout.ms").is_none() {
        // Must be less than the transaction's time-out.
        default(&mut config, "message.timeout.ms", "30000");
    }
    config
}

fn default(config: &mut ClientConfig, option: &str, value: impl Into<String>) {
    if config.get(option).is_none() {
        config.set(option, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options, and the problems that they have.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    /// The problems as `path: code`.
    fn problems(options: &[(&str, &str)]) -> Vec<String> {
        let options = options.iter().map(|(option, value)| ((*option).to_owned(), (*value).to_owned())).collect();
        check_options(&options).iter().map(|problem| format!("{}: {}", problem.path.join("/"), problem.code)).collect()
    }

    #[test]
    fn finds_every_problem() {
        let servers = ("bootstrap.servers", "host:9092");
        let cases: &[Case<'_>] = &[
            (&[servers], &[]),
            (&[], &[": missing-option"]),
            (&[servers, ("linger.ms", "5"), ("compression.type", "zstd")], &[]),
            (&[servers, ("linger.ms", "soon")], &["linger.ms: bad-value"]),
            (&[servers, ("compression.typ", "zstd")], &["compression.typ: unknown-option"]),
            (&[servers, ("plugin.library.paths", "x.so")], &["plugin.library.paths: refused-option"]),
            (&[servers, ("ssl.ca.location", "/ca.pem")], &["ssl.ca.location: refused-option"]),
            (&[servers, ("group.id", "g"), ("acks", "1")], &["acks: refused-option", "group.id: refused-option"]),
            (
                &[servers, ("sasl.oauthbearer.token.endpoint.url", "http://x")],
                &[
                    "sasl.oauthbearer.token.endpoint.url: refused-option",
                    "sasl.oauthbearer.token.endpoint.url: no-effect",
                ],
            ),
            (&[servers, ("sasl.username", "me")], &["sasl.username: no-effect"]),
            (&[servers, ("security.protocol", "sasl_ssl")], &[": missing-option"]),
            (
                &[servers, ("security.protocol", "sasl_ssl"), ("sasl.mechanism", "GSSAPI")],
                &["sasl.mechanism: bad-value"],
            ),
            (&[servers, ("security.protocol", "sasl_ssl"), ("sasl.mechanism", "PLAIN")], &[]),
            (
                &[servers, ("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN")],
                &["security.protocol: plaintext-password"],
            ),
            (
                &[
                    servers,
                    ("security.protocol", "sasl_plaintext"),
                    ("sasl.mechanism", "PLAIN"),
                    ("allow.plaintext.password", "true"),
                ],
                &[],
            ),
            (
                &[servers, ("enable.ssl.certificate.verification", "false")],
                &["enable.ssl.certificate.verification: unverified-tls"],
            ),
            (&[servers, ("allow.unverified.tls", "maybe")], &["allow.unverified.tls: bad-value"]),
        ];
        for (options, expected) in cases {
            assert_eq!(problems(options), *expected, "{options:?}");
        }
    }

    #[test]
    fn every_allowed_option_is_known_to_the_client() {
        for option in ALLOWED {
            let refused = check_value(option, "?").map(|problem| problem.message);
            assert!(!refused.as_ref().is_some_and(|why| why.contains("No such")), "{option}: {refused:?}");
        }
        assert!(check_value("no.such", "?").unwrap().message.contains("No such"));
    }

    #[test]
    fn what_the_promise_needs_is_set() {
        let options = BTreeMap::from([("bootstrap.servers".to_owned(), "host:9092".to_owned())]);
        let cases = [
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("queued.max.messages.kbytes", "65536"),
            ("reconnect.backoff.max.ms", "1000"),
        ];
        for (option, value) in cases {
            assert_eq!(consumer(&options).get(option), Some(value), "{option}");
        }
        let cases = [("acks", "all"), ("enable.idempotence", "true"), ("queue.buffering.max.kbytes", "262144")];
        for (option, value) in cases {
            assert_eq!(plain(&options).get(option), Some(value), "{option}");
            assert_eq!(producer(&options, "p").get(option), Some(value), "{option}");
        }
        let time_out = |option| producer(&options, "p").get(option).and_then(|text| text.parse::<u64>().ok());
        assert!(time_out("message.timeout.ms") < time_out("transaction.timeout.ms"));
        assert_eq!(plain(&options).get("transactional.id"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let error = check_option("ssl.key.password", "canary\0").unwrap();
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
