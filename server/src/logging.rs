//! The log: one line for each event, as a JSON object with zap's names or as words for people.
//!
//! A part that logs never waits for whoever reads the log: lines go through a bounded queue to a
//! thread that writes them, and are dropped and counted when a reader has stopped reading.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::config::{Log, LogFormat, LogLevel, LogOutput};

/// Lines that wait for a reader before new ones are dropped.
const QUEUE_LINES_MAX: usize = 8192;
/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queues of all outputs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logging {
    queues: Arc<[Arc<Queue>]>,
}

impl Logging {
    /// Waits until everything logged so far is written, or for a second.
    pub fn flush(&self) {
        for queue in self.queues.iter() {
            queue.flush(FLUSH_TIMEOUT);
        }
    }
}

/// Starts logging for the whole process, panics included.
///
/// # Errors
/// An output cannot be opened, or the process logs already.
pub fn start(log: &Log) -> io::Result<Logging> {
    let queues = log
        .outputs
        .iter()
        .map(open)
        .collect::<io::Result<Vec<_>>>()?;
    let logging = Logging {
        queues: queues.into(),
    };
    let lines = Lines {
        format: log.format,
        own_max: own_max(log.level),
        foreign_max: foreign_max(log.level),
        logging: logging.clone(),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines))
        .map_err(io::Error::other)?;
    let at_panic = logging.clone();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(
            location = panic.location().map(tracing::field::display),
            backtrace = %std::backtrace::Backtrace::capture(),
            "panic: {}",
            panic.payload_as_str().unwrap_or("of unknown cause")
        );
        at_panic.flush();
    }));
    Ok(logging)
}

fn open(output: &LogOutput) -> io::Result<Arc<Queue>> {
    let sink: Box<dyn Write + Send> = match output {
        LogOutput::Stderr => Box::new(io::stderr()),
        LogOutput::Stdout => Box::new(io::stdout()),
        LogOutput::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(file.map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot open the log file {}: {error}", path.display()),
                )
            })?)
        }
    };
    Queue::start(sink)
}

fn own_max(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// Libraries say much that only matters to who debugs them.
fn foreign_max(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::INFO,
        LogLevel::Info | LogLevel::Warn => LevelFilter::ERROR,
        LogLevel::Error => LevelFilter::OFF,
    }
}

/// Turns events into lines.
struct Lines {
    format: LogFormat,
    own_max: LevelFilter,
    foreign_max: LevelFilter,
    logging: Logging,
}

fn is_own(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("baton")
}

/// What a library calls an error is one only if the part that uses it says so too.
fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR if is_own(metadata) => "error",
        Level::ERROR | Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let max = if is_own(metadata) {
            self.own_max
        } else {
            self.foreign_max
        };
        metadata.is_event() && *metadata.level() <= max
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own_max)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line(self.format, event, &timestamp());
        for queue in self.logging.queues.iter() {
            queue.push(line.clone());
        }
    }
}

fn line(format: LogFormat, event: &Event<'_>, timestamp: &str) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let level = level_name(metadata);
    let caller = caller(metadata);
    match format {
        LogFormat::Json => {
            let mut line = format!(
                "{{\"level\":\"{level}\",\"ts\":\"{timestamp}\",\"caller\":{},\"msg\":{}",
                json(&caller),
                json(&fields.message)
            );
            for (name, value) in &fields.others {
                let _ = write!(line, ",{}:{value}", json(name));
            }
            line.push_str("}\n");
            line
        }
        LogFormat::Text => {
            let mut line = format!("{timestamp} {level:5} {caller} {}", fields.message);
            for (name, value) in &fields.others {
                let _ = write!(line, " {name}={value}");
            }
            // One event, one line, whatever a message quotes.
            let mut line = line.replace('\n', "\\n");
            line.push('\n');
            line
        }
    }
}

/// File and line, with the directory the file is in.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], metadata.line().unwrap_or(0))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}

