// Thumbnails, by tiles of a few sheets.

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
      const node = el(onclick ? "button" : "span", { className: found ? "thumb" : "thumb none", title: images.describe(row) }, ...(found ? [] : [className(row) ?? ""]));
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
