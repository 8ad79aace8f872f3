// Light and dark, and the colours of kinds.

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
