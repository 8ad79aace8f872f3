// The map: dots or pictures on a canvas, moved and zoomed by pointer, touch and keys.

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

  /** Rows in the order in which they are drawn: in eight rounds through the colours, so that none hides another. */
  function sortRows() {
    const kinds = ways[way][1];
    order = Uint32Array.from({ length: n }, (_, row) => row);
    const rank = (row) => (((row * 2654435761) >>> 29) * 65536) + kinds[row];
    if (kinds) order.sort((a, b) => rank(a) - rank(b));
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
          // Of those near by, one with a picture is meant rather than one without.
          const row = members[i], distance = ((xs[row] - x) ** 2 + (ys[row] - y) ** 2) * (images.place(row) ? 0.2 : 1);
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
