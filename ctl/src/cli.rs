//! The commands, and how a command line becomes one.

use std::ffi::OsString;

use baton_client::Client;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    alarm, auth, barrier, check, completion, elect, endpoint, kv, lease, lock, maintenance, member,
    mirror, queue, txn, version, watch,
};
use crate::failure::{Failure, Result};
use crate::flags::{self, Flags};
use crate::output::{self, Output, complain};

/// What a command works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// The flags that every command takes.
    pub flags: Flags,
    /// Where answers go.
    pub output: Output,
}

/// The command line of Baton. Every command of etcdctl is here, under its name and with its flags.
#[derive(Debug, Parser)]
#[command(
    name = "batonctl",
    version,
    disable_version_flag = true,
    subcommand_required = true,
    max_term_width = 100,
    after_help = "\
Examples:
  batonctl put greeting hello
  batonctl get greeting
  batonctl watch --prefix config/
  batonctl lock nightly-report -- ./report.sh      run a command while holding a lock
  batonctl elect scheduler -- ./scheduler          run a command while being the leader

`batonctl COMMAND --help` has more of them. `batonctl options` lists the flags that every command takes; each of them
can be given in the environment as well, as BATONCTL_ENDPOINTS or ETCDCTL_ENDPOINTS."
)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(kv::Put),
    Get(kv::Get),
    Del(kv::Del),
    Txn(txn::Txn),
    #[command(visible_alias = "compact")]
    Compaction(kv::Compaction),
    Watch(watch::Watch),
    #[command(subcommand)]
    Lease(lease::Lease),
    Lock(lock::Lock),
    Elect(elect::Elect),
    #[command(subcommand)]
    Queue(queue::Queue),
    #[command(subcommand)]
    Barrier(barrier::Barrier),
    #[command(subcommand)]
    Member(member::Member),
    Endpoint(endpoint::Endpoint),
    #[command(subcommand)]
    Alarm(alarm::Alarm),
    Defrag(maintenance::Defrag),
    MoveLeader(maintenance::MoveLeader),
    #[command(subcommand)]
    Snapshot(maintenance::Snapshot),
    #[command(subcommand)]
    Downgrade(maintenance::Downgrade),
    #[command(subcommand)]
    Auth(auth::Auth),
    #[command(subcommand)]
    User(auth::User),
    #[command(subcommand)]
    Role(auth::Role),
    MakeMirror(mirror::MakeMirror),
    #[command(subcommand)]
    Check(check::Check),
    Completion(completion::Completion),
    /// List the flags that every command takes
    Options,
    Version(version::Version),
}

/// Runs the command of this process.
pub async fn run() -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let Some(Cli { flags, command }) = parse(arguments)? else {
        return Ok(());
    };
    // Says what is wrong with the flags before it connects, but not where it needs no connection.
    match command {
        Command::Completion(completion) => return completion.run(command_tree()),
        Command::Options => return options(),
        Command::Version(version) => return version.run(),
        _ => {}
    }
    if flags.debug {
        log_to_standard_error();
        complain(format_args!("{:#?}", flags.without_secrets()));
    }
    let context = Context {
        client: flags.client()?,
        output: flags.output()?,
        flags,
    };
    match command {
        Command::Put(put) => put.run(&context).await,
        Command::Get(get) => get.run(&context).await,
        Command::Del(del) => del.run(&context).await,
        Command::Txn(txn) => txn.run(&context).await,
        Command::Compaction(compaction) => compaction.run(&context).await,
        Command::Watch(watch) => watch.run(&context).await,
        Command::Lease(lease) => lease.run(&context).await,
        Command::Lock(lock) => lock.run(&context).await,
        Command::Elect(elect) => elect.run(&context).await,
        Command::Queue(queue) => queue.run(&context).await,
        Command::Barrier(barrier) => barrier.run(&context).await,
        Command::Member(member) => member.run(&context).await,
        Command::Endpoint(endpoint) => endpoint.run(&context).await,
        Command::Alarm(alarm) => alarm.run(&context).await,
        Command::Defrag(defrag) => defrag.run(&context).await,
        Command::MoveLeader(move_leader) => move_leader.run(&context).await,
        Command::Snapshot(snapshot) => snapshot.run(&context).await,
        Command::Downgrade(downgrade) => downgrade.run(&context).await,
        Command::Auth(auth) => auth.run(&context).await,
        Command::User(user) => user.run(&context).await,
        Command::Role(role) => role.run(&context).await,
        Command::MakeMirror(mirror) => mirror.run(&context).await,
        Command::Check(check) => check.run(&context).await,
        Command::Completion(_) | Command::Options | Command::Version(_) => Ok(()),
    }
}

