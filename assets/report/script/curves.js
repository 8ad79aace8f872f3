// Charts of what was written down while training.

/** The mean of each value and those around it, a fortieth of the curve. */
function smoothed(column) {
  const reach = Math.max(2, Math.round(column.length / 80));
  return column.map((_, i) => {
    const near = column.slice(Math.max(0, i - Math.min(i, reach)), i + Math.min(reach, column.length - 1 - i, i) + 1).filter((value) => value !== null);
    return near.length ? near.reduce((a, b) => a + b, 0) / near.length : null;
  });
}

/** One chart: `lines` of { values, faint?, dashed?, points?, label? } over `x`. */
function chart(title, x, lines, { format = number, wide = false, reading = 0, from } = {}) {
  const output = el("output");
  const box = el("div");
  const card = el("div", { className: wide ? "chart wide" : "chart" },
    el("div", { className: "chart-head" }, el("h3", {}, title), output), box);
  at("charts").append(card);
  const height = wide ? 280 : 190;
  let plot;
  const tell = (i) => {
    const values = lines[reading].values;
    const place = i ?? values.findLastIndex((value) => value !== null);
    output.textContent = place < 0 ? "" : `epoch ${number(x[place])} · ${format(values[place])}`;
  };
  const draw = () => {
    plot?.destroy();
    const [ink, grid, accent, muted] = ["--muted", "--line", "--accent", "--muted"].map(css);
    const axis = { stroke: ink, font: "12px system-ui, sans-serif", grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    plot = new uPlot({
      width: box.clientWidth || 340, height,
      legend: { show: false },
      cursor: { sync: { key: "epochs" }, points: { size: 7 }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: from === undefined ? {} : { range: (u, low, high) => [Math.min(from, low), high > from ? high * 1.05 : from + 1] } },
      axes: [{ ...axis, size: 30 }, { ...axis, size: 58, values: (u, ticks) => ticks.map(format) }],
      series: [{}, ...lines.map((line) => ({
        stroke: line.dashed ? muted : line.faint ? `${accent}55` : accent,
        width: line.faint ? 1 : line.dashed ? 1.2 : 2, dash: line.dashed ? [5, 5] : undefined,
        spanGaps: true, points: { show: Boolean(line.points), size: 6, fill: accent },
      }))],
      hooks: { setCursor: [(u) => tell(u.cursor.idx)] },
    }, [x, ...lines.map((line) => line.values)], box);
    tell(null);
  };
  draw();
  redraw.push(draw);
  new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height })).observe(box);
}

(function training() {
  const x = steps.epoch;
  if (!x?.length && !knn.epoch?.length) {
    at("training-note").textContent = plan.train.steps === 0
      ? "The network was not trained: there are no curves."
      : "Nothing has been written down yet; the curves appear with the first logged step.";
    return;
  }
  const constant = (value) => x.map(() => value);
  if (x?.length) {
    const many = x.length > 60;
    const lines = many
      ? [{ values: steps.loss, faint: true }, { values: smoothed(steps.loss) }]
      : [{ values: steps.loss, points: x.length < 3 }];
    if (data.chance) lines.push({ values: constant(data.chance), dashed: true });
    const chance = !data.chance ? "" : heads.length && Math.abs(data.chance - Math.log(heads[0])) < 1e-6
      ? `, dashed: chance, ln ${whole(heads[0])} = ${number(data.chance)}` : `, dashed: chance, ${number(data.chance)}`;
    chart(`Loss${chance}`, x, lines, { wide: true, reading: many ? 1 : 0 });
    at("training-note").textContent = `${plural(curves.logged, "logged step")} over ${number(last(x))} epochs. ` +
      "Drag over a chart to look closer, double-click to see all of it.";
  }
  if (knn.epoch?.length) {
    chart("kNN accuracy", knn.epoch, [{ values: knn.knn, points: true }], { format: (v) => v === null || v === undefined ? "–" : percent(v) });
  }
  if (!x?.length) return;
  chart("Learning rate", x, [{ values: steps.lr }], { from: 0 });
  const known = new Set(["step", "epoch", "loss", "lr", "images_per_s", "wait_share", "spread", "bad_files"]);
  const line = (values) => x.length > 60 ? [{ values, faint: true }, { values: smoothed(values) }] : [{ values, points: x.length < 3 }];
  const reading = x.length > 60 ? 1 : 0;
  for (const [name, values] of Object.entries(steps)) {
    if (known.has(name)) continue;
    const lines = line(values);
    let title = capital(spoken(name));
    if (heads.length && name === "code_entropy") {
      lines.push({ values: constant(Math.log(heads[0])), dashed: true });
      title += `, dashed: uniform, ln ${whole(heads[0])}`;
    }
    if (heads.length && name === "used_prototypes") {
      lines.push({ values: constant(heads[0]), dashed: true });
      title = `Prototypes in use in a batch, of ${whole(heads[0])}`;
    }
    chart(title, x, lines, { reading, from: 0 });
  }
  chart("Spread of the embeddings, 0 is collapse", x, line(steps.spread), { reading, from: 0 });
  chart("Images a second", x, line(steps.images_per_s), { reading, from: 0 });
  if (last(steps.bad_files) > 0) chart("Corrupt files met", x, [{ values: steps.bad_files }], { from: 0 });
  if (curves.trained_s > 0) {
    const waited = curves.waited_s / curves.trained_s;
    const part = (share, paint) => el("i", { style: { width: `${100 * share}%`, background: paint } });
    const key = (paint, text) => el("span", {}, el("span", { className: "dot", style: { color: paint } }), text);
    at("charts").append(el("div", { className: "chart" },
      el("div", { className: "chart-head" }, el("h3", {}, "Where the time of a step goes"), el("output", {}, duration(curves.trained_s))),
      el("div", { className: "share" }, part(1 - waited, "var(--accent)"), part(waited, "var(--bad)")),
      el("div", { className: "keys" },
        key("var(--accent)", `computing ${percent(1 - waited)}, ${duration(curves.trained_s - curves.waited_s)}`),
        key("var(--bad)", `waiting for data ${percent(waited)}, ${duration(curves.waited_s)}`))));
  }
})();
