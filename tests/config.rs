//! The configuration: what an administrator writes, what comes out of it, and in which words errors are told.

use std::path::Path;

use rookery::config::{Backend, Config, ConfigError, DEFAULT_BACKEND, KEYS, LogLevel, Problem, Registration};

const SMALL: &str = r#"
[component]
jid = "social.example.org"
secret = "s3cret"
[http]
public_url = "https://social.example.org"
"#;

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    parse_with(text, &[])
}

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::parse(text, Path::new("/etc/rookery"), env).map_err(|e| match e {
        ConfigError::Problems { problems } => problems,
        ConfigError::Unreadable { .. } => panic!("{e}"),
    })
}

/// The only problem of `SMALL` with `lines` added to `table`, as it is shown.
#[track_caller]
fn problem_of(table: &str, lines: &str) -> String {
    let text = match SMALL.contains(&format!("[{table}]")) {
        true => SMALL.replace(&format!("[{table}]"), &format!("[{table}]\n{lines}")),
        false => format!("{SMALL}[{table}]\n{lines}\n"),
    };
    let problems = parse(&text).expect_err("this was expected to be refused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let c = parse(SMALL).unwrap();
    assert_eq!(c.component.server.to_string(), "127.0.0.1:5347");
    assert_eq!(c.component.server_host, "example.org");
    assert_eq!(c.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(c.http.admin_listen.to_string(), "127.0.0.1:8081");
    assert_eq!(c.http.public_url.as_str(), "https://social.example.org/");
    assert_eq!(c.http.acct_domain, "social.example.org");
    assert_eq!(c.store.backend, DEFAULT_BACKEND);
    assert_eq!(c.store.path.as_deref(), Some(Path::new("/var/lib/rookery")));
    assert_eq!(c.accounts.registration, Registration::Hosts);
    assert_eq!(c.accounts.auto_register_hosts, ["example.org"]);
    assert_eq!(c.pubsub.create_nodes_hosts, ["example.org"]);
    assert!(c.accounts.admins.is_empty());
    assert!(!c.federation.allow_private_addresses && !c.component.allow_plaintext);
    assert_eq!((c.limits.max_stanza_bytes, c.limits.max_payload_bytes), (500_000, 200_000));
}

#[test]
fn the_commented_file_loads_and_names_every_key() {
    let text = include_str!("../config/rookery.toml");
    let as_shipped = parse(text).unwrap();
    // Each commented-out default, switched on, says what is the default anyway; these are examples.
    let example = |line: &&str| ["secret_file", "acct_domain", "admins"].iter().any(|key| line.starts_with(key));
    let switched_on: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .filter(|line| !example(line))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(parse(&switched_on).unwrap(), as_shipped);
    for (table, keys) in KEYS {
        let inside = text.split(&format!("\n[{table}]\n")).nth(1).unwrap_or_else(|| panic!("no [{table}]"));
        let inside = inside.split("\n[").next().unwrap();
        for key in *keys {
            let there = inside.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(there, "{table}.{key} is not in config/rookery.toml");
        }
    }
}

#[test]
fn all_problems_are_reported_together_and_say_what_to_write() {
    let text = r#"
        shiny = 1
        [component]
        jid = "juliet@example.org"
        server = "192.0.2.7:5347"
        allow_plaintext = "no"
        [http]
        listen = "8080"
        public_url = "http://social.example.org/base"
        acct_domain = "a b"
        [store]
        backend = "postgres"
        [acounts]
        admins = []
        [accounts]
        admins = ["example.org", "admin@example.org"]
        registration = "everybody"
        [limits]
        max_stanza_bytes = 5
    "#;
    let problems = parse(text).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|p| p.key.as_str()).collect();
    let expected = [
        "[acounts]",
        "shiny",
        "component.jid",
        "component.secret",
        "component.allow_plaintext",
        "component.server",
        "http.listen",
        "http.public_url",
        "http.acct_domain",
        "store.backend",
        "accounts.registration",
        "accounts.admins",
        "limits.max_stanza_bytes",
    ];
    assert_eq!(keys, expected);
    assert!(problems.iter().all(|p| !p.wrong.is_empty() && !p.write.is_empty()));
    let shown = ConfigError::Problems { problems }.to_string();
    has(&shown, &["has 13 problem(s)", "postgres is not there yet", "[accounts]", "allow_plaintext = true"]);
}

#[test]
fn no_payload_is_promised_that_a_node_would_refuse() {
    let most = rookery::domain::node_config::PAYLOAD_MAX as usize;
    let limits = |lines: &str| parse(&format!("{SMALL}\n[limits]\n{lines}")).map(|config| config.limits);
    assert_eq!(limits(&format!("max_payload_bytes = {most}")).unwrap().max_payload_bytes, most);
    let more = limits(&format!("max_stanza_bytes = 10000000\nmax_payload_bytes = {}", most + 1));
    has(
        &more.expect_err("it would have no effect")[0].to_string(),
        &["limits.max_payload_bytes", "200001", "to 200000"],
    );
    assert_eq!(limits("max_stanza_bytes = 100000").unwrap().max_payload_bytes, 100_000 - 16 * 1024);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one_and_its_table() {
    has(&problem_of("http", "publik_url = 1"), &["http.publik_url", "`public_url` in [http]"]);
    has(&problem_of("component", "listen = 1"), &["component.listen", "`listen` in [http]"]);
    has(&problem_of("component", "server_hots = 1"), &["`server_host` in [component]"]);
    has(&problem_of("federatoin", "x = 1"), &["[federatoin]", "[federation]"]);
    let problems = parse(&format!("jid = \"x\"\n{SMALL}")).unwrap_err();
    has(&problems[0].to_string(), &["outside of any table", "`jid` in [component]"]);
}

#[test]
fn the_environment_wins_over_the_file() {
    let c = parse_with(
        SMALL,
        &[
            ("ROOKERY_COMPONENT__SECRET", "from env"),
            ("ROOKERY_FEDERATION__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("ROOKERY_ACCOUNTS__AUTO_REGISTER_HOSTS", "a.example, B.example"),
            ("ROOKERY_LIMITS__MAX_PAYLOAD_BYTES", "5000"),
            ("ROOKERY_LOG", "not of this scheme"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(c.component.secret.expose(), "from env");
    assert!(c.federation.allow_private_addresses);
    assert_eq!(c.accounts.auto_register_hosts, ["a.example", "b.example"]);
    assert_eq!(c.limits.max_payload_bytes, 5000);

    let problems = parse_with(SMALL, &[("ROOKERY_HTTP__LISTN", "x"), ("ROOKERY_HTTP__LISTEN", "x")]).unwrap_err();
    has(&problems[0].to_string(), &["ROOKERY_HTTP__LISTN", "ROOKERY_HTTP__LISTEN"]);
    has(&problems[1].to_string(), &["ROOKERY_HTTP__LISTEN", "not an IP address"]);
}

/// The file's syntax does not hold in the environment, and the variable is what its writer looks for.
#[test]
fn an_error_of_the_environment_names_the_variable_and_its_syntax() {
    let list = |value: &str| parse_with(SMALL, &[("ROOKERY_ACCOUNTS__ADMINS", value)]);
    for (value, admins) in [
        ("", &[][..]),
        ("a@b.example", &["a@b.example"]),
        ("a@b.example, c@d.example,", &["a@b.example", "c@d.example"]),
        (r#"["a@b.example"]"#, &["a@b.example"]),
        (r#" [ "a@b.example", 'c@d.example' ] "#, &["a@b.example", "c@d.example"]),
    ] {
        let read: Vec<_> = list(value).unwrap().accounts.admins.iter().map(|jid| jid.to_string()).collect();
        assert_eq!(read, admins, "{value}");
    }
    for wrong in ["[a@b.example]", "[1]", "a@b.example c@d.example", "example.org", "\"a@b.example\""] {
        let problems = list(wrong).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        has(&problems[0].to_string(), &["ROOKERY_ACCOUNTS__ADMINS", "separated by commas"]);
    }
    for (table, keys) in KEYS {
        for key in *keys {
            let name = format!("ROOKERY_{}__{}", table.to_uppercase(), key.to_uppercase());
            // Whatever it is, this is wrong for it, if anything can be.
            let Err(problems) = parse_with(SMALL, &[(&name, "\u{1} @ \u{1}")]) else {
                assert!(["secret", "path"].contains(key), "{name}");
                continue;
            };
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].key, name);
            has(&problems[0].write, &["in the environment: "]);
        }
    }
    let env = [("ROOKERY_HTTP__LISTEN", "127.0.0.1:65535")];
    has(&parse_with(SMALL, &env).unwrap_err()[0].to_string(), &["http.admin_listen", "that of ROOKERY_HTTP__LISTEN"]);
}

#[test]
fn the_secret_is_never_shown() {
    let c = parse(SMALL).unwrap();
    let shown = format!("{c:?} {:#?}", c.component);
    assert!(!shown.contains("s3cret") && shown.contains("Secret(…)"), "{shown}");
    // Not in errors either: neither of the parser nor of a wrong kind.
    let broken = SMALL.replace("\"s3cret\"", "\"s3cret");
    let error = format!("{:?}", parse(&broken).unwrap_err());
    assert!(!error.contains("s3cret") && error.contains("line 4"), "{error}");
    let number = SMALL.replace("\"s3cret\"", "31337");
    let error = format!("{:?}", parse(&number).unwrap_err());
    assert!(!error.contains("31337") && error.contains("text in quotes"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_secret_file_is_read_unless_everybody_can_read_it() {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let text = SMALL.replace("secret = \"s3cret\"", "secret_file = \"secret\"");
    let load = |env: &[(&str, &str)]| {
        let env = env.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        Config::parse(&text, folder.path(), env).map_err(|e| e.to_string())
    };
    has(&load(&[]).unwrap_err(), &["component.secret_file", "No such file"]);
    write(&path, "from file\r\n").unwrap();
    set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    has(&load(&[]).unwrap_err(), &["everybody on this machine", "chmod 600"]);
    set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load(&[]).unwrap().component.secret.expose(), "from file");
    assert_eq!(load(&[("ROOKERY_COMPONENT__SECRET", "env")]).unwrap().component.secret.expose(), "env");
    for wrong in ["", "\n", "a\nb\n"] {
        write(&path, wrong).unwrap();
        load(&[]).unwrap_err();
    }
    write(&path, "x".repeat(5000)).unwrap();
    has(&load(&[]).unwrap_err(), &["longer than 4096 bytes"]);
}

#[test]
fn secret_and_secret_file_exclude_each_other() {
    has(&problem_of("component", "secret_file = \"x\""), &["keep one of secret and secret_file"]);
    let problems = parse(&SMALL.replace("s3cret", "")).unwrap_err();
    has(&problems[0].to_string(), &["component.secret", "empty"]);
}

#[test]
fn a_server_elsewhere_needs_allow_plaintext() {
    for local in ["localhost:5347", "[::1]:5347", "127.0.0.9:1"] {
        let text = SMALL.replace("secret =", &format!("server = \"{local}\"\nsecret ="));
        assert_eq!(parse(&text).unwrap().component.server.to_string(), local);
    }
    for elsewhere in ["xmpp.example.org:5347", "10.0.0.1:5347", "[2001:db8::1]:5347", "0.0.0.0:5347"] {
        let line = format!("server = \"{elsewhere}\"");
        has(&problem_of("component", &line), &["component.server", "not encrypted", "allow_plaintext = true"]);
        let text = SMALL.replace("secret =", &format!("{line}\nallow_plaintext = true\nsecret ="));
        assert_eq!(parse(&text).unwrap().component.server.to_string(), elsewhere);
    }
    for wrong in ["localhost", "localhost:0", "localhost:xmpp", ":5347", "::1", "a b:1"] {
        has(&problem_of("component", &format!("server = \"{wrong}\"")), &["component.server", "127.0.0.1:5347"]);
    }
}

#[test]
fn names_come_out_normalised() {
    let text = r#"
        [component]
        jid = "Social.Example.ORG"
        secret = "x"
        [http]
        public_url = "HTTPS://Bücher.Example:443"
        acct_domain = "BÜCHER.example"
        [accounts]
        admins = ["Admin@Example.org"]
        auto_register_hosts = ["EXAMPLE.org"]
        [store]
        path = "data"
    "#;
    let c = parse(text).unwrap();
    assert_eq!(c.component.jid.as_str(), "social.example.org");
    assert_eq!(c.http.public_url.as_str(), "https://xn--bcher-kva.example/");
    assert_eq!(c.http.acct_domain, "xn--bcher-kva.example");
    assert_eq!(c.accounts.admins[0].as_str(), "admin@example.org");
    assert_eq!(c.accounts.auto_register_hosts, ["example.org"]);
    assert_eq!(c.store.path.as_deref(), Some(Path::new("/etc/rookery/data")));
}

#[test]
fn the_public_url_is_https_at_the_root_of_a_host() {
    let with = |url: &str, more: &str| parse(&format!("{}{more}", SMALL.replace("https://social.example.org", url)));
    for good in ["http://localhost:8080", "http://127.0.0.1:9", "http://[::1]/", "https://social.example.org:8443/"] {
        with(good, "").unwrap();
    }
    with("http://social.test", "[federation]\nallow_private_addresses = true").unwrap();
    for (wrong, word) in [
        ("http://social.example.org", "only at https"),
        ("ftp://social.example.org", "not https"),
        ("https://u:p@social.example.org", "credentials"),
        ("https://social.example.org/base", "root of its host"),
        ("https://social.example.org/?x", "root of its host"),
        ("social.example.org", "not a URL"),
        ("mailto:a@example.org", "no host"),
    ] {
        has(&with(wrong, "").unwrap_err()[0].to_string(), &["http.public_url", word, "https://social.example.org"]);
    }
}

#[test]
fn the_store_and_the_ports_make_sense() {
    let with = |more: &str| parse(&format!("{SMALL}{more}"));
    assert_eq!(with("[store]\nbackend = \"memory\"").unwrap().store.path, None);
    assert_eq!(with("[store]\nbackend = \"fjall\"").unwrap().store.backend, Backend::Fjall);
    has(&problem_of("store", "backend = \"redis\""), &["\"redis\"", "sled", "fjall"]);
    has(&problem_of("http", "admin_listen = \"127.0.0.1:8080\""), &["http.admin_listen", "same as listen"]);
    has(&problem_of("http", "listen = \"127.0.0.1:65535\""), &["http.admin_listen"]);
    has(&problem_of("limits", "max_payload_bytes = 499000"), &["out of bounds", "200000"]);
    let any = parse(&SMALL.replace("[http]", "[http]\nlisten = \"[::]:0\"")).unwrap();
    assert_eq!(any.http.admin_listen.to_string(), "127.0.0.1:0");
    let single = SMALL.replace("jid = \"social.example.org\"", "jid = \"social\"");
    has(&parse(&single).unwrap_err()[0].to_string(), &["component.server_host", "only one label"]);
}

/// A value that is no text was once passed over, and the file's stood in its place.
#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rookery.toml");
    std::fs::write(&file, SMALL).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rookery"))
        .args(["check", "--config"])
        .arg(&file)
        .env("ROOKERY_COMPONENT__SECRET", std::ffi::OsStr::from_bytes(b"s\xff"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success());
    has(&told, &["ROOKERY_COMPONENT__SECRET: its value is not UTF-8"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/rookery.toml")).unwrap_err().to_string();
    has(&error, &["/nonexistent/rookery.toml", "No such file"]);
}

#[test]
fn every_key_that_differs_is_named() {
    let other = parse(
        r#"
[component]
jid = "other.example.net"
server = "192.0.2.1:5348"
secret = "another"
server_host = "example.net"
allow_plaintext = true
[http]
listen = "127.0.0.1:9080"
admin_listen = "127.0.0.1:9090"
public_url = "https://other.example.net"
acct_domain = "example.net"
[store]
backend = "sled"
path = "/srv/rookery"
[accounts]
registration = "closed"
auto_register_hosts = []
admins = ["admin@example.net"]
[pubsub]
create_nodes_hosts = []
[federation]
allow_private_addresses = true
[limits]
max_stanza_bytes = 400000
max_payload_bytes = 100000
max_nodes = 7
max_subscriptions = 7
max_hub_requests = 7
max_hub_requests_per_host = 7
max_hub_subscriptions_per_feed = 7
max_hub_subscriptions_per_host = 7
trusted_hosts = ["example.net"]
[log]
level = "debug"
"#,
    );
    let (small, other) = (parse(SMALL).unwrap(), other.unwrap());
    let all: Vec<String> = KEYS
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| format!("{table}.{key}")))
        .filter(|key| key != "component.secret_file")
        .collect();
    let mut named = small.differences(&other);
    named.sort_by_key(|key| all.iter().position(|known| known == key));
    assert_eq!(named, all);
    assert!(small.differences(&small).is_empty());
}

#[test]
fn a_level_of_the_log_is_one_of_five_words() {
    assert_eq!(parse(&format!("{SMALL}[log]\nlevel = \"warn\"\n")).unwrap().log.level, LogLevel::Warn);
    has(&problem_of("log", "level = \"loud\""), &["log.level", "unknown word", r#"level = "info""#]);
}
