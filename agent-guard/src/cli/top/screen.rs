//! How `top` looks.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row as TableRow, Table},
};

use super::model::{Model, Order, Row};

/// Less than this holds nothing of use.
const LEAST: (u16, u16) = (30, 6);

/// Columns from which on policy, mode and cgroup are shown.
const WIDE: u16 = 80;

/// Rows of recent denials, where there is room for them.
const DENIALS: u16 = 8;

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return frame.render_widget(Paragraph::new("too small"), area);
    }
    let denials = if area.height >= 3 * DENIALS { DENIALS } else { area.height / 3 };
    let parts = [
        Constraint::Length(2),
        Constraint::Min(1),
        Constraint::Length(denials),
        Constraint::Length(1),
    ];
    let [head, rows, recent, foot] = Layout::vertical(parts).areas(area);
    frame.render_widget(Paragraph::new(summary(model)), head);
    table(frame, model, rows);
    let heading = match model.missed {
        0 => Line::styled("RECENT DENIALS", Modifier::BOLD),
        missed => Line::styled(format!("RECENT DENIALS ({missed} came too fast)"), Modifier::BOLD),
    };
    let lines = model.denials.iter().map(|line| Line::raw(line.as_str()));
    let lines: Vec<Line<'_>> = [heading].into_iter().chain(lines).collect();
    frame.render_widget(Paragraph::new(lines), recent);
    frame.render_widget(Paragraph::new(keys(model)), foot);
}

fn alarm(model: &Model) -> Style {
    let style = Style::new().add_modifier(Modifier::BOLD);
    if model.has_colour { style.fg(Color::Red) } else { style }
}

fn summary(model: &Model) -> Vec<Line<'_>> {
    let status = &model.status;
    let (decided, denied) = model.rates();
    let lost: u64 = status.counts.iter().map(|hook| hook.counts.lost).sum();
    let first = match (&model.gone, &status.broken, status.canary_stopped) {
        (Some(why), ..) => Line::styled(why.as_str(), alarm(model)),
        (None, Some(why), _) => Line::styled(format!("NOT IN FORCE: {why}"), alarm(model)),
        (None, None, false) => Line::styled("THE CANARY WAS NOT STOPPED", alarm(model)),
        (None, None, true) => Line::raw(format!(
            "tier {}, {} under guard, {} refused, {} policies",
            status.tier, status.agents, status.refused, status.policies
        )),
    };
    let second = format!("{decided:.1} decisions/s, {denied:.1} denials/s, {lost} events lost");
    let style = if lost > 0 { alarm(model) } else { Style::new() };
    vec![first, Line::styled(second, style)]
}

fn table(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let is_wide = area.width >= WIDE;
    let head: &[&str] = match is_wide {
        true => &["AGENT", "DEC/S", "DEN/S", "LOST", "POLICY", "MODE", "CGROUP"],
        false => &["AGENT", "DEC/S", "DEN/S", "LOST"],
    };
    let all = [
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Fill(3),
    ];
    let row = |row: &&Row| {
        let agent = &row.agent;
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let cells = [
            agent.name.clone(),
            format!("{:.1}", row.decided),
            format!("{:.1}", row.denied),
            agent.lost.to_string(),
            or_none(&agent.policy),
            or_none(&agent.mode),
            agent.cgroup.clone(),
        ];
        let style = if agent.problem.is_some() { alarm(model) } else { Style::new() };
        TableRow::new(cells.into_iter().take(head.len())).style(style)
    };
    let head_row = TableRow::new(head.iter().copied()).style(Modifier::BOLD);
    let rows = model.rows();
    let widths = all.into_iter().take(head.len());
    frame.render_widget(Table::new(rows.iter().map(row), widths).header(head_row), area);
}