/// The message, and the other fields with their values as JSON.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<serde_json::Value>) {
        self.others.push((field.name(), value.into()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.add(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[allow(clippy::disallowed_methods)] // Only people and their tools read it; nothing acts on it.
fn timestamp() -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format_timestamp(since_epoch)
}

/// ISO 8601 in UTC with microseconds.
fn format_timestamp(since_epoch: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / DAY_SECONDS);
    let of_day = seconds % DAY_SECONDS;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_micros()
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // Years are counted from March on, so that the leap day is the last of its year.
    let days = days_since_epoch + 719_468;
    let era = days / DAYS_IN_400_YEARS;
    let of_era = days % DAYS_IN_400_YEARS;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 {
        months_from_march + 3
    } else {
        months_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Lines on their way to one output.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    pushed: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    dropped: u64,
    is_writing: bool,
}

impl Queue {
    /// Starts the thread that writes to `sink`.
    #[allow(clippy::disallowed_methods)] // Writing blocks when the reader does; no one waits for it.
    fn start(sink: Box<dyn Write + Send>) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let writer = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.write_to(sink))?;
        Ok(queue)
    }

    /// Never waits for the writer.
    fn push(&self, line: String) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() < QUEUE_LINES_MAX {
            waiting.lines.push_back(line);
            self.pushed.notify_one();
        } else {
            waiting.dropped += 1;
        }
    }

    fn write_to(&self, mut sink: Box<dyn Write + Send>) {
        loop {
            let (lines, dropped) = {
                let mut waiting = self.waiting.lock();
                waiting.is_writing = false;
                self.written.notify_all();
                while waiting.lines.is_empty() {
                    self.pushed.wait(&mut waiting);
                }
                waiting.is_writing = true;
                (
                    std::mem::take(&mut waiting.lines),
                    std::mem::take(&mut waiting.dropped),
                )
            };
            // A closed output is no reason to stop: it may be one of several.
            for line in lines {
                let _ = sink.write_all(line.as_bytes());
            }
            let _ = sink.flush();
            if dropped > 0 {
                metrics::counter!("baton_log_lines_dropped_total").increment(dropped);
                tracing::warn!(dropped, "log lines were dropped: the reader was too slow");
            }
        }
    }

    fn flush(&self, timeout: Duration) {
        let mut waiting = self.waiting.lock();
        while waiting.is_writing || !waiting.lines.is_empty() {
            if self.written.wait_for(&mut waiting, timeout).timed_out() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Collects lines instead of writing them.
    struct Collect(LogFormat, Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.1
                .lock()
                .push(line(self.0, event, "2026-01-02T03:04:05.000006Z"));
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let lines = Arc::default();
        let collect = Collect(format, Arc::clone(&lines));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(collect), log);
        let lines = lines.lock();
        assert_eq!(lines.len(), 1);
        lines[0].clone()
    }

    #[test]
    fn a_json_line_has_zaps_fields_and_then_its_own() {
        let line = logged(LogFormat::Json, || {
            tracing::info!(port = 7, ok = true, name = "a\"b", "ready");
        });
        let caller = line.find("\"caller\":\"src/logging.rs:");
        assert!(caller.is_some(), "{line}");
        assert!(line.starts_with("{\"level\":\"info\",\"ts\":\"2026-01-02T03:04:05.000006Z\""));
        assert!(line.ends_with("\"msg\":\"ready\",\"port\":7,\"ok\":true,\"name\":\"a\\\"b\"}\n"));
    }

    #[test]
    fn a_text_line_is_one_line_whatever_it_quotes() {
        let line = logged(LogFormat::Text, || tracing::warn!(port = 7, "two\nlines"));
        assert!(line.ends_with(" two\\nlines port=7\n"), "{line}");
        assert!(line.starts_with("2026-01-02T03:04:05.000006Z warn  src/logging.rs:"));
    }

    #[test]
    fn what_a_library_calls_an_error_is_logged_as_a_warning() {
        let line = logged(LogFormat::Json, || {
            tracing::error!(target: "some_library", "oh no");
        });
        assert!(line.starts_with("{\"level\":\"warn\""));
    }

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(format_timestamp(Duration::from_secs(seconds)), text);
        }
    }

    /// Reports each write, then waits until it may return.
    struct Stuck(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.1.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stopped_reading_costs_lines_but_never_blocks_the_logger() {
        let (written, writes) = mpsc::channel();
        let (go_on, gate) = mpsc::channel();
        let queue = Queue::start(Box::new(Stuck(written, gate))).unwrap();
        queue.push("first\n".to_owned());
        assert_eq!(writes.recv().unwrap(), b"first\n");
        for _ in 0..QUEUE_LINES_MAX + 3 {
            queue.push("more\n".to_owned());
        }
        assert_eq!(queue.waiting.lock().dropped, 3);
        drop(go_on);
    }
}
