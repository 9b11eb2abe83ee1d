//! Tables, drawn or as lines.

use baton_proto::etcdserverpb as pb;

use super::{Answer, Column, Health, put, put_line, unsupported};
use crate::failure::Result;
use crate::go;

/// Titles and rows.
type Table = (&'static [&'static str], Vec<Vec<String>>);

pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>) -> Result<()> {
    let (titles, rows) = match answer {
        Answer::MemberList(answer) => members(answer),
        Answer::Health(answer) => health(answer),
        Answer::Status(answer) => status(answer),
        Answer::HashKv(answer) => hash_kv(answer),
        _ => return Err(unsupported("table")),
    };
    draw(out, titles, &rows);
    Ok(())
}

pub(super) fn members(answer: &pb::MemberListResponse) -> Table {
    let rows = answer.members.iter().map(|member| {
        let started = if member.name.is_empty() {
            "unstarted"
        } else {
            "started"
        };
        vec![
            format!("{:x}", member.id),
            started.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    });
    (
        &[
            "ID",
            "STATUS",
            "NAME",
            "PEER ADDRS",
            "CLIENT ADDRS",
            "IS LEARNER",
        ],
        rows.collect(),
    )
}

fn health(answer: &[Health]) -> Table {
    let rows = answer.iter().map(|health| {
        vec![
            health.endpoint.clone(),
            health.error.is_none().to_string(),
            go::duration(health.took),
            health.error.clone().unwrap_or_default(),
        ]
    });
    (&["ENDPOINT", "HEALTH", "TOOK", "ERROR"], rows.collect())
}

pub(super) fn status(answer: &[(String, pb::StatusResponse)]) -> Table {
    let rows = answer.iter().map(|(endpoint, status)| {
        let member = status.header.unwrap_or_default().member_id;
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let size = |bytes: i64| go::bytes(u64::try_from(bytes).unwrap_or(0));
        let in_use = status.db_size_in_use.saturating_mul(100) / status.db_size.max(1);
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            size(status.db_size),
            size(status.db_size_in_use),
            format!("{}%", 100 - in_use),
            size(status.db_size_quota),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version.clone(),
            downgrade.enabled.to_string(),
        ]
    });
    (
        &[
            "ENDPOINT",
            "ID",
            "VERSION",
            "STORAGE VERSION",
            "DB SIZE",
            "IN USE",
            "PERCENTAGE NOT IN USE",
            "QUOTA",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
            "DOWNGRADE TARGET VERSION",
            "DOWNGRADE ENABLED",
        ],
        rows.collect(),
    )
}

pub(super) fn hash_kv(answer: &[(String, pb::HashKvResponse)]) -> Table {
    let rows = answer.iter().map(|(endpoint, hash)| {
        vec![
            endpoint.clone(),
            hash.hash.to_string(),
            hash.hash_revision.to_string(),
        ]
    });
    (&["ENDPOINT", "HASH", "HASH REVISION"], rows.collect())
}

/// Columns for people; the last one ends where its text does.
pub(super) fn columns(out: &mut Vec<u8>, columns: &[Column], rows: &[Vec<String>]) {
    let titles: Vec<String> = columns
        .iter()
        .map(|column| column.title().to_owned())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]);
        let widths = cells.map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in [&titles].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&widths).zip(columns) {
            let cell = match column {
                Column::Text(_) => format!("{cell:<width$}  "),
                Column::Number(_) => format!("{cell:>width$}  "),
            };
            line.push_str(&cell);
        }
        put_line!(out, "{}", line.trim_end());
    }
}

/// Draws titles in the middle and cells at the right.
pub(super) fn draw(out: &mut Vec<u8>, titles: &[&str], rows: &[Vec<String>]) {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().map(|row| width(&row[column]));
            cells.max().unwrap_or(0).max(width(title))
        })
        .collect();
    let rule = |out: &mut Vec<u8>| {
        for width in &widths {
            put!(out, "+{:-<1$}", "", width + 2);
        }
        put_line!(out, "+");
    };
    rule(out);
    for (title, width) in titles.iter().zip(&widths) {
        put!(out, "| {title:^width$} ");
    }
    put_line!(out, "|");
    rule(out);
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            put!(out, "| {cell:>width$} ");
        }
        put_line!(out, "|");
    }
    if !rows.is_empty() {
        rule(out);
    }
}
