//! One file of HTML: the template, its style and its script, the charts' library, and the data.
//!
//! Whatever comes from files (names, classes, settings) is data in JSON, and the script writes it as text,
//! never as markup. The page fetches nothing, and its policy forbids it to.

use serde::Serialize;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::Report;
use super::content::Content;
use super::curves::Curves;
use swav_train::Plan;
use swav_train::TrainError;

const TEMPLATE: &str = include_str!("../../../../assets/report/report.html");
const STYLE: &str = include_str!("../../../../assets/report/report.css");
const SCRIPT: &str = concat!(
    include_str!("../../../../assets/report/script/tools.js"),
    include_str!("../../../../assets/report/script/theme.js"),
    include_str!("../../../../assets/report/script/overview.js"),
    include_str!("../../../../assets/report/script/curves.js"),
    include_str!("../../../../assets/report/script/images.js"),
    include_str!("../../../../assets/report/script/gallery.js"),
    include_str!("../../../../assets/report/script/map.js"),
    include_str!("../../../../assets/report/script/neighbours.js"),
    include_str!("../../../../assets/report/script/settings.js"),
);
const CHARTS: &str = include_str!("../../../../assets/report/uPlot.iife.min.js");
const CHARTS_LICENCE: &str = include_str!("../../../../assets/report/uPlot.LICENSE");
const CHARTS_STYLE: &str = include_str!("../../../../assets/report/uPlot.min.css");

/// What the script is given.
#[derive(Serialize)]
struct Data<'a> {
    version: &'static str,
    run: String,
    plan: &'a Plan,
    /// `plan.toml` as it lies in the run.
    toml: String,
    method: String,
    parameters: u64,
    chance: Option<f64>,
    curves: &'a Curves,
    look: Option<&'a Content>,
}

/// The whole page.
pub(super) fn render(
    report: &Report<'_>,
    curves: &Curves,
    look: Option<&Content>,
) -> Result<String, TrainError> {
    let path = std::path::absolute(report.run.path()).map_err(TrainError::io(report.run.path()))?;
    let path = path.as_path();
    let broken = |error: String| TrainError::checkpoint(path, error);
    let data = Data {
        version: env!("CARGO_PKG_VERSION"),
        run: path.display().to_string(),
        plan: report.plan,
        toml: toml::to_string_pretty(report.plan).map_err(|error| broken(error.to_string()))?,
        method: report.plan.method.describe(),
        parameters: report.plan.model.parameters(),
        chance: report.chance,
        curves,
        look,
    };
    let data = serde_json::to_string(&data).map_err(|error| broken(error.to_string()))?;
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    let parts = [
        ("{{title}}", escaped(&name)),
        ("{{charts-style}}", CHARTS_STYLE.to_string()),
        ("{{style}}", STYLE.to_string()),
        ("{{charts-licence}}", CHARTS_LICENCE.to_string()),
        ("{{charts}}", CHARTS.to_string()),
        ("{{data}}", harmless(&data)),
        ("{{script}}", SCRIPT.to_string()),
    ];
    Ok(filled(TEMPLATE, &parts))
}

/// `template` with each place that a part names filled once, in the order of the parts.
fn filled(template: &str, parts: &[(&str, String)]) -> String {
    let room = parts.iter().map(|(_, part)| part.len()).sum::<usize>();
    let mut page = String::with_capacity(template.len() + room);
    let mut rest = template;
    for (place, part) in parts {
        let Some((before, after)) = rest.split_once(place) else {
            unreachable!("the template has a place {place}")
        };
        page.push_str(before);
        page.push_str(part);
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Text within HTML.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// JSON within a script element, which nothing in it can close: only strings have these characters.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace("\u{2028}", "\\u2028")
        .replace("\u{2029}", "\\u2029")
}

/// Numbers as the bytes of a typed array of the script's, in base64.
#[derive(Debug, Serialize)]
pub(super) enum Packed {
    #[serde(rename = "u8")]
    Bytes(String),
    #[serde(rename = "u16")]
    Shorts(String),
    #[serde(rename = "u32")]
    Words(String),
}

impl Packed {
    pub(super) fn u16(values: impl IntoIterator<Item = u16>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(u16::to_le_bytes).collect();
        Self::Shorts(encoded(&bytes))
    }

    pub(super) fn u32(values: impl IntoIterator<Item = u32>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(u32::to_le_bytes).collect();
        Self::Words(encoded(&bytes))
    }

    /// Numbers from 0 to 1 in 255ths; what is outside is brought inside.
    pub(super) fn share(values: impl IntoIterator<Item = f32>) -> Self {
        let byte = |value: f32| (255.0 * value).round().clamp(0.0, 255.0) as u8;
        let bytes: Vec<u8> = values.into_iter().map(byte).collect();
        Self::Bytes(encoded(&bytes))
    }
}

/// Bytes as base64.
pub(super) fn encoded(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_can_leave_its_place() {
        assert_eq!(escaped("<b a=\"&\">"), "&lt;b a=&quot;&amp;&quot;&gt;");
        let json = serde_json::to_string("</script><script>alert(1)//{{data}}").unwrap();
        let inside = harmless(&json);
        assert!(!inside.contains('<'));
        let back: String = serde_json::from_str(&inside).unwrap();
        assert_eq!(back, "</script><script>alert(1)//{{data}}");
        let parts = [("{{a}}", "{{b}}".to_string()), ("{{b}}", "x".to_string())];
        assert_eq!(filled("{{a}} {{b}}", &parts), "{{b}} x");
    }

    #[test]
    fn the_template_has_a_place_for_every_part_in_their_order() {
        let places = [
            "{{title}}",
            "{{charts-style}}",
            "{{style}}",
            "{{charts-licence}}",
            "{{charts}}",
            "{{data}}",
            "{{script}}",
        ];
        let mut rest = TEMPLATE;
        for place in places {
            assert_eq!(TEMPLATE.matches(place).count(), 1, "{place}");
            rest = rest.split_once(place).unwrap().1;
        }
        for (what, text) in [("style", STYLE), ("script", SCRIPT), ("charts", CHARTS)] {
            assert!(
                !text.contains("</script") && !text.contains("</style"),
                "{what}"
            );
        }
    }
}
