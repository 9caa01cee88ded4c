//! `sluice top`: how a running gateway does, on the whole screen, over the API alone.
//!
//! One thread asks, once a second; the other shows, and listens to the keyboard. Each gets along without the other: a gateway that
//! hangs or is gone leaves a screen that can still be scrolled and left, and that says so.

mod ask;
mod model;
mod screen;
mod sheet;
mod sheets;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::model::Model;

/// How long it is waited for a key before news of the gateway is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How it is shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// Time between two looks at the gateway.
    pub interval: Duration,
}

/// Shows, until the user has enough. The terminal is as it was then, whatever ended it.
///
/// # Errors
/// In words: no terminal, or it fails.
pub fn run(options: &Options) -> Result<(), String> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("`sluice top` wants a terminal; `sluice show counters --watch` writes to anything".into());
    }
    let ends = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, ends.clone())
            .map_err(|error| format!("cannot install signal handlers: {error}"))?;
    }
    // It sets a hook besides that restores the terminal before a panic is printed.
    let mut terminal =
        ratatui::try_init().map_err(|error| format!("the terminal does not serve: {error}"))?;
    let result = show(&mut terminal, options, &ends);
    ratatui::restore();
    result.map_err(|error| format!("the terminal does not serve: {error}"))
}

fn show(terminal: &mut ratatui::DefaultTerminal, options: &Options, ends: &AtomicBool) -> io::Result<()> {
    let has_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut model = Model::new(options.socket.display().to_string(), has_color);
    let asker = ask::Asker::start(options.socket.clone(), options.interval)?;
    let mut is_stale = true;
    while !ends.load(Relaxed) && !model.wants_end() {
        if is_stale {
            terminal.draw(|frame| screen::draw(frame, &mut model))?;
            is_stale = false;
        }
        if event::poll(LOOK)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => model.key(key),
                _ => {}
            }
            is_stale = true;
        }
        asker.by_packets(model.wants_packets());
        while let Some(news) = asker.news() {
            model.take(news);
            is_stale = true;
        }
    }
    Ok(())
}