/// What the client and the recipes have to say.
fn log_to_standard_error() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("baton_client=debug,baton_recipes=debug")
        .init();
}

fn command_tree() -> clap::Command {
    flags::as_in_go(Cli::command())
}

/// `None` if all that was asked for was help, which is printed.
fn parse(arguments: Vec<OsString>) -> Result<Option<Cli>> {
    let mut command = command_tree();
    let typed = match command.try_get_matches_from_mut(&arguments) {
        Ok(matches) => matches,
        Err(error) => return explain(&error, &command, &arguments),
    };
    for variable in flags::unknown_variables(&command) {
        complain(format_args!(
            "Warning: unrecognized environment variable {variable}"
        ));
    }
    let from_environment = flags::from_environment(&command, &typed)?;
    let (program, rest) = arguments.split_at(1);
    let all = program
        .iter()
        .cloned()
        .chain(from_environment.into_iter().map(OsString::from))
        .chain(rest.iter().cloned());
    let matches = match command.try_get_matches_from_mut(all) {
        Ok(matches) => matches,
        Err(error) => return explain(&error, &command, &arguments),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::error(error.to_string()))?;
    Ok(Some(cli))
}

/// Prints help, or says what is wrong with a command line in the words scripts and people know.
fn explain(
    error: &clap::Error,
    command: &clap::Command,
    arguments: &[OsString],
) -> Result<Option<Cli>> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let name = argument.split(['[', '=', ' ']).next().unwrap_or_default();
    let value = context(ContextKind::InvalidValue);
    let text = match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::print(error.to_string())?;
            return Ok(None);
        }
        ErrorKind::UnknownArgument if name.starts_with("--") => {
            let suggested = context(ContextKind::SuggestedArg);
            let suggested = suggested.split(['[', '=', ' ']).next().unwrap_or_default();
            format!("unknown flag: {name}{}", meant(suggested))
        }
        ErrorKind::UnknownArgument if name.starts_with('-') => {
            let letter = &name[1..];
            format!("unknown shorthand flag: '{letter}' in {name}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument {argument:?}"),
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {name}"),
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error);
            let reason = source.map_or_else(String::new, |source| format!(": {source}"));
            format!("invalid argument {value:?} for {name:?} flag{reason}")
        }
        ErrorKind::InvalidSubcommand => {
            let unknown = context(ContextKind::InvalidSubcommand);
            let path = path(command, arguments);
            // Short names are suggested as well, and help nobody.
            let suggested = match error.get(ContextKind::SuggestedSubcommand) {
                Some(ContextValue::Strings(names)) => names.iter().max_by_key(|name| name.len()),
                _ => None,
            };
            let suggested = suggested.filter(|name| name.len() + 1 >= unknown.len());
            let suggested = suggested.map_or_else(String::new, |name| meant(name));
            format!("unknown command {unknown:?} for {path:?}{suggested}")
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let lines = text.lines().take_while(|line| !line.is_empty());
            lines.map(str::trim).collect::<Vec<_>>().join(" ")
        }
    };
    let path = path(command, arguments);
    let takes_command = ["lock", "elect", "watch", "pop"]
        .iter()
        .any(|name| path.ends_with(name));
    let hint = if error.kind() == ErrorKind::UnknownArgument && takes_command {
        "Flags of the command to run stand behind a --. "
    } else {
        ""
    };
    Err(Failure::error(format!(
        "{text}\n{hint}Run '{path} --help' for usage."
    )))
}

fn meant(suggested: &str) -> String {
    if suggested.is_empty() {
        String::new()
    } else {
        format!("; did you mean {suggested}?")
    }
}

/// The command a command line means, as far as it names one.
fn path(command: &clap::Command, arguments: &[OsString]) -> String {
    let mut path = command.get_name().to_owned();
    let mut command = command;
    for argument in arguments.iter().skip(1) {
        if let Some(deeper) = command.find_subcommand(argument) {
            path = format!("{path} {}", deeper.get_name());
            command = deeper;
        }
    }
    path
}

/// Prints the flags that every command takes, those too that help leaves out.
fn options() -> Result<()> {
    let mut command = command_tree()
        .mut_args(|arg| arg.hide(false))
        .disable_help_subcommand(true)
        .help_template("The following options can be passed to any command:\n\n{options}\n");
    let help = command.render_long_help();
    output::print(help.to_string())
}
