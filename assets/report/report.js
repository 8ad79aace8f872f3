// Draws the report from the data that lies in the page. Whatever came from files is set as text.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const { plan, curves, look } = data;
const at = (id) => document.getElementById(id);
const root = document.documentElement;
const NONE16 = 0xffff, NONE32 = 0xffffffff;

// --- Small tools -------------------------------------------------------------------------------

/** An element with properties and children; strings become text. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "style") Object.assign(node.style, value);
    else if (key.startsWith("aria-")) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** Numbers from base64, as a typed array. */
function unpack(packed) {
  const [[kind, text]] = Object.entries(packed);
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return { u8: (b) => b, u16: (b) => new Uint16Array(b.buffer), u32: (b) => new Uint32Array(b.buffer) }[kind](bytes);
}

const whole = (n) => Math.round(n).toLocaleString("en-US");
const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;
const spoken = (name) => name.replaceAll("_", " ");
const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function number(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "–";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(2);
  return size >= 100 ? whole(x) : String(+x.toPrecision(4));
}

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

const last = (column) => column?.findLast((value) => value !== null);
const isDark = () => root.dataset.theme === "dark";

// --- Light and dark ----------------------------------------------------------------------------

const redraw = []; // what depends on colours
function store(key, value) {
  try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
}
function setTheme(theme) {
  root.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "☀" : "☾";
  redraw.forEach((draw) => draw());
}
const preferred = matchMedia("(prefers-color-scheme: dark)");
setTheme(store("swav-theme") ?? (preferred.matches ? "dark" : "light"));
preferred.addEventListener("change", (event) => store("swav-theme") || setTheme(event.matches ? "dark" : "light"));
function toggleTheme() {
  setTheme(isDark() ? "light" : "dark");
  store("swav-theme", root.dataset.theme);
}
at("theme").addEventListener("click", toggleTheme);
document.addEventListener("keydown", (event) => {
  const typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
  if (event.key === "t" && !typing && !event.ctrlKey && !event.metaKey) toggleTheme();
  if (event.key === "/" && !typing && look?.gallery) { event.preventDefault(); at("gallery-search").focus(); }
});

/** Colours of kinds: ten that are told apart at a glance, then ever more hues. */
const TEN = ["#4e79a7", "#f28e2b", "#e15759", "#2fa8a0", "#59a14f", "#d9b429", "#b07aa1", "#ff8fa3", "#9c755f", "#8d95a3"];
function colour(kind, kinds) {
  if (kinds <= TEN.length) return TEN[kind];
  const hue = (kind * 137.508) % 360;
  return `hsl(${hue.toFixed(1)} ${[70, 55, 80][kind % 3]}% ${(isDark() ? [62, 72, 54] : [45, 58, 36])[(kind >> 1) % 3]}%)`;
}

// --- Overview ----------------------------------------------------------------------------------

const runName = data.run.split(/[\\/]/).filter(Boolean).pop() ?? data.run;
const steps = curves.steps, knn = curves.knn;
const done = last(steps.step) ?? look?.step ?? 0;
const heads = plan.model.prototypes;

(function overview() {
  at("run-name").textContent = runName;
  at("title").textContent = runName;
  const width = plan.model.backbone.width === 1 ? "" : ` × ${plan.model.backbone.width}`;
  const crops = plan.crops.map((crop) => `${crop.count}×${crop.size}`).join(" + ");
  at("subtitle").textContent = `${plan.method.name} (${data.method}) · ${plan.model.backbone.name}${width}, ` +
    `${(data.parameters / 1e6).toFixed(data.parameters < 1e6 ? 2 : 1)} M weights · crops ${crops} · ` +
    `${plural(plan.data.images, "image")} · step ${whole(done)} of ${whole(plan.train.steps)}`;
  const figure = (value, what) => at("figures").append(el("div", { className: "figure" }, el("b", {}, value), el("span", {}, what)));
  const loss = last(steps.loss);
  if (loss !== undefined) figure(number(loss), data.chance ? `loss, chance is ${number(data.chance)}` : "loss");
  const accuracy = last(knn.knn);
  if (accuracy !== undefined) figure(percent(accuracy), `kNN accuracy, k = ${last(knn.k)}`);
  if (look?.gallery) figure(`${look.gallery.prototypes - look.gallery.dead} / ${look.gallery.prototypes}`, "prototypes in use");
  if (look) figure(whole(look.images), look.images < look.of ? `of ${whole(look.of)} images looked at` : "images looked at");
  if (curves.trained_s > 0) {
    figure(whole(done * plan.train.batch_size / curves.trained_s), "images a second");
    figure(duration(curves.trained_s), "of training steps");
  }
  at("footer").textContent = `swav ${data.version} · ${data.run}`;
  const parts = [...document.querySelectorAll("main section[aria-labelledby]")];
  queueMicrotask(() => {
    for (const part of parts.filter((part) => !part.hidden)) {
      const name = part.id === "crops" ? "Crops" : part.querySelector("h2").textContent.replace("Nearest n", "N");
      at("nav").append(el("a", { href: `#${part.id}` }, name));
    }
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) at("nav").querySelector(`[href="#${entry.target.id}"]`)?.classList.toggle("here", entry.isIntersecting);
    }, { rootMargin: "-30% 0px -65% 0px" });
    parts.forEach((part) => watcher.observe(part));
  });
})();

