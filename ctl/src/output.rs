//! Answers, and the formats they are printed in.
//!
//! Each format is one module with one exhaustive `match` over [`Answer`], so that a new answer cannot be forgotten
//! by a format. The bytes are those of `etcdctl`: scripts read them.

mod fields;
mod json;
mod simple;
mod table;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use prost::Message;

pub use json::{Object, Value};

use crate::failure::{BAD_FEATURE, Failure, Result};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Simple,
    /// One line, in the shape of Go's structs: numbers are numbers, bytes are base64, zero fields are left out.
    Json,
    /// A line per field.
    Fields,
    /// A drawn table, for members and endpoints only.
    Table,
    /// The message of the wire.
    Protobuf,
}

/// The health of one endpoint.
#[derive(Debug)]
pub struct Health {
    /// Where it was asked.
    pub endpoint: String,
    /// How long it took.
    pub took: Duration,
    /// Why it is not healthy.
    pub error: Option<String>,
}

/// What there is to print.
#[derive(Debug)]
pub enum Answer<'a> {
    /// A change whose answer is only that it was made: its header, and the sentence for people.
    Done(Option<&'a pb::ResponseHeader>, String),
    /// Pairs.
    Get(&'a pb::RangeResponse),
    /// A pair was written.
    Put(&'a pb::PutResponse),
    /// Pairs were deleted.
    Delete(&'a pb::DeleteRangeResponse),
    /// A transaction.
    Txn(&'a pb::TxnResponse),
    /// Events of a watch.
    Watch(&'a pb::WatchResponse),
    /// A new lease.
    Grant(&'a pb::LeaseGrantResponse),
    /// A renewed lease.
    KeepAlive(&'a pb::LeaseKeepAliveResponse),
    /// What is left of a lease, with its keys where they were asked for.
    TimeToLive(&'a pb::LeaseTimeToLiveResponse, bool),
    /// All leases.
    Leases(&'a pb::LeaseLeasesResponse),
    /// A member was added: the answer, and the name it is to start under.
    MemberAdd(&'a pb::MemberAddResponse, &'a str),
    /// Members after a change, and the sentence for people.
    MembersChanged(&'a pb::MemberListResponse, String),
    /// Members.
    MemberList(&'a pb::MemberListResponse),
    /// Health of endpoints.
    Health(&'a [Health]),
    /// State of endpoints.
    Status(&'a [(String, pb::StatusResponse)]),
    /// Hashes of endpoints.
    HashKv(&'a [(String, pb::HashKvResponse)]),
    /// Alarms.
    Alarm(&'a pb::AlarmResponse),
    /// A step of a downgrade: its name and the answer.
    Downgrade(&'static str, &'a pb::DowngradeResponse),
    /// A role and what it permits.
    Role(&'a str, &'a pb::AuthRoleGetResponse),
    /// Names of roles.
    RoleList(&'a pb::AuthRoleListResponse),
    /// A user and its roles.
    User(&'a str, &'a pb::AuthUserGetResponse),
    /// Names of users.
    UserList(&'a pb::AuthUserListResponse),
    /// Whether authentication is on.
    AuthStatus(&'a pb::AuthStatusResponse),
}

/// Where answers go, and how.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    /// Bytes and ids in hexadecimal.
    hex: bool,
    /// Values without keys; only [`Format::Simple`] knows it.
    value_only: bool,
}

impl Output {
    /// In this format.
    pub fn new(format: Format, hex: bool) -> Self {
        Self {
            format,
            hex,
            value_only: false,
        }
    }

    /// In JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// For people.
    pub fn is_simple(&self) -> bool {
        self.format == Format::Simple
    }

    /// In which format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Values without keys.
    #[must_use]
    pub fn value_only(mut self) -> Self {
        self.value_only = true;
        self
    }

    /// Prints an answer at once.
    pub fn print(&self, answer: &Answer<'_>) -> Result<()> {
        let mut out = Vec::new();
        match self.format {
            Format::Simple => simple::write(&mut out, answer, self.hex, self.value_only),
            Format::Json => json::write(&mut out, answer, self.hex),
            Format::Fields => fields::write(&mut out, answer, self.hex),
            Format::Table => table::write(&mut out, answer)?,
            Format::Protobuf => protobuf(&mut out, answer)?,
        }
        print(&out)
    }
}

/// A column, and which side its cells are on.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// At the left.
    Text(&'static str),
    /// At the right.
    Number(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Text(title) | Self::Number(title) => title,
        }
    }
}

/// Prints what etcdctl does not know: a drawn table, or columns for people.
pub fn table_or_columns(output: &Output, columns: &[Column], rows: Vec<Vec<String>>) -> Result<()> {
    let mut out = Vec::new();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| on_one_line(cell)).collect())
        .collect();
    match output.format {
        Format::Table => {
            let titles: Vec<&str> = columns.iter().map(|column| column.title()).collect();
            table::draw(&mut out, &titles, &rows);
        }
        Format::Simple => table::columns(&mut out, columns, &rows),
        Format::Fields => return Err(unsupported("fields")),
        Format::Protobuf => return Err(unsupported("protobuf")),
        Format::Json => return Err(unsupported("json")),
    }
    print(&out)
}

/// Text of others, with its control characters written out: it must neither break a line nor steer a terminal.
pub fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Prints one line of JSON.
pub fn json_line(write: impl FnOnce(Value<'_>)) -> Result<()> {
    let mut out = Vec::new();
    write(Value(&mut out));
    out.push(b'\n');
    print(&out)
}

/// Writes to standard output at once.
///
/// # Errors
/// If that fails; silently where nobody reads any more.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(bytes.as_ref())
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::silent(crate::failure::ERROR),
        _ => Failure::error(format!("cannot print: {error}")),
    })
}

/// Writes a line to standard error. A closed one is nobody's concern.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn unsupported(format: &str) -> Failure {
    Failure::new(
        BAD_FEATURE,
        format!("{format} not supported as output format"),
    )
}

fn protobuf(out: &mut Vec<u8>, answer: &Answer<'_>) -> Result<()> {
    *out = match answer {
        // Any message that has nothing but a header.
        Answer::Done(header, _) => pb::LeaseRevokeResponse {
            header: header.copied(),
        }
        .encode_to_vec(),
        Answer::Get(answer) => answer.encode_to_vec(),
        Answer::Put(answer) => answer.encode_to_vec(),
        Answer::Delete(answer) => answer.encode_to_vec(),
        Answer::Txn(answer) => answer.encode_to_vec(),
        Answer::Watch(answer) => answer.encode_to_vec(),
        Answer::Grant(answer) => answer.encode_to_vec(),
        Answer::KeepAlive(answer) => answer.encode_to_vec(),
        Answer::TimeToLive(answer, _) => answer.encode_to_vec(),
        Answer::Leases(answer) => answer.encode_to_vec(),
        Answer::MemberAdd(answer, _) => answer.encode_to_vec(),
        Answer::MembersChanged(answer, _) => answer.encode_to_vec(),
        Answer::MemberList(answer) => answer.encode_to_vec(),
        Answer::Alarm(answer) => answer.encode_to_vec(),
        Answer::Downgrade(_, answer) => answer.encode_to_vec(),
        Answer::Role(_, answer) => answer.encode_to_vec(),
        Answer::RoleList(answer) => answer.encode_to_vec(),
        Answer::User(_, answer) => answer.encode_to_vec(),
        Answer::UserList(answer) => answer.encode_to_vec(),
        Answer::AuthStatus(answer) => answer.encode_to_vec(),
        Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => {
            return Err(unsupported("protobuf"));
        }
    };
    Ok(())
}

/// Adds formatted text to bytes.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {{
        use std::io::Write as _;
        // Memory takes everything.
        let _ = write!($out, $($text)*);
    }};
}

/// Adds formatted text and a line's end to bytes.
macro_rules! put_line {
    ($out:expr) => { $out.push(b'\n') };
    ($out:expr, $($text:tt)*) => {{
        $crate::output::put!($out, $($text)*);
        $out.push(b'\n');
    }};
}

pub(crate) use {put, put_line};
