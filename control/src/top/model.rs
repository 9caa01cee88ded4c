//! What is shown, and what keys change of it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::ask::{Answers, News};
use super::sheet::{Order, Sheet};
use super::sheets::{FLOWS, HOSTS, TABS, sheets, summary};

/// The state of the screen.
pub(super) struct Model {
    /// Where the gateway is asked.
    pub(super) socket: String,
    pub(super) has_color: bool,
    pub(super) tab: usize,
    pub(super) sheets: [Sheet; TABS.len()],
    pub(super) summary: String,
    /// Why there is no news.
    pub(super) trouble: Option<String>,
    pub(super) orders: [Order; TABS.len()],
    /// The first row that is shown.
    pub(super) from: usize,
    /// Rows that the screen has room for; it says so when it is drawn.
    pub(super) room: usize,
    pub(super) search: String,
    pub(super) is_searching: bool,
    pub(super) is_paused: bool,
    pub(super) wants_help: bool,
    ends: bool,
    last: Option<Answers>,
}

impl Model {
    pub(super) fn new(socket: String, has_color: bool) -> Self {
        let by = |column| Order { column: Some(column), reversed: false };
        Self {
            socket,
            has_color,
            tab: 0,
            sheets: Default::default(),
            summary: String::new(),
            trouble: None,
            orders: [Order::default(), Order::default(), by(3), by(3), by(1), Order::default()],
            from: 0,
            room: 0,
            search: String::new(),
            is_searching: false,
            is_paused: false,
            wants_help: false,
            ends: false,
            last: None,
        }
    }

    pub(super) fn wants_end(&self) -> bool {
        self.ends
    }

    /// Whether flows or hosts are shown by packets.
    pub(super) fn wants_packets(&self) -> bool {
        let column = self.orders.get(self.tab).and_then(|order| order.column);
        matches!((self.tab, column), (FLOWS, Some(4)) | (HOSTS, Some(4 | 5)))
    }

    pub(super) fn has_news(&self) -> bool {
        self.last.is_some()
    }

    pub(super) fn take(&mut self, news: News) {
        match news {
            Ok(answers) => {
                self.trouble = None;
                let before = self.last.replace(answers);
                if let (false, Some(now)) = (self.is_paused, &self.last) {
                    let before = before.as_ref().unwrap_or(now);
                    self.sheets = sheets(now, before);
                    self.summary = summary(now, before);
                }
            }
            Err(trouble) => {
                self.trouble = Some(trouble);
                // What comes then may be another gateway's, that counts from nothing.
                self.last = self.last.take().map(|last| Answers { counters: Default::default(), ..last });
            }
        }
    }

    pub(super) fn sheet(&self) -> Option<&Sheet> {
        self.sheets.get(self.tab)
    }

    pub(super) fn order(&self) -> Order {
        self.orders.get(self.tab).copied().unwrap_or_default()
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && key.code == KeyCode::Char('c') {
            self.ends = true;
        } else if self.is_searching {
            self.search_key(key.code);
        } else if self.wants_help {
            self.wants_help = false;
        } else if !is_control {
            self.command(key.code);
        }
    }

    fn search_key(&mut self, code: KeyCode) {
        self.from = 0;
        match code {
            KeyCode::Enter => self.is_searching = false,
            KeyCode::Esc => {
                self.is_searching = false;
                self.search.clear();
            }
            KeyCode::Backspace => drop(self.search.pop()),
            KeyCode::Char(letter) => self.search.push(letter),
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) {
        let page = self.room.max(1);
        let columns = self.sheet().map_or(0, |sheet| sheet.columns.len());
        match code {
            KeyCode::Char('q') => self.ends = true,
            KeyCode::Esc => self.search.clear(),
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.wants_help = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => {
                self.is_searching = true;
                self.search.clear();
            }
            KeyCode::Char(digit @ '1'..='6') => self.go_to(digit as usize - '1' as usize),
            KeyCode::Tab => self.go_to((self.tab + 1) % TABS.len()),
            KeyCode::BackTab => self.go_to((self.tab + TABS.len() - 1) % TABS.len()),
            KeyCode::Right | KeyCode::Char('>' | 's') => self.sort_by(1, columns),
            KeyCode::Left | KeyCode::Char('<') => self.sort_by(columns, columns),
            KeyCode::Char('r') => {
                if let Some(order) = self.orders.get_mut(self.tab) {
                    order.reversed = !order.reversed;
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.from += 1,
            KeyCode::Up | KeyCode::Char('k') => self.from = self.from.saturating_sub(1),
            KeyCode::PageDown => self.from += page,
            KeyCode::PageUp => self.from = self.from.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => self.from = 0,
            KeyCode::End | KeyCode::Char('G') => self.from = usize::MAX / 2,
            _ => {}
        }
    }

    fn go_to(&mut self, tab: usize) {
        (self.tab, self.from) = (tab, 0);
    }

    /// Sorts by a column further on; behind the last one, rows stay as they come.
    fn sort_by(&mut self, steps: usize, columns: usize) {
        if let Some(order) = self.orders.get_mut(self.tab) {
            // The place behind the last column is none.
            let at = (order.column.unwrap_or(columns) + steps) % (columns + 1);
            *order = Order { column: (at < columns).then_some(at), reversed: false };
        }
    }
}
