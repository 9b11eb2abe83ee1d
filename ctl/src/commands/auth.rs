//! Users, roles, and whether they count.

use std::ffi::OsString;
use std::io::BufRead;

use baton_client::prefix_end;
use baton_proto::authpb;
use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use clap::{Args, Subcommand};

use super::{bytes, range_start, text};
use crate::cli::Context;
use crate::failure::{Failure, Result};
use crate::go;
use crate::output::{self, Answer};
use crate::terminal;

/// Whether users and roles count
#[derive(Debug, Subcommand)]
pub enum Auth {
    /// From now on, only users may do what their roles permit
    Enable {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Everybody may do everything
    Disable {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Tell which it is
    Status {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
}

impl Auth {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (name, arguments) = match &self {
            Self::Enable { arguments } => ("enable", arguments),
            Self::Disable { arguments } => ("disable", arguments),
            Self::Status { arguments } => ("status", arguments),
        };
        if !arguments.is_empty() {
            let text = format!("auth {name} command does not accept any arguments");
            return Err(Failure::arguments(text));
        }
        match self {
            Self::Enable { .. } => {
                enable(context).await?;
                output::print("Authentication Enabled\n")
            }
            Self::Disable { .. } => {
                context.client.auth_disable().await?;
                output::print("Authentication Disabled\n")
            }
            Self::Status { .. } => {
                let answer = context.client.auth_status().await?;
                context.output.print(&Answer::AuthStatus(&answer))
            }
        }
    }
}

/// Gives the user root its role first, if that is all that is missing.
async fn enable(context: &Context) -> Result<()> {
    let client = &context.client;
    match client.auth_enable().await {
        Err(error) if is_refused_as(&error, "etcdserver: root user does not have root role") => {}
        enabled => return Ok(enabled.map(|_| ())?),
    }
    match client.role_add("root").await {
        Err(error) if !is_refused_as(&error, "etcdserver: role name already exists") => {
            return Err(error.into());
        }
        _ => {}
    }
    client.user_grant_role("root", "root").await?;
    client.auth_enable().await?;
    Ok(())
}

fn is_refused_as(error: &baton_client::Error, text: &str) -> bool {
    error
        .refusal()
        .is_some_and(|refusal| refusal.message == text)
}

/// Users
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  batonctl user add alice                      asks for a password
  batonctl user grant-role alice readers
  batonctl user get alice --detail")]
pub enum User {
    Add(UserAdd),
    /// Delete a user
    #[command(override_usage = "batonctl user delete <NAME>")]
    Delete {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Tell the roles of a user
    #[command(override_usage = "batonctl user get [options] <NAME>")]
    Get {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
        /// And what they permit
        #[arg(long)]
        detail: bool,
    },
    /// List the users
    List {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Change the password of a user
    #[command(override_usage = "batonctl user passwd [options] <NAME>")]
    Passwd {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
        /// Ask on the terminal; with =false, read it from standard input
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go::parse_bool, action = clap::ArgAction::Set)]
        interactive: bool,
    },
    /// Give a role to a user
    #[command(override_usage = "batonctl user grant-role <NAME> <ROLE>")]
    GrantRole {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Take a role away from a user
    #[command(override_usage = "batonctl user revoke-role <NAME> <ROLE>")]
    RevokeRole {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
}

/// Add a user
#[derive(Args, Debug)]
#[command(override_usage = "batonctl user add [options] <NAME or NAME:PASSWORD>")]
pub struct UserAdd {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
    /// Ask on the terminal; with =false, read it from standard input
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = go::parse_bool, action = clap::ArgAction::Set)]
    interactive: bool,
    /// The password
    #[arg(long, default_value = "", hide_default_value = true)]
    new_user_password: String,
    /// Known by a certificate only
    #[arg(long)]
    no_password: bool,
}

fn one<'a>(arguments: &'a [OsString], problem: &str) -> Result<&'a str> {
    match arguments {
        [argument] => text(argument),
        _ => Err(Failure::arguments(problem)),
    }
}

fn two<'a>(arguments: &'a [OsString], problem: &str) -> Result<(&'a str, &'a str)> {
    match arguments {
        [first, second] => Ok((text(first)?, text(second)?)),
        _ => Err(Failure::arguments(problem)),
    }
}

