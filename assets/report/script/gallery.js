// The prototypes: searched, sorted, a page at a time.

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