// --- Curves ------------------------------------------------------------------------------------

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

// --- Images ------------------------------------------------------------------------------------

const images = look && (() => {
  const labels = unpack(look.labels), tiles = unpack(look.pictures.tiles);
  const { tile, across, down, sheets } = look.pictures;
  const perSheet = across * down;
  const urls = sheets.map((text) => URL.createObjectURL(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], { type: "image/jpeg" })));
  const loaded = [];
  const place = (row) => {
    const number = tiles[row];
    if (number === NONE16) return null;
    const inSheet = number % perSheet;
    return { sheet: Math.floor(number / perSheet), x: inSheet % across, y: Math.floor(inSheet / across) };
  };
  const className = (row) => labels[row] === NONE16 ? null : look.classes[labels[row]];
  const name = (row) => look.names[row] || `image ${row}`;
  return {
    labels, tile, place, className, name,
    describe: (row) => [className(row), name(row)].filter(Boolean).join(" · "),
    /** A sheet as something a canvas draws; `then` is called once it is there. */
    sheet(number, then) {
      if (!loaded[number]) {
        loaded[number] = new Image();
        loaded[number].addEventListener("load", then, { once: true });
        loaded[number].src = urls[number];
      }
      return loaded[number].complete && loaded[number].naturalWidth ? loaded[number] : null;
    },
    /** A thumbnail; with `size` of that many pixels, else as wide as its place. A button where `onclick` is given. */
    thumb(row, { size, onclick } = {}) {
      const found = place(row);
      const node = el(onclick ? "button" : "span", { className: found ? "thumb" : "thumb none", title: images.describe(row) });
      node.setAttribute(onclick ? "aria-label" : "role", onclick ? images.describe(row) : "img");
      if (!onclick) node.setAttribute("aria-label", images.describe(row));
      if (onclick) { node.type = "button"; node.addEventListener("click", onclick); }
      if (size) Object.assign(node.style, { width: `${size}px`, height: `${size}px` });
      if (found) {
        const share = (i, n) => n > 1 ? `${100 * i / (n - 1)}%` : "0";
        Object.assign(node.style, {
          backgroundImage: `url(${urls[found.sheet]})`, backgroundSize: `${100 * across}% ${100 * down}%`,
          backgroundPosition: `${share(found.x, across)} ${share(found.y, down)}`,
        });
      }
      return node;
    },
  };
})();

// --- Prototypes --------------------------------------------------------------------------------

