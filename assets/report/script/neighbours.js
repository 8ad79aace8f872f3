// Nearest neighbours of a few images, and the crops that training makes.

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
