//! Flags every command takes, and the environment that stands in for them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use baton_client::{Client, Credentials, Identity, Options, Tls};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Parser};
use prost::Message;
use tonic::Status;

use crate::failure::{BAD_FEATURE, Failure, Result};
use crate::go;
use crate::output::{Format, Output};

const CONNECTION: &str = "Connection";
const OUTPUT: &str = "Output";

/// Flags every command takes, in etcdctl's spelling.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Where the members of the cluster listen, separated by commas
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        help_heading = CONNECTION
    )]
    pub endpoints: Vec<String>,

    /// Time to connect
    #[arg(long, global = true, default_value = "2s", value_parser = go::parse_duration, help_heading = CONNECTION)]
    pub dial_timeout: Duration,

    /// Time for a command that does not wait by nature, once connected
    #[arg(long, global = true, default_value = "5s", value_parser = go::parse_duration, help_heading = CONNECTION)]
    pub command_timeout: Duration,

    /// Silence after which the server is pinged
    #[arg(long, global = true, hide = true, default_value = "2s", value_parser = go::parse_duration, help_heading = CONNECTION)]
    pub keepalive_time: Duration,

    /// Time the server has to answer a ping
    #[arg(long, global = true, hide = true, default_value = "6s", value_parser = go::parse_duration, help_heading = CONNECTION)]
    pub keepalive_timeout: Duration,

    /// Largest request in bytes (0: 2 MiB)
    #[arg(long, global = true, hide = true, default_value = "0", value_parser = go::size_flag, help_heading = CONNECTION)]
    pub max_request_bytes: usize,

    /// Largest answer in bytes (0: no limit)
    #[arg(long, global = true, hide = true, default_value = "0", value_parser = go::size_flag, help_heading = CONNECTION)]
    pub max_recv_bytes: usize,

    /// Certificates of the authorities that are trusted (PEM); with it, endpoints are https:// by default
    #[arg(long, global = true, hide = true, value_name = "FILE", help_heading = CONNECTION)]
    pub cacert: Option<PathBuf>,

    /// Who this is, for servers that ask (PEM)
    #[arg(long, global = true, hide = true, value_name = "FILE", help_heading = CONNECTION)]
    pub cert: Option<PathBuf>,

    /// The private key of --cert (PEM)
    #[arg(long, global = true, hide = true, value_name = "FILE", help_heading = CONNECTION)]
    pub key: Option<PathBuf>,

    /// Take any certificate of a server: for trials only
    #[arg(long, global = true, hide = true, help_heading = CONNECTION)]
    pub insecure_skip_tls_verify: bool,

    /// Endpoints without http:// or https:// are not encrypted (with =false, they are)
    #[arg(
        long,
        global = true,
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = go::parse_bool,
        action = ArgAction::Set,
        help_heading = CONNECTION
    )]
    pub insecure_transport: Option<bool>,

    /// Who asks: NAME or NAME:PASSWORD; without a password it is asked for
    #[arg(long, global = true, help_heading = CONNECTION)]
    pub user: Option<String>,

    /// The password of --user, which then is the name alone
    #[arg(long, global = true, hide = true, help_heading = CONNECTION)]
    pub password: Option<String>,

    /// Format of answers: simple, json, fields, table or protobuf
    #[arg(short, long, global = true, default_value = "simple", help_heading = OUTPUT)]
    pub write_out: String,

    /// Print bytes and ids in hexadecimal
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub hex: bool,

    /// Print the flags, and what the client has to say, on standard error
    #[arg(long, global = true, hide = true, help_heading = OUTPUT)]
    pub debug: bool,
}

impl Flags {
    /// How answers are printed.
    pub fn output(&self) -> Result<Output> {
        let format = match self.write_out.as_str() {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "table" => Format::Table,
            "protobuf" => Format::Protobuf,
            _ => return Err(Failure::new(BAD_FEATURE, "unsupported output format")),
        };
        Ok(Output::new(format, self.hex))
    }

    /// The same, to be shown.
    pub fn without_secrets(&self) -> Self {
        let user = self.user.as_deref();
        let name = user.map(|user| user.split(':').next().unwrap_or_default().to_owned());
        Self {
            user: name,
            password: None,
            ..self.clone()
        }
    }

    /// A client of another cluster, reached in the same way under another name.
    pub fn client_elsewhere(
        &self,
        endpoint: &str,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<Client> {
        let elsewhere = Self {
            endpoints: vec![endpoint.to_owned()],
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
            ..self.clone()
        };
        elsewhere.client()
    }

    /// A client of the cluster.
    pub fn client(&self) -> Result<Client> {
        let options = Options {
            connect_timeout: self.dial_timeout,
            request_timeout: self.command_timeout,
            keep_alive: self.keepalive_time.max(LEAST_KEEP_ALIVE),
            keep_alive_timeout: self.keepalive_timeout,
            credentials: self.credentials()?,
            tls: self.tls()?,
            ..Default::default()
        };
        Ok(Client::with_options(self.endpoints(), options)?)
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.trim());
        endpoints
            .filter(|endpoint| !endpoint.is_empty())
            .map(|endpoint| {
                if self.is_encrypted() && !has_scheme(endpoint) {
                    format!("https://{endpoint}")
                } else {
                    endpoint.to_owned()
                }
            })
            .collect()
    }

    /// Whether endpoints that do not say so are encrypted.
    fn is_encrypted(&self) -> bool {
        let asks = self.cacert.is_some() || self.cert.is_some() || self.insecure_skip_tls_verify;
        !self.insecure_transport.unwrap_or(!asks)
    }

