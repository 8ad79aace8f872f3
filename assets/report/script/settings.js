// Settings, and how to have the run again.

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
