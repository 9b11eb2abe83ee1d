//! What a member says over plain HTTP.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::net::{CLIENT_PORT, Place};
use crate::history::Member;

/// The longest that an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks a member for a page, as the observer: the status and the body of its answer.
///
/// # Errors
/// It does not answer within two seconds, or not in the words of HTTP.
pub async fn ask(member: Member, method: &str, path: &str) -> Result<(u16, String)> {
    let host = Place::Member(member).address().to_string();
    ask_as(member, method, path, &host).await
}

/// The same, with the name of another host in the request.
///
/// # Errors
/// As for [`ask`].
pub async fn ask_as(member: Member, method: &str, path: &str, host: &str) -> Result<(u16, String)> {
    let exchange = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Place::Observer.address(), 0).into())?;
        let to = (Place::Member(member).address(), CLIENT_PORT).into();
        let mut stream = socket.connect(to).await?;
        // The end of the answer is that of the connection, in this version.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(ANSWER, exchange).await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