fn keys(model: &Model) -> Line<'_> {
    if model.is_typing {
        return Line::styled(format!("filter: {}_", model.filter), Modifier::REVERSED);
    }
    let order = match model.order {
        Order::Denied => "denials",
        Order::Decided => "decisions",
        Order::Lost => "losses",
        Order::Name => "name",
    };
    let paused = if model.is_paused { "PAUSED " } else { "" };
    let filter = match model.filter.as_str() {
        "" => String::new(),
        filter => format!(" [{filter}]"),
    };
    let text = format!("{paused}s by {order}  / filter{filter}  p pause  q quit");
    Line::styled(text, Modifier::REVERSED)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    };

    use super::*;
    use crate::{
        cli::top::feed::News,
        daemon::view::{Agent, Status},
    };

    fn agent(name: &str, decided: u64, denied: u64) -> Agent {
        Agent {
            name: name.to_owned(),
            cgroup: format!("/agents/{name}"),
            policy: Some("p".to_owned()),
            mode: Some("enforce".to_owned()),
            decided,
            denied,
            ..Agent::default()
        }
    }

    fn model() -> Model {
        let mut model = Model::new(false);
        let status = Status {
            tier: "lsm".to_owned(),
            agents: 2,
            policies: 1,
            canary_stopped: true,
            ..Status::default()
        };
        let start = Instant::now();
        for (second, agents) in [
            (0, vec![agent("one", 10, 0), agent("two", 10, 0)]),
            (2, vec![agent("one", 30, 0), agent("two", 14, 3)]),
        ] {
            let (at, status) = (start + Duration::from_secs(second), Box::new(status.clone()));
            model.take(News::Look { at, status, agents });
        }
        model.take(News::Denial("two  Read  /secret".to_owned()));
        model
    }

    fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|row| row.concat().trim_end().to_owned()).collect()
    }

    fn press(model: &mut Model, keys: &str) {
        for key in keys.chars() {
            let code = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
            model.press(KeyEvent::new(code, KeyModifiers::NONE));
        }
    }

    #[test]
    fn a_screen_shows_what_happens_now() {
        let expected = [
            "tier lsm, 2 under guard, 0 refused, 1 policies",
            "12.0 decisions/s, 1.5 denials/s, 0 events lost",
            "AGENT          DEC/S    DEN/S    LOST     POLICY   MODE    CGROUP",
            "two            2.0      1.5      0        p        enforce /agents/two",
            "one            10.0     0.0      0        p        enforce /agents/one",
            "",
            "",
            "RECENT DENIALS",
            "two  Read  /secret",
            "",
            "",
            "s by denials  / filter  p pause  q quit",
        ];
        assert_eq!(screen(&model(), 80, 12), expected);
    }

    #[test]
    fn a_narrow_screen_shows_less_and_a_tiny_one_says_so() {
        let expected = [
            "tier lsm, 2 under guard, 0 refused, 1 po",
            "12.0 decisions/s, 1.5 denials/s, 0 event",
            "AGENT         DEC/S    DEN/S    LOST",
            "two           2.0      1.5      0",
            "one           10.0     0.0      0",
            "RECENT DENIALS",
            "two  Read  /secret",
            "s by denials  / filter  p pause  q quit",
        ];
        assert_eq!(screen(&model(), 40, 8), expected);
        assert_eq!(screen(&model(), 10, 2), ["too small", ""]);
    }

    #[test]
    fn keys_sort_filter_pause_and_quit() {
        let mut model = model();
        press(&mut model, "s");
        assert_eq!(model.rows()[0].agent.name, "one");
        press(&mut model, "/tw\n");
        assert_eq!(model.rows().len(), 1);
        assert!(screen(&model, 80, 12)[11].starts_with("s by decisions  / filter [tw]"));
        press(&mut model, "p");
        model.take(News::Denial("three".to_owned()));
        assert_eq!(model.denials.len(), 1);
        assert!(screen(&model, 80, 12)[11].starts_with("PAUSED"));
        assert!(!model.has_quit());
        press(&mut model, "q");
        assert!(model.has_quit());
    }

    #[test]
    fn what_is_amiss_stands_first_and_red_only_where_colours_are_wanted() {
        for has_colour in [false, true] {
            let mut model = model();
            model.has_colour = has_colour;
            model.take(News::Gone("no daemon answers".to_owned()));
            let mut terminal = Terminal::new(TestBackend::new(80, 12)).unwrap();
            terminal.draw(|frame| draw(frame, &model)).unwrap();
            let first = &terminal.backend().buffer()[(0, 0)];
            assert_eq!(first.symbol(), "n");
            assert_eq!(first.fg == Color::Red, has_colour);
        }
    }
}
