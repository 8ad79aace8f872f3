//! `swav devices --check`: does a device compute right, and how fast?
//!
//! The check runs in a process of its own, once for each way of running operations, and reports line by line: a driver that
//! crashes then ends a part of the check, and the report says in which case.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use swav_train::TrainError;
use swav_train::check::{Exactness, Extent, Finding, Speed, compare, speeds};

use crate::args::Devices;
use crate::device::{Choice, Found, reference};
use crate::output::{print, print_json};

/// With this variable set to 0, Burn looks for no operations to fuse.
const FUSION: &str = "BURN_FUSION_MAX_EXPLORATIONS";

/// How a device runs operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// As they come; there is no other way on this device.
    Plain,
    /// Fused where Burn can.
    Fused,
    /// One by one.
    Unfused,
}

/// What the process that computes tells the one that reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Begun(String),
    Found(Row),
    Timed(Timing),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    ok: bool,
    /// The largest relative error; none where a value was not finite.
    error: Option<f64>,
    bound: f64,
    result: String,
}

impl From<&Finding> for Row {
    fn from(finding: &Finding) -> Self {
        Self {
            name: finding.name.clone(),
            ok: finding.is_ok(),
            error: finding.error.is_finite().then_some(finding.error),
            bound: finding.bound,
            result: finding.result.clone(),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let verdict = if self.ok { "ok" } else { "NOT OK" };
        let error = match self.error {
            Some(error) => format!("{error:.1e}"),
            None => "not finite".to_string(),
        };
        let culprit = match self.ok {
            true => String::new(),
            false => format!("  ({}, allowed {:.0e})", self.result, self.bound),
        };
        format!("  {verdict:<7} {error:>10}  {}{culprit}", self.name)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Timing {
    name: String,
    seconds: f64,
    images_per_s: f64,
}

impl From<&Speed> for Timing {
    fn from(speed: &Speed) -> Self {
        Self {
            name: speed.name.clone(),
            seconds: speed.seconds,
            images_per_s: speed.images as f64 / speed.seconds,
        }
    }
}

impl Timing {
    fn line(&self) -> String {
        let (seconds, rate) = (self.seconds * 1e3, self.images_per_s);
        format!("  {seconds:>10.1} ms  {rate:>9.0} images/s  {}", self.name)
    }
}

/// What came of one way.
#[derive(Debug, Serialize)]
struct Part {
    way: Way,
    ok: bool,
    findings: Vec<Row>,
    speeds: Vec<Timing>,
    /// If the process did not come to its end: how it ended, and in which case.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

#[derive(Serialize)]
struct Report {
    device: String,
    name: String,
    ok: bool,
    parts: Vec<Part>,
}

/// Checks a device and reports.
pub fn check(args: &Devices) -> anyhow::Result<()> {
    let found = args.device.open()?;
    if args.worker {
        return compute(&found, args.planted.as_deref());
    }
    let ways: &[Way] = match found.choice {
        Choice::Cpu => &[Way::Plain],
        _ => &[Way::Fused, Way::Unfused],
    };
    let mut report = Report {
        device: found.choice.to_string(),
        name: found.name.clone(),
        ok: true,
        parts: Vec::new(),
    };
    for &way in ways {
        if !args.json {
            print(&heading(&found, way))?;
        }
        let part = part(args, &found, way)?;
        report.ok &= part.ok;
        report.parts.push(part);
    }
    if args.json {
        print_json(&report)?;
    }
    if report.ok {
        return Ok(());
    }
    Err(TrainError::Device(format!(
        "{} ({}) does not compute right: see what is not ok above, and do not train on it. An older or newer driver may \
         help; --device cpu always works",
        found.choice, found.name
    ))
    .into())
}

fn heading(found: &Found, way: Way) -> String {
    let way = match way {
        Way::Plain => "",
        Way::Fused => ", operations fused",
        Way::Unfused => ", operations one by one",
    };
    format!("{} {}{way}", found.choice, found.name)
}

/// Runs one way in a process of its own.
fn part(args: &Devices, found: &Found, way: Way) -> anyhow::Result<Part> {
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = Command::new(program);
    command
        .args(["devices", "--check", "--worker", "--device"])
        .arg(found.choice.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(case) = &args.planted {
        command.args(["--planted", case]);
    }
    if way == Way::Unfused {
        command.env(FUSION, "0");
    }
    let mut child = command.spawn().context("cannot start the program itself")?;
    let mut part = Part {
        way,
        ok: true,
        findings: Vec::new(),
        speeds: Vec::new(),
        failure: None,
    };
    let mut current = "the start".to_string();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            match serde_json::from_str(&line?) {
                Ok(Line::Begun(name)) => current = name,
                Ok(Line::Found(row)) => {
                    part.ok &= row.ok;
                    say(args, &row.line())?;
                    part.findings.push(row);
                }
                Ok(Line::Timed(timing)) => {
                    say(args, &timing.line())?;
                    part.speeds.push(timing);
                }
                // Whatever a driver prints.
                Err(_) => {}
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let failure = format!("{} in: {current}", ended(status));
        say(args, &format!("  NOT OK  {failure}"))?;
        part.ok = false;
        part.failure = Some(failure);
    }
    Ok(part)
}

fn say(args: &Devices, line: &str) -> anyhow::Result<()> {
    match args.json {
        true => Ok(()),
        false => print(line),
    }
}

/// How a process ended.
fn ended(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("the driver crashed (signal {signal})");
    }
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "ended".to_string(),
    }
}

/// Computes and tells, line by line.
fn compute(found: &Found, planted: Option<&str>) -> anyhow::Result<()> {
    let exactness = match found.choice {
        Choice::Cuda(_) => Exactness::Tensor,
        _ => Exactness::Single,
    };
    let extent = match found.choice {
        Choice::Wgpu(_) if !found.accelerated => Extent::Slim,
        _ => Extent::Full,
    };
    let reference = reference(found);
    let mut told = Ok(());
    let mut tell = |name: &str, finding: Option<&Finding>| {
        let line = match finding {
            None => Line::Begun(name.to_string()),
            Some(finding) => Line::Found(finding.into()),
        };
        if told.is_ok() {
            told = print_json_line(&line);
        }
    };
    let findings = compare(
        &found.device,
        &reference,
        (exactness, extent),
        planted,
        &mut tell,
    )?;
    if findings.iter().all(Finding::is_ok) {
        print_json_line(&Line::Begun("timing".to_string()))?;
        for speed in speeds(&found.device, extent)? {
            print_json_line(&Line::Timed((&speed).into()))?;
        }
    }
    told
}

fn print_json_line(line: &Line) -> anyhow::Result<()> {
    print(&serde_json::to_string(line)?)
}