const gallery = look?.gallery && (() => {
  const packed = look.gallery, count = packed.prototypes;
  const [counts, classes, purity, copies, assigned, best, cosines] =
    ["counts", "classes", "purity", "copies", "assigned", "best", "cosines"].map((name) => unpack(packed[name]));
  const bestOf = (p) => Array.from(best.subarray(p * packed.shown, (p + 1) * packed.shown));
  const fit = (p) => cosines.subarray(p * packed.shown, (p + 1) * packed.shown).reduce((a, b) => a + b, 0) / packed.shown / 255;
  const className = (p) => classes[p] === NONE32 ? "" : look.classes[classes[p]];
  const isDead = (p) => counts[p] === 0, isCopy = (p) => copies[p] !== NONE32;
  const labelled = look.classes.length > 0 && classes.some((c) => c !== NONE32);
  const all = Array.from({ length: count }, (_, p) => p);
  const copied = all.filter(isCopy).length;

  at("prototypes").hidden = false;
  at("prototypes-note").textContent =
    `${plural(count, "prototype")}${packed.heads > 1 ? `, the first of ${packed.heads} heads` : ""}: each with the images whose embeddings it is most alike. ` +
    `${whole(packed.dead)} are liked best by none of the ${whole(look.images)} images (dead), ${whole(copied)} point the way of an earlier one (copies). ` +
    `Usage is ${percent(packed.usage)} of even.`;

  const sorts = [
    ["Most images", (a, b) => counts[b] - counts[a]],
    ["Fewest images", (a, b) => counts[a] - counts[b]],
    ...(labelled ? [["Purest", (a, b) => purity[b] - purity[a] || counts[b] - counts[a]],
      ["Least pure", (a, b) => isDead(a) - isDead(b) || purity[a] - purity[b] || counts[b] - counts[a]],
      ["Class", (a, b) => className(a).localeCompare(className(b)) || purity[b] - purity[a]]] : []),
    ["Most alike", (a, b) => fit(b) - fit(a)],
    ["Number", (a, b) => a - b],
  ];
  sorts.forEach(([name], i) => at("gallery-sort").append(el("option", { value: String(i) }, name)));
  const filters = [["All", () => true, count], ["Dead", isDead, packed.dead], ["Copies", isCopy, copied]];
  let filter = 0;
  filters.forEach(([name, , n], i) => {
    const button = el("button", { type: "button", "aria-pressed": String(i === 0), disabled: n === 0 }, `${name} ${whole(n)}`);
    button.addEventListener("click", () => {
      filter = i;
      [...at("gallery-filter").children].forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
      list();
    });
    at("gallery-filter").append(button);
  });

  function card(p) {
    const node = el("article", { className: isDead(p) ? "proto dead" : "proto", id: `prototype-${p}` });
    node.dataset.count = counts[p];
    node.append(el("header", {}, el("b", {}, `#${p}`),
      isDead(p) ? el("span", { className: "tag dead" }, "dead") : el("span", {}, plural(counts[p], "image")),
      ...(isCopy(p) ? [el("span", { className: "tag copy" }, `copy of #${copies[p]}`)] : []),
      ...(isDead(p) ? [] : [el("button", { type: "button", onclick: () => map.only({ prototype: p }), "aria-label": `Prototype ${p} on the map` }, "map")])));
    if (labelled) {
      node.append(el("div", { className: "pure" }, ...(classes[p] === NONE32 ? [] : [
        el("div", { className: "meter" }, el("i", { style: { width: `${purity[p] / 2.55}%` } })),
        el("span", { title: `${className(p)}: share of the images with a label` }, `${percent(purity[p] / 255, 0)} ${className(p)}`)])));
    }
    node.append(el("div", { className: "best" }, ...bestOf(p).map((row) => images.thumb(row, { onclick: () => map.choose(row, true) }))));
    return node;
  }

  let shown = [], drawn = 0;
  const PAGE = 30;
  function more(count) {
    at("gallery").append(...shown.slice(drawn, drawn + count).map(card));
    drawn = Math.min(drawn + count, shown.length);
    const left = shown.length - drawn;
    const button = (text, count) => el("button", { type: "button", onclick: () => more(count) }, text);
    at("gallery-more").replaceChildren(...(left > 2 * PAGE ? [button(`${2 * PAGE} more`, 2 * PAGE)] : []), ...(left ? [button(`All ${whole(shown.length)}`, left)] : []));
  }
  function list() {
    const wanted = at("gallery-search").value.trim().toLowerCase().replace(/^#/, "");
    const fits = (p) => !wanted || String(p) === wanted || className(p).toLowerCase().includes(wanted);
    shown = all.filter((p) => filters[filter][1](p) && fits(p)).sort(sorts[+at("gallery-sort").value][1]);
    at("gallery-count").textContent = shown.length === count ? "" : `${whole(shown.length)} of ${whole(count)}`;
    at("gallery").replaceChildren();
    drawn = 0;
    more(PAGE);
  }
  at("gallery-search").addEventListener("input", list);
  at("gallery-sort").addEventListener("change", list);
  list();
  return { assigned, counts, find(p) {
    at("gallery-search").value = String(p);
    list();
    at("prototypes").scrollIntoView();
  } };
})();

// --- Map ---------------------------------------------------------------------------------------

const neighbours = look && (() => {
  const rows = unpack(look.neighbours.rows), cosines = unpack(look.neighbours.cosines), k = look.neighbours.k;
  return { k, of: (row) => Array.from(rows.subarray(row * k, (row + 1) * k), (other, i) => ({ row: other, cosine: cosines[row * k + i] / 255 })) };
})();

/** A query with its neighbours as a list of thumbnails. */
function nearList(row, size) {
  return neighbours.of(row).map(({ row: other, cosine }) => {
    const thumb = images.thumb(other, { size, onclick: () => map.choose(other, true) });
    if (images.className(row) !== null && images.labels[row] !== images.labels[other]) thumb.classList.add("other");
    return { thumb, cosine };
  });
}

const map = look && (() => {
  const SIDE = 65535, xs = unpack(look.map.x), ys = unpack(look.map.y), n = look.images;
  const canvas = at("map-canvas"), context = canvas.getContext("2d"), tip = at("map-tip");
  const labelled = look.classes.length > 0 && images.labels.some((label) => label !== NONE16);
  at("map").hidden = false;
  at("map-note").textContent = `${plural(n, "image")}${n < look.of ? ` of ${whole(look.of)}` : ""} (${look.described}), ` +
    `laid out by UMAP so that images whose embeddings are alike lie close to each other${look.skipped ? `; ${whole(look.skipped)} corrupt ones are left out` : ""}. ` +
    "Drag to move, scroll while it has the focus (or with Ctrl) to zoom, click an image to see its neighbours.";

  const ways = [
    ...(labelled ? [["Class", images.labels, look.classes.length]] : []),
    ...(gallery ? [["Prototype", gallery.assigned, look.gallery.prototypes]] : []),
    ["None", null, 1],
  ];
  ways.forEach(([name], i) => at("map-colour").append(el("option", { value: String(i) }, name)));
  let way = 0, only = null, chosen = null, pictures = false;
  let view = { x: 0.5, y: 0.5, scale: 1 }; // the middle of what is seen, and how much it is enlarged
  let order, width = 0, height = 0, queued = false;

  /** Rows in the order in which they are drawn: one colour after the other, mixed within. */
  function sortRows() {
    const kinds = ways[way][1];
    order = Uint32Array.from({ length: n }, (_, row) => row);
    if (kinds) order.sort((a, b) => kinds[a] - kinds[b]);
  }
  const extent = (places) => Math.max(0.05, (places.reduce((a, b) => Math.max(a, b), 0) - places.reduce((a, b) => Math.min(a, b), SIDE)) / SIDE);
  const [wide, tall] = [extent(xs), extent(ys)];
  const side = () => Math.min(width / wide, height / tall) * 0.92 * view.scale;
  const toX = (row) => (xs[row] / SIDE - view.x) * side() + width / 2;
  const toY = (row) => (view.y - ys[row] / SIDE) * side() + height / 2;
  const isIn = (row) => only === null || (only.prototype !== undefined ? gallery.assigned[row] === only.prototype : images.labels[row] === only.label);

  function draw() {
    queued = false;
    const scale = devicePixelRatio || 1;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const reach = side(), size = Math.max(1.6, Math.min(9, (n > 20000 ? 1.7 : n > 5000 ? 2.4 : 4.6) * Math.sqrt(view.scale)));
    const [, kinds, count] = ways[way];
    const offX = width / 2 - view.x * reach, offY = height / 2 + view.y * reach;
    let painted = null;
    const dot = (row, paint) => {
      const x = offX + xs[row] / SIDE * reach, y = offY - ys[row] / SIDE * reach;
      if (x < -size || y < -size || x > width + size || y > height + size) return;
      if (paint !== painted) context.fillStyle = painted = paint;
      if (size > 3) { context.beginPath(); context.arc(x, y, size / 2, 0, 7); context.fill(); }
      else context.fillRect(x - size / 2, y - size / 2, size, size);
    };
    const dim = css("--dim"), accent = css("--accent");
    const paints = kinds ? Array.from({ length: count }, (_, kind) => colour(kind, count)) : [];
    context.globalAlpha = only ? 0.6 : 1;
    if (only) for (const row of order) if (!isIn(row)) dot(row, dim);
    context.globalAlpha = n > 20000 ? 0.75 : 0.88;
    painted = null;
    for (const row of order) if (isIn(row)) dot(row, kinds ? paints[kinds[row]] ?? dim : accent);
    context.globalAlpha = 1;
    if (pictures) drawPictures();
    if (chosen !== null) ring(chosen);
  }

  /** Thumbnails where there is room for them, so that none hides another. */
  function drawPictures() {
    const edge = Math.round(Math.min(Math.max(28, images.tile), 26 * Math.sqrt(view.scale)));
    const taken = new Map(), across = Math.ceil(width / edge) + 3;
    const step = 7919; // a prime: not one class after the other
    for (let i = 0, row = 0; i < n; i++, row = (row + step) % n) {
      const found = isIn(row) ? images.place(row) : null;
      if (!found) continue;
      const x = toX(row), y = toY(row);
      if (x < -edge || y < -edge || x > width + edge || y > height + edge) continue;
      const cell = (Math.floor(x / edge) + 1) + across * (Math.floor(y / edge) + 1);
      const hides = [-across - 1, -across, -across + 1, -1, 0, 1, across - 1, across, across + 1].some((by) => {
        const other = taken.get(cell + by);
        return other && Math.abs(other[0] - x) < edge + 1 && Math.abs(other[1] - y) < edge + 1;
      });
      const sheet = hides ? null : images.sheet(found.sheet, ask);
      if (!sheet) continue;
      taken.set(cell, [x, y]);
      const left = x - edge / 2, top = y - edge / 2, [way1, kinds, count] = ways[way];
      context.drawImage(sheet, found.x * images.tile, found.y * images.tile, images.tile, images.tile, left, top, edge, edge);
      if (way1 === "Class" && kinds[row] !== NONE16) {
        context.fillStyle = colour(kinds[row], count);
        context.fillRect(left, top + edge - 2, edge, 3);
      }
    }
  }
  function ring(row) {
    context.lineWidth = 3;
    context.strokeStyle = css("--ink");
    context.beginPath();
    context.arc(toX(row), toY(row), 8, 0, 7);
    context.stroke();
    context.lineWidth = 1.2;
    context.globalAlpha = 0.55;
    for (const { row: other } of neighbours.of(row)) {
      context.beginPath();
      context.moveTo(toX(row), toY(row));
      context.lineTo(toX(other), toY(other));
      context.stroke();
    }
    context.globalAlpha = 1;
  }
  const ask = () => { if (!queued) { queued = true; requestAnimationFrame(draw); } };

  // Rows by cells of the map, so that the one under the pointer is found at once.
  const CELLS = 256;
  const cellOf = (row) => (xs[row] * CELLS >> 16) + CELLS * (ys[row] * CELLS >> 16);
  const begins = new Uint32Array(CELLS * CELLS + 1), members = new Uint32Array(n);
  for (let row = 0; row < n; row++) begins[cellOf(row) + 1]++;
  for (let cell = 0; cell < CELLS * CELLS; cell++) begins[cell + 1] += begins[cell];
  const fill = begins.slice();
  for (let row = 0; row < n; row++) members[fill[cellOf(row)]++] = row;

  function under(px, py, radius = 14) {
    const reach = side();
    const x = ((px - width / 2) / reach + view.x) * SIDE, y = (view.y - (py - height / 2) / reach) * SIDE, far = radius / reach * SIDE;
    const cell = (value) => Math.max(0, Math.min(CELLS - 1, Math.floor(value * CELLS / 65536)));
    let found = null, nearest = far * far;
    for (let cy = cell(y - far); cy <= cell(y + far); cy++) {
      for (let cx = cell(x - far); cx <= cell(x + far); cx++) {
        for (let i = begins[cx + CELLS * cy]; i < begins[cx + CELLS * cy + 1]; i++) {
          const row = members[i], distance = (xs[row] - x) ** 2 + (ys[row] - y) ** 2;
          if (distance < nearest && isIn(row)) { nearest = distance; found = row; }
        }
      }
    }
    return found;
  }

  function showTip(row, px, py) {
    tip.hidden = row === null;
    if (row === null) return;
    const text = el("div", {}, el("b", {}, images.className(row) ?? ""), el("div", { className: "muted" }, images.name(row)));
    if (gallery) text.append(el("div", { className: "muted" }, `prototype #${gallery.assigned[row]}`));
    tip.replaceChildren(...(images.place(row) ? [images.thumb(row, { size: 72 })] : []), text);
    const flip = px > width - 290;
    Object.assign(tip.style, { left: flip ? "" : `${px + 14}px`, right: flip ? `${width - px + 14}px` : "", top: `${Math.min(py + 12, height - 100)}px` });
  }

  function choose(row, scroll = false) {
    chosen = row;
    ask();
    const box = at("map-side");
    if (row === null) {
      box.replaceChildren(el("p", { className: "muted", style: { margin: 0 } }, "Choose an image on the map, in the gallery or among the neighbours: it is shown here with the images nearest to it."));
      return;
    }
    const parts = [images.thumb(row, { size: 128 }), el("h3", {}, images.className(row) ?? "Image"), el("div", { className: "muted" }, images.name(row))];
    if (gallery) parts.push(el("div", {}, el("button", { type: "button", style: { marginTop: ".5rem" }, onclick: () => gallery.find(gallery.assigned[row]) }, `Prototype #${gallery.assigned[row]}`)));
    parts.push(el("h3", { style: { marginTop: "1rem" } }, "Nearest"), el("div", { className: "near" }, ...nearList(row).map(({ thumb }) => thumb)));
    box.replaceChildren(...parts);
    if (scroll) {
      at("map").scrollIntoView();
      const [px, py] = [toX(row), toY(row)];
      if (px < 0 || py < 0 || px > width || py > height) { view.x = xs[row] / SIDE; view.y = ys[row] / SIDE; }
    }
  }

  function setOnly(next, scroll = true) {
    only = next;
    at("map-clear").hidden = only === null;
    if (only) at("map-clear").textContent = `✕ ${only.prototype !== undefined ? `prototype #${only.prototype}` : look.classes[only.label]}`;
    [...at("map-legend").children].forEach((button, label) => button.setAttribute("aria-pressed", String(only?.label === label)));
    if (only && scroll) at("map").scrollIntoView();
    ask();
  }

  function zoom(factor, px = width / 2, py = height / 2) {
    const before = side();
    const scale = Math.max(0.6, Math.min(200, view.scale * factor));
    const x = (px - width / 2) / before + view.x, y = view.y - (py - height / 2) / before;
    view.scale = scale;
    view.x = x - (px - width / 2) / side();
    view.y = y + (py - height / 2) / side();
    ask();
  }
  const pan = (dx, dy) => { view.x -= dx / side(); view.y += dy / side(); ask(); };
  const reset = () => { view = { x: 0.5, y: 0.5, scale: 1 }; ask(); };

  // Pointers: one drags, two pinch, one that has not moved chooses.
  const pointers = new Map();
  let moved = 0;
  const local = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, local(event)); if (pointers.size === 1) moved = 0; });
  canvas.addEventListener("pointermove", (event) => {
    const [px, py] = local(event), before = pointers.get(event.pointerId);
    if (!before) return showTip(under(px, py), px, py);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) {
      const apart = (p) => Math.hypot(p[0] - others[0][0], p[1] - others[0][1]) || 1;
      zoom(apart([px, py]) / apart(before), (px + others[0][0]) / 2, (py + others[0][1]) / 2);
    } else pan(px - before[0], py - before[1]);
    moved += Math.hypot(px - before[0], py - before[1]);
    pointers.set(event.pointerId, [px, py]);
    showTip(null);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => {
    if (kind === "pointerup" && pointers.size === 1 && moved < 5) choose(under(...local(event), event.pointerType === "touch" ? 24 : 14));
    pointers.delete(event.pointerId);
  });
  canvas.addEventListener("pointerleave", () => showTip(null));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...local(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const act = {
      ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: reset,
      Enter: () => choose(under(width / 2, height / 2, 400)), Escape: () => { choose(null); setOnly(null); },
    }[event.key];
    if (act && !event.ctrlKey && !event.metaKey) { event.preventDefault(); act(); }
  });
  at("map-in").addEventListener("click", () => zoom(1.6));
  at("map-out").addEventListener("click", () => zoom(1 / 1.6));
  at("map-whole").addEventListener("click", reset);
  at("map-clear").addEventListener("click", () => setOnly(null));
  at("map-colour").addEventListener("change", () => { way = +at("map-colour").value; sortRows(); ask(); });
  at("map-pictures").addEventListener("click", () => { pictures = !pictures; at("map-pictures").setAttribute("aria-pressed", String(pictures)); ask(); });

  function legend() {
    if (!labelled) return;
    at("map-legend").replaceChildren(...look.classes.map((name, label) => {
      const button = el("button", { type: "button", "aria-pressed": String(only?.label === label), onclick: () => setOnly(only?.label === label ? null : { label }, false) },
        el("span", { className: "dot", style: { color: colour(label, look.classes.length) } }), name);
      return button;
    }));
  }
  new ResizeObserver(() => {
    const box = canvas.parentElement.getBoundingClientRect(), scale = devicePixelRatio || 1;
    [width, height] = [box.width, box.height];
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    draw();
  }).observe(canvas.parentElement);
  redraw.push(() => { legend(); ask(); });
  sortRows();
  legend();
  choose(null);
  return { choose, only: setOnly, drawn: () => n };
})();