    fn tls(&self) -> Result<Tls> {
        let read = |flag: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                Failure::arguments(format!("--{flag}={}: {error}", path.display()))
            })
        };
        let identity = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificates: read("cert", certificate)?,
                key: read("key", key)?,
            }),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::arguments("--cert needs its --key")),
            (None, Some(_)) => return Err(Failure::arguments("--key needs its --cert")),
        };
        let ca = match &self.cacert {
            Some(path) => read("cacert", path)?,
            None => Vec::new(),
        };
        Ok(Tls {
            ca,
            identity,
            server_name: None,
            insecure_skip_verify: self.insecure_skip_tls_verify,
        })
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        let Some(user) = &self.user else {
            return Ok(None);
        };
        let (user, password) = match (&self.password, user.split_once(':')) {
            (Some(password), _) => (user.clone(), password.clone()),
            (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
            (None, None) => (user.clone(), crate::terminal::ask("Password: ")?),
        };
        Ok(Some(Credentials { user, password }))
    }

    /// What may be sent and received.
    pub fn limits(&self) -> Limits {
        let or = |limit: usize, default: usize| if limit == 0 { default } else { limit };
        Limits {
            request: or(self.max_request_bytes, 2 << 20),
            answer: or(self.max_recv_bytes, usize::MAX),
        }
    }
}

/// Sizes of messages on keys, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    request: usize,
    answer: usize,
}

impl Limits {
    /// Refuses a request that is too large before it is sent.
    pub fn check_request(&self, request: &impl Message) -> Result<()> {
        check("trying to send", request.encoded_len(), self.request)
    }

    /// Refuses an answer that is too large.
    pub fn check_answer(&self, answer: &impl Message) -> Result<()> {
        check("received", answer.encoded_len(), self.answer)
    }
}

fn check(what: &str, size: usize, limit: usize) -> Result<()> {
    if size > limit {
        let text = format!("{what} message larger than max ({size} vs. {limit})");
        return Err(Status::resource_exhausted(text).into());
    }
    Ok(())
}

fn has_scheme(endpoint: &str) -> bool {
    endpoint.contains("://") || endpoint.starts_with("unix")
}

/// Servers may hang up on clients that ping more often. etcdctl's default is below it, and its library raises it.
const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where a flag may come from, the first one first.
const PREFIXES: [&str; 2] = ["BATONCTL_", "ETCDCTL_"];
/// What is read elsewhere, and what older clients needed.
const OTHER_VARIABLES: [&str; 3] = ["WATCH_KEY", "WATCH_RANGE_END", "API"];

/// The flags that the environment gives, as arguments to stand before those of the command line.
///
/// # Errors
/// If a flag is given both ways: one of them would be shadowed without a word.
pub fn from_environment(command: &Command, matches: &ArgMatches) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for flag in command.get_arguments().filter(|arg| arg.is_global_set()) {
        let Some(name) = flag.get_long() else {
            continue;
        };
        let Some((variable, value)) = variable_of(name) else {
            continue;
        };
        if is_on_command_line(matches, flag.get_id().as_str()) {
            return Err(Failure::error(format!(
                "--{name} is given, and {variable} is set in the environment: take one of them away"
            )));
        }
        found.push(format!("--{name}={value}"));
    }
    Ok(found)
}

fn variable_of(flag: &str) -> Option<(String, String)> {
    PREFIXES.iter().find_map(|prefix| {
        let variable = format!("{prefix}{}", environment_name(flag));
        let value = std::env::var(&variable).ok()?;
        (!value.is_empty()).then_some((variable, value))
    })
}

fn environment_name(flag: &str) -> String {
    flag.to_uppercase().replace('-', "_")
}

/// Variables with our prefixes that mean nothing, so that a slip is seen.
pub fn unknown_variables(command: &Command) -> Vec<String> {
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(environment_name))
        .chain(OTHER_VARIABLES.map(str::to_owned))
        .collect();
    let mut unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| {
            PREFIXES.iter().any(|prefix| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| !known.iter().any(|known| known == rest))
            })
        })
        .collect();
    unknown.sort();
    unknown
}

/// Whether a flag was typed, at whatever depth of subcommands.
fn is_on_command_line(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine);
    here || matches
        .subcommand()
        .is_some_and(|(_, deeper)| is_on_command_line(deeper, id))
}

/// Parses words typed in as a command line of etcdctl's.
///
/// # Errors
/// What clap says.
pub fn parse_as_in_go<P: Parser>(words: Vec<OsString>) -> std::result::Result<P, clap::Error> {
    let matches = as_in_go(P::command()).try_get_matches_from(words)?;
    P::from_arg_matches(&matches)
}

/// Makes flags take what `etcdctl` takes: `--flag`, `--flag=true`, `--flag=false` for those that are on or off,
/// and the last of several wins.
pub fn as_in_go(command: Command) -> Command {
    let command = command.args_override_self(true).mut_args(|arg: Arg| {
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("BOOL")
            .value_parser(go::parse_bool)
    });
    with_short_names(command.mut_subcommands(as_in_go))
}

/// Commands are found by as many of their letters as tell them apart. Not where a name of the user's can stand in
/// the same place.
fn with_short_names(mut command: Command) -> Command {
    if command.is_args_conflicts_with_subcommands_set() {
        return command;
    }
    let names: Vec<String> = command
        .get_subcommands()
        .flat_map(|command| command.get_name_and_visible_aliases())
        .map(str::to_owned)
        .collect();
    for name in &names {
        for length in 1..name.len() {
            let short = &name[..length];
            let meant = names.iter().filter(|other| other.starts_with(short));
            if meant.count() == 1 && command.find_subcommand(short).is_none() {
                // The command tree is made once and lives as long as the process.
                let short: &'static str = short.to_owned().leak();
                command = command.mut_subcommand(name, |command| command.alias(short));
            }
        }
    }
    command
}