impl UserAdd {
    async fn run(self, context: &Context) -> Result<()> {
        let name = one(
            &self.arguments,
            "user add command requires user name as its argument",
        )?;
        let (name, password) = if self.no_password {
            (name, String::new())
        } else if !self.new_user_password.is_empty() {
            (name, self.new_user_password.clone())
        } else if let Some((name, password)) = name.split_once(':') {
            if name.is_empty() {
                return Err(Failure::arguments("empty user name is not allowed"));
            }
            (name, password.to_owned())
        } else {
            (name, new_password(name, self.interactive)?)
        };
        let password = (!self.no_password).then_some(password);
        let answer = context.client.user_add(name, password).await?;
        let text = format!("User {name} created");
        let header = answer.header.as_ref();
        context.output.print(&Answer::Done(header, text))
    }
}

/// A password, asked for twice, or the first word of standard input.
fn new_password(name: &str, interactive: bool) -> Result<String> {
    if !interactive {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let word = line.split_whitespace().next();
        return Ok(word.unwrap_or_default().to_owned());
    }
    let password = terminal::ask(&format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    let again = terminal::ask(&format!("Type password of {name} again for confirmation: "))?;
    if password != again {
        return Err(Failure::arguments("given passwords are different"));
    }
    Ok(password)
}

impl User {
    pub async fn run(self, context: &Context) -> Result<()> {
        let client = &context.client;
        let done = |header: Option<&pb::ResponseHeader>, text: String| {
            context.output.print(&Answer::Done(header, text))
        };
        match self {
            Self::Add(add) => add.run(context).await,
            Self::Delete { arguments } => {
                let name = one(
                    &arguments,
                    "user delete command requires user name as its argument",
                )?;
                let answer = client.user_delete(name).await?;
                done(answer.header.as_ref(), format!("User {name} deleted"))
            }
            Self::Get { arguments, detail } => {
                let name = one(
                    &arguments,
                    "user get command requires user name as its argument",
                )?;
                get_user(context, name, detail).await
            }
            Self::List { arguments } => {
                if !arguments.is_empty() {
                    return Err(Failure::arguments(
                        "user list command requires no arguments",
                    ));
                }
                let answer = client.user_list().await?;
                context.output.print(&Answer::UserList(&answer))
            }
            Self::Passwd {
                arguments,
                interactive,
            } => {
                let name = one(
                    &arguments,
                    "user passwd command requires user name as its argument",
                )?;
                let password = new_password(name, interactive)?;
                let answer = client.user_change_password(name, password).await?;
                done(answer.header.as_ref(), "Password updated".to_owned())
            }
            Self::GrantRole { arguments } => {
                let (user, role) = two(
                    &arguments,
                    "user grant command requires user name and role name as its argument",
                )?;
                let answer = client.user_grant_role(user, role).await?;
                let text = format!("Role {role} is granted to user {user}");
                done(answer.header.as_ref(), text)
            }
            Self::RevokeRole { arguments } => {
                let (name, role) = two(
                    &arguments,
                    "user revoke-role requires user name and role name as its argument",
                )?;
                let answer = client.user_revoke_role(name, role).await?;
                let text = format!("Role {role} is revoked from user {name}");
                done(answer.header.as_ref(), text)
            }
        }
    }
}

async fn get_user(context: &Context, name: &str, detail: bool) -> Result<()> {
    let answer = context.client.user_get(name).await?;
    if !detail {
        return context.output.print(&Answer::User(name, &answer));
    }
    output::print(format!("User: {name}\n"))?;
    for role in &answer.roles {
        output::print("\n")?;
        get_role(context, role).await?;
    }
    Ok(())
}

async fn get_role(context: &Context, name: &str) -> Result<()> {
    let answer = context.client.role_get(name).await?;
    context.output.print(&Answer::Role(name, &answer))
}

/// Roles, and what they permit
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  batonctl role add readers
  batonctl role grant-permission readers read --prefix config/
  batonctl role get readers")]
pub enum Role {
    /// Add a role
    #[command(override_usage = "batonctl role add <ROLE>")]
    Add {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Delete a role
    #[command(override_usage = "batonctl role delete <ROLE>")]
    Delete {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Tell what a role permits
    #[command(override_usage = "batonctl role get <ROLE>")]
    Get {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// List the roles
    List {
        #[arg(hide = true)]
        arguments: Vec<OsString>,
    },
    /// Let a role read, write or readwrite a key or a range of keys
    #[command(
        override_usage = "batonctl role grant-permission [options] <ROLE> <read|write|readwrite> <KEY> [RANGE_END]"
    )]
    GrantPermission(Permission),
    /// Take a permission away, with the key and the range it was given for
    #[command(
        override_usage = "batonctl role revoke-permission [options] <ROLE> <KEY> [RANGE_END]"
    )]
    RevokePermission(Permission),
}