// --- Neighbours and crops ----------------------------------------------------------------------

if (look && neighbours.k > 0) {
  at("neighbours").hidden = false;
  let same = 0, judged = 0;
  for (let row = 0; row < look.images; row++) {
    if (images.labels[row] === NONE16) continue;
    for (const other of neighbours.of(row)) { judged++; same += images.labels[other.row] === images.labels[row]; }
  }
  at("neighbours-note").textContent = `The ${neighbours.k} images with the most alike embeddings, and the cosine of the angle between them.` +
    (judged ? ` Over all images, ${percent(same / judged)} of the neighbours are of the same class; those of another are ringed.` : "");
  for (const row of look.neighbours.chosen) {
    at("neighbour-rows").append(el("div", { className: "neighbour-row" },
      el("div", { className: "query" }, images.thumb(row, { size: 72, onclick: () => map.choose(row, true) }), el("div", { title: images.describe(row) }, images.className(row) ?? images.name(row))),
      el("ol", {}, ...nearList(row, 48).map(({ thumb, cosine }) => el("li", {}, thumb, el("div", {}, cosine.toFixed(2)))))));
  }
}

if (look?.crops.length) {
  at("crops").hidden = false;
  const all = plan.crops.reduce((sum, crop) => sum + crop.count, 0);
  at("crops-note").textContent = `A few images as they are, and ${all > 12 ? "the first 12 of " : ""}the ${all} crops that training makes of each: cut, flipped, coloured and blurred at random.`;
  const shownAs = (size) => size <= 48 ? size * 2 : Math.min(size, 128);
  for (const { row, whole: picture, crops } of look.crops) {
    const image = (jpeg, side, text) => el("figure", {}, el("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: "", height: side, loading: "lazy" }), el("figcaption", {}, text));
    const first = image(picture, 112, images.className(row) ?? "image");
    first.className = "whole";
    at("crop-rows").append(el("div", { className: "crop-row" }, first, ...crops.map(({ size, jpeg }) => image(jpeg, shownAs(size), `${size} px`))));
  }
}

// --- Settings ----------------------------------------------------------------------------------

(function settings() {
  const value = (v) => Array.isArray(v) ? v.map(value).join(", ")
    : v !== null && typeof v === "object" ? Object.entries(v).map(([k, w]) => `${spoken(k)} ${value(w)}`).join(", ")
    : typeof v === "number" ? (Number.isInteger(v) ? (v > 2 ** 62 ? "never" : whole(v)) : number(v)) : String(v);
  for (const [name, fields] of Object.entries(plan)) {
    if (fields === null || typeof fields !== "object") continue;
    const rows = Array.isArray(fields) ? fields.map((crop) => [`${crop.count} × ${crop.size} px`, `${value(crop.scale.map((s) => +s.toFixed(3)))} of the area`]) : Object.entries(fields);
    at("tables").append(el("div", { className: "table" }, el("h3", {}, capital(name)),
      el("dl", {}, ...rows.filter(([, v]) => v !== null).flatMap(([key, v]) => [el("dt", {}, spoken(key)), el("dd", {}, value(v))]))));
  }
  at("plan").textContent = data.toml;
  at("again").textContent = `mkdir -p again/checkpoints\ncp '${data.run}/plan.toml' again/\nswav train --resume --out again`;
  for (const pre of [at("plan"), at("again")]) {
    const button = el("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(pre.textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(pre); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    pre.parentElement.append(button);
  }
})();
})();
