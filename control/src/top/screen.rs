//! Draws. Without colour, what stands out is bold or reversed.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell as TableCell, Clear, Paragraph, Row, Table};

use super::model::Model;
use super::sheet::{Cell, Column};
use super::sheets::TABS;

const HELP: &str = "\
 1 to 6, Tab       ports, workers, flows, hosts, drops, classes
 < > or arrows     sort by another column
 r                 the other way round
 /                 show lines with a text alone; Esc shows all again
 j k PgUp PgDn     scroll; g to the top, G to the end
 p or space        pause
 h                 this; any key goes back
 q                 end

 Flows and hosts are those that move the most, of all workers'
 lists of 256 sessions. Hosts are those who began the sessions.";

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [summary, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let color = |color: Color| if model.has_color { Style::new().fg(color) } else { Style::new() };
    frame.render_widget(Line::from(model.summary.as_str()).style(color(Color::Cyan)), summary);
    frame.render_widget(tabs_line(model), tabs);
    table(frame, model, body);
    frame.render_widget(foot_line(model), foot);
    if model.wants_help {
        help(frame);
    }
}

fn tabs_line(model: &Model) -> Line<'static> {
    let mut spans = Vec::new();
    for (tab, name) in TABS.iter().enumerate() {
        let style =
            if tab == model.tab { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::styled(format!(" {} {name} ", tab + 1), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

fn foot_line(model: &Model) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let alarm = if model.has_color { bold.fg(Color::Red) } else { bold.add_modifier(Modifier::REVERSED) };
    if model.is_searching {
        return Line::styled(format!("/{}_", model.search), bold);
    }
    if let Some(trouble) = &model.trouble {
        let old = if model.has_news() { "what is above is old; " } else { "" };
        return Line::styled(format!("no answer, {old}trying again: {trouble}"), alarm);
    }
    if !model.has_news() {
        return Line::raw(format!("asking {} ...", model.socket));
    }
    let mut said = vec![Span::raw("h help  / search  < > sort  r reverse  p pause  q end")];
    if model.is_paused {
        said.push(Span::styled("  PAUSED", bold));
    }
    if !model.search.is_empty() {
        said.push(Span::styled(format!("  only /{}", model.search), bold));
    }
    Line::from(said)
}

fn table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let Some(sheet) = model.sheets.get(model.tab) else { return };
    let order = model.order();
    let rows = sheet.view(&model.search, order);
    model.room = usize::from(area.height).saturating_sub(1);
    model.from = model.from.min(rows.len().saturating_sub(model.room));
    if rows.is_empty() {
        let words = if sheet.rows.is_empty() { sheet.if_empty } else { "No line has that text." };
        let words = if model.has_news() { words } else { "" };
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let header = sheet.columns.iter().enumerate().map(|(index, column)| {
        let is_key = order.column == Some(index);
        let style = if is_key { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD };
        aligned(column.name, column).style(Style::new().add_modifier(style))
    });
    let cells = |row: &Vec<Cell>| {
        let cells = row.iter().zip(sheet.columns);
        Row::new(cells.map(|(cell, column)| aligned(&cell.text, column)).collect::<Vec<_>>())
    };
    let visible: Vec<_> = rows.into_iter().skip(model.from).take(model.room).map(cells).collect();
    let widths = sheet.columns.iter().map(|column| {
        if column.grows { Constraint::Min(column.width) } else { Constraint::Length(column.width) }
    });
    frame.render_widget(Table::new(visible, widths).header(Row::new(header.collect::<Vec<_>>())), area);
}

fn aligned(text: &str, column: &Column) -> TableCell<'static> {
    let alignment = if column.is_number { Alignment::Right } else { Alignment::Left };
    TableCell::from(Text::from(text.to_owned()).alignment(alignment))
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (68.min(area.width), 14.min(area.height));
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" sluice top ")), area);
}
