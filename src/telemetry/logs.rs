//! Structured logs: one subscriber for the process, on standard error.
//!
//! Promise: [`init`] never panics and may be called again (the first call holds; the embedded library's host may have
//! its own subscriber). What libraries say through the crate `log` is in it: the storage engine gives the reason why one of its threads
//! failed nowhere else. Lines are text for a person or one JSON object each; standard output stays free for answers.
//! A span opened by [`request_span`] puts `request_id` on every line below it. Called by the command line; a simulation
//! does not call it.

use std::io::IsTerminal;

use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Crates whose lines below `warn` tell a reader of our logs nothing; a directive of the filter overrides it.
const QUIET: [&str; 5] = ["h2=warn", "hyper=warn", "tower=warn", "fjall=warn", "lsm_tree=warn"];

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// [`Style::Text`] where standard error is a terminal, [`Style::Json`] otherwise.
    #[default]
    Auto,
    /// One line for a person; coloured on a terminal.
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, `message`, the fields, and those of the spans around.
    Json,
}

/// Whether [`init`] installed the subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// By this call.
    Now,
    /// By an earlier call or by the host program; nothing was changed.
    Before,
}

/// Says whether `filter` (a level, or directives such as `info,vectorsphere::raft=debug`) is well formed.
///
/// # Errors
/// The parser's reason.
pub fn check_filter(filter: &str) -> Result<(), String> {
    parse_filter(filter).map(|_| ())
}

/// Installs the process's log subscriber. A filter that is not well formed falls back to `info` with a warning; the
/// configuration refuses such a filter earlier, with its origin.
pub fn init(filter: &str, style: Style) -> Installed {
    let parsed = parse_filter(filter);
    let complaint = parsed.as_ref().err().cloned();
    let filter = parsed.unwrap_or_else(|_| with_quiet("info"));
    let terminal = std::io::stderr().is_terminal();
    let layer = layer(style, terminal, std::io::stderr);
    let installed = match tracing_subscriber::registry().with(filter).with(layer).try_init() {
        Ok(()) => Installed::Now,
        Err(_) => Installed::Before,
    };
    if let Some(reason) = complaint {
        tracing::warn!(reason, "log filter not understood, using info");
    }
    installed
}

/// The span of one request; lines inside carry its id.
pub fn request_span(request_id: &str) -> Span {
    tracing::info_span!("request", request_id)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    let filter = filter.trim();
    if filter.is_empty() {
        return Err("it is empty".to_owned());
    }
    for directive in filter.split(',').map(str::trim) {
        // The parser takes a lone word as a target at level trace; here it is meant as a level, and a misspelt level
        // must not turn the log into one of everything.
        // An empty directive parses as a level, too.
        let is_level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
        if !is_level && !directive.contains('=') {
            return Err(format!("{directive:?} is neither error, warn, info, debug, trace or off nor TARGET=LEVEL"));
        }
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    Ok(with_quiet(filter))
}

/// `filter` with the crates of [`QUIET`] held back, unless it names them itself. Later directives of a target win, so
/// ours stand first. `filter` is known to be well formed.
fn with_quiet(filter: &str) -> EnvFilter {
    EnvFilter::new(format!("{},{filter}", QUIET.join(",")))
}

fn layer<S, W>(style: Style, terminal: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let text = match style {
        Style::Auto => terminal,
        Style::Text => true,
        Style::Json => false,
    };
    let base = tracing_subscriber::fmt::layer().with_writer(writer);
    if text {
        Box::new(base.with_ansi(terminal).with_target(true))
    } else {
        Box::new(base.json().flatten_event(true).with_current_span(false).with_span_list(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style, terminal: bool, filter: &str, work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let filter = parse_filter(filter).expect("a good filter");
        let layer = layer(style, terminal, move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(layer), work);
        let bytes = memory.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_json_line_carries_fields_and_the_request_id() {
        let text = logged(Style::Json, true, "info", || {
            let _in_request = request_span("req-7").entered();
            tracing::info!(rows = 3, "stored");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
        assert_eq!(line["message"], "stored");
        assert_eq!(line["rows"], 3);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["spans"][0]["request_id"], "req-7");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn auto_is_text_on_a_terminal_and_json_elsewhere() {
        let say = || tracing::info!("hello");
        let piped = logged(Style::Auto, false, "info", say);
        assert!(serde_json::from_str::<serde_json::Value>(piped.trim()).is_ok(), "{piped}");
        let terminal = logged(Style::Auto, true, "info", say);
        assert!(terminal.contains("hello") && !terminal.starts_with('{'), "{terminal}");
        let text = logged(Style::Text, false, "info", say);
        assert!(text.contains("hello") && !text.contains('\u{1b}'), "no colours in a pipe: {text}");
    }

    #[test]
    fn the_filter_decides_and_library_chatter_is_held_back() {
        let chatter = || {
            tracing::debug!("ours");
            tracing::info!(target: "h2", "frame");
            tracing::warn!(target: "h2", "broken");
        };
        let text = logged(Style::Text, false, "debug", chatter);
        assert!(text.contains("ours") && text.contains("broken") && !text.contains("frame"), "{text}");
        let text = logged(Style::Text, false, "info,h2=info", chatter);
        assert!(text.contains("frame") && !text.contains("ours"), "{text}");
    }

    #[test]
    fn what_libraries_say_through_log_is_heard() {
        // The bridge is the process's, and installed once.
        init("info", Style::Json);
        let libraries = || {
            log::error!(target: "fjall::worker_pool", "Worker #0 crashed");
            log::info!(target: "fjall::db", "Opening");
        };
        let text = logged(Style::Text, false, "info", libraries);
        assert!(text.contains("ERROR fjall::worker_pool: Worker #0 crashed"), "{text}");
        assert!(!text.contains("Opening"), "{text}");
    }

    #[test]
    fn a_misspelt_level_is_no_filter() {
        for good in ["info", "WARN", "off", "info,vectorsphere::raft=debug", "a=trace"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["", "inf", "verbose", "info,", "a=loud", "info,raft"] {
            assert!(check_filter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn init_twice_and_with_nonsense_does_no_harm() {
        let first = init("not a filter", Style::Json);
        assert_eq!(init("info", Style::Text), Installed::Before, "after {first:?}");
    }
}
