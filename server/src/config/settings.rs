//! Collects what was given: command line and environment, or a file instead of both.

use std::collections::BTreeMap;

use super::flags::{self, Effect, Flag};
use super::value::{self, Kind};
use super::{Refusal, file};

/// Values given, by flag name; every one fits its flag's kind.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, String>,
    /// Sentences for the log, once there is one.
    pub(super) warnings: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Print all flags.
    Help,
    /// Print the version.
    Version,
    /// Start with these.
    Start(Settings),
}

impl Settings {
    /// The value in force for a flag: given, or its default.
    ///
    /// # Panics
    /// If there is no such flag.
    pub(super) fn get(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(value) => value,
            None => {
                flags::find(name)
                    .unwrap_or_else(|| panic!("the table of flags has {name}"))
                    .default
            }
        }
    }

    /// Whether a flag was given at all.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Takes a value in, under the name it has today.
    fn set(&mut self, flag: &'static Flag, text: &str) {
        match flag.effect {
            Effect::OldNameOf(new) => {
                self.warnings.push(format!(
                    "--{} is an old name: use --{new} instead",
                    flag.name
                ));
                self.given.insert(new, text.to_owned());
            }
            _ => {
                self.given.insert(flag.name, text.to_owned());
            }
        }
    }

    /// Warns of values that do nothing, and refuses those that must not be ignored.
    fn weigh(&mut self) -> Result<(), Refusal> {
        for (name, text) in &self.given {
            let Some(flag) = flags::find(name) else {
                continue;
            };
            match flag.effect {
                Effect::Inert(why) if !same_value(flag, text) => {
                    self.warnings.push(format!("--{name} has no effect: {why}"))
                }
                Effect::Refused(why) if !same_value(flag, text) => {
                    return Err(Refusal::fatal(format!(
                        "--{name}={text} is not supported: {why}"
                    )));
                }
                Effect::Inert(_) | Effect::Refused(_) | Effect::Obeyed | Effect::OldNameOf(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether `text` means the flag's default.
fn same_value(flag: &Flag, text: &str) -> bool {
    match flag.kind {
        Kind::Bool => value::parse_bool(text) == value::parse_bool(flag.default),
        _ => text == flag.default,
    }
}

/// Reads the command line, then the environment or the file.
pub(super) fn read(
    args: &[String],
    env: &[(String, String)],
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Request, Refusal> {
    let mut from_args = match read_args(args)? {
        Parsed::Help => return Ok(Request::Help),
        Parsed::Settings(settings) => settings,
    };
    if value::parse_bool(from_args.get("version")) == Some(true) {
        return Ok(Request::Version);
    }
    let mut settings = if from_args.is_given("config-file") {
        let path = from_args.get("config-file").to_owned();
        from_file(&path, from_args.given.len() > 1, read_file)?
    } else if let Some(path) = config_file_of(env) {
        from_file(path, !from_args.given.is_empty(), read_file)?
    } else {
        read_env(env, &mut from_args)?;
        from_args
    };
    settings.weigh()?;
    Ok(Request::Start(settings))
}

fn from_file(
    path: &str,
    ignores_flags: bool,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Settings, Refusal> {
    let text = read_file(path)
        .map_err(|error| Refusal::fatal(format!("cannot read the config file {path}: {error}")))?;
    let mut settings = Settings::default();
    if ignores_flags {
        settings.warnings.push(format!(
            "the config file {path} is used: all other flags are ignored"
        ));
    }
    let entries = file::parse(&text)
        .map_err(|error| Refusal::fatal(format!("the config file {path} is not valid: {error}")))?;
    for (key, text) in entries {
        match flags::find(&key) {
            Some(flag) => {
                value::check(flag.kind, &text).map_err(|error| {
                    Refusal::fatal(format!(
                        "the config file {path} is not valid: {text:?} for {key}: {error}"
                    ))
                })?;
                settings.set(flag, &text);
            }
            None => settings
                .warnings
                .push(format!("unknown key {key} in the config file is ignored")),
        }
    }
    Ok(settings)
}

enum Parsed {
    Help,
    Settings(Settings),
}

/// Go's syntax: `-f v`, `--f v`, `--f=v`; for a bool `--f` or `--f=true`. The last one wins.
fn read_args(args: &[String]) -> Result<Parsed, Refusal> {
    let mut settings = Settings::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            return Err(not_a_flag(arg));
        };
        if arg == "-" {
            return Err(not_a_flag(arg));
        }
        if arg == "--" {
            return match args.next() {
                Some(rest) => Err(not_a_flag(rest)),
                None => Ok(Parsed::Settings(settings)),
            };
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Refusal::usage(format!("bad flag syntax: {arg}")));
        }
        if name == "h" || name == "help" {
            return Ok(Parsed::Help);
        }
        let flag = flags::find(name).ok_or_else(|| {
            let hint = match flags::nearest(name) {
                Some(known) => format!("; did you mean --{known}?"),
                None => String::new(),
            };
            Refusal::usage(format!("flag provided but not defined: -{name}{hint}"))
        })?;
        let text = match (inline, flag.kind) {
            (Some(text), _) => text,
            (None, Kind::Bool) => "true",
            (None, _) => args
                .next()
                .ok_or_else(|| Refusal::usage(format!("flag needs an argument: -{name}")))?,
        };
        value::check(flag.kind, text).map_err(|error| {
            Refusal::usage(match flag.kind {
                Kind::Bool => format!("invalid boolean value {text:?} for -{name}: {error}"),
                _ => format!("invalid value {text:?} for flag -{name}: {error}"),
            })
        })?;
        settings.set(flag, text);
    }
    Ok(Parsed::Settings(settings))
}

fn not_a_flag(arg: &str) -> Refusal {
    Refusal::fatal(format!(
        "error verifying flags, '{arg}' is not a valid flag. See 'batond --help'."
    ))
}

const PREFIXES: [&str; 2] = ["ETCD_", "BATON_"];

fn variable(prefix: &str, flag: &Flag) -> String {
    let name = flag.name.to_ascii_uppercase().replace(['-', '.'], "_");
    format!("{prefix}{name}")
}

fn config_file_of(env: &[(String, String)]) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| {
        env.iter()
            .find(|(name, value)| *name == format!("{prefix}CONFIG_FILE") && !value.is_empty())
            .map(|(_, value)| value.as_str())
    })
}

/// Fills in from the environment what the command line did not give.
fn read_env(env: &[(String, String)], settings: &mut Settings) -> Result<(), Refusal> {
    let mut known = vec![
        "ETCD_CONFIG_FILE".to_owned(),
        "BATON_CONFIG_FILE".to_owned(),
    ];
    let on_command_line: Vec<_> = settings.given.keys().copied().collect();
    for flag in flags::all() {
        if flags::COMMANDS
            .iter()
            .any(|command| command.name == flag.name)
        {
            continue;
        }
        let mut set_by: Option<String> = None;
        for prefix in PREFIXES {
            if prefix == "ETCD_" && flag.is_own() {
                continue;
            }
            let variable = variable(prefix, flag);
            let value = env.iter().find(|(name, _)| *name == variable);
            known.push(variable.clone());
            let Some((_, text)) = value.filter(|(_, text)| !text.is_empty()) else {
                continue;
            };
            if let Some(other) = set_by {
                return Err(Refusal::fatal(format!(
                    "both {other} and {variable} are set: unset one of them"
                )));
            }
            if on_command_line.contains(&flag.name) {
                return Err(Refusal::fatal(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding \
                     command-line flag (either unset environment variable or disable flag)"
                )));
            }
            value::check(flag.kind, text).map_err(|error| {
                Refusal::fatal(format!("invalid value {text:?} for {variable}: {error}"))
            })?;
            settings.set(flag, text);
            set_by = Some(variable);
        }
    }
    for (name, _) in env {
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !known.contains(name) {
            settings.warnings.push(format!(
                "unrecognized environment variable {name} is ignored"
            ));
        }
    }
    Ok(())
}
