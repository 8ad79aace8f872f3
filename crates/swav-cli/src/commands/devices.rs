//! `swav devices`

use serde::Serialize;

use super::check;
use crate::args::Devices;
use crate::device::{Choice, all};
use crate::output::{print, print_json};

#[derive(Serialize)]
struct Row {
    device: String,
    name: String,
    accelerated: bool,
    default: bool,
}

/// Lists the devices there are, and the one that `auto` takes; or checks one.
pub fn devices(args: &Devices) -> anyhow::Result<()> {
    if args.check {
        return check::check(args);
    }
    let best = Choice::Auto.open()?;
    let rows: Vec<Row> = all()
        .into_iter()
        .map(|found| Row {
            device: found.choice.to_string(),
            default: found.choice == best.choice,
            accelerated: found.accelerated,
            name: found.name,
        })
        .collect();
    if args.json {
        return print_json(&rows);
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let mark = if row.default { "  (auto)" } else { "" };
            format!("{:<8} {}{mark}", row.device, row.name)
        })
        .collect();
    print(&lines.join("\n"))
}
