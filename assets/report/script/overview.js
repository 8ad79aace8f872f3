// The head of the page and its navigation.

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