/// On which keys.
#[derive(Args, Debug)]
pub struct Permission {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
    /// All keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// All keys from KEY on, in the order of bytes
    #[arg(long)]
    from_key: bool,
}

impl Permission {
    fn range(&self, key: &[OsString]) -> Result<(Bytes, Bytes)> {
        if self.prefix && self.from_key {
            return Err(Failure::arguments(
                "--from-key and --prefix flags are mutually exclusive",
            ));
        }
        let (start, end) = match key {
            [key] => (bytes(key), None),
            [key, end, ..] => (bytes(key), Some(bytes(end))),
            [] => return Err(Failure::arguments("no key is given")),
        };
        let open = Bytes::from_static(b"\0");
        match end {
            Some(_) if self.prefix => Err(Failure::arguments(
                "unexpected endkey argument with --prefix flag",
            )),
            Some(_) if self.from_key => Err(Failure::arguments(
                "unexpected endkey argument with --from-key flag",
            )),
            Some(end) => Ok((range_start(start), end)),
            None if self.from_key || self.prefix && start.is_empty() => {
                Ok((range_start(start), open))
            }
            None if self.prefix => {
                let end = prefix_end(&start);
                Ok((start, end))
            }
            None => Ok((range_start(start), Bytes::new())),
        }
    }
}

impl Role {
    pub async fn run(self, context: &Context) -> Result<()> {
        let client = &context.client;
        let done = |header: Option<&pb::ResponseHeader>, text: String| {
            context.output.print(&Answer::Done(header, text))
        };
        match self {
            Self::Add { arguments } => {
                let name = one(
                    &arguments,
                    "role add command requires role name as its argument",
                )?;
                let answer = client.role_add(name).await?;
                done(answer.header.as_ref(), format!("Role {name} created"))
            }
            Self::Delete { arguments } => {
                let name = one(
                    &arguments,
                    "role delete command requires role name as its argument",
                )?;
                let answer = client.role_delete(name).await?;
                done(answer.header.as_ref(), format!("Role {name} deleted"))
            }
            Self::Get { arguments } => {
                let name = one(
                    &arguments,
                    "role get command requires role name as its argument",
                )?;
                get_role(context, name).await
            }
            Self::List { arguments } => {
                if !arguments.is_empty() {
                    return Err(Failure::arguments(
                        "role list command requires no arguments",
                    ));
                }
                let answer = client.role_list().await?;
                context.output.print(&Answer::RoleList(&answer))
            }
            Self::GrantPermission(permission) => {
                let [role, kind, key @ ..] = &permission.arguments[..] else {
                    return Err(Failure::arguments(GRANT_NEEDS));
                };
                if key.is_empty() {
                    return Err(Failure::arguments(GRANT_NEEDS));
                }
                let (role, kind) = (text(role)?, text(kind)?);
                let perm_type = authpb::permission::Type::from_str_name(&kind.to_uppercase())
                    .ok_or_else(|| {
                        Failure::arguments(format!("invalid permission type: {kind}"))
                    })?;
                let (key, range_end) = permission.range(key)?;
                let permitted = authpb::Permission {
                    perm_type: perm_type.into(),
                    key,
                    range_end,
                };
                let answer = client.role_grant_permission(role, permitted).await?;
                done(answer.header.as_ref(), format!("Role {role} updated"))
            }
            Self::RevokePermission(permission) => {
                let [role, key @ ..] = &permission.arguments[..] else {
                    return Err(Failure::arguments(REVOKE_NEEDS));
                };
                if key.is_empty() {
                    return Err(Failure::arguments(REVOKE_NEEDS));
                }
                let role = text(role)?;
                let (start, range_end) = permission.range(key)?;
                let what = revoked(&bytes(&key[0]), &range_end);
                let answer = client.role_revoke_permission(role, start, range_end);
                let answer = answer.await?;
                let text = format!("Permission of {what} is revoked from role {role}");
                done(answer.header.as_ref(), text)
            }
        }
    }
}

const GRANT_NEEDS: &str =
    "role grant command requires role name, permission type, and key [endkey] as its argument";
const REVOKE_NEEDS: &str =
    "role revoke-permission command requires role name and key [endkey] as its argument";

fn revoked(key: &[u8], end: &[u8]) -> String {
    let key = String::from_utf8_lossy(key);
    match end {
        b"" => format!("key {key}"),
        b"\0" => format!("range [{key}, <open ended>"),
        end => format!("range [{key}, {})", String::from_utf8_lossy(end)),
    }
}
