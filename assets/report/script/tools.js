// Draws the report from the data that lies in the page. Whatever came from files is set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { plan, curves, look } = data;
const at = (id) => document.getElementById(id);
const root = document.documentElement;
const NONE16 = 0xffff, NONE32 = 0xffffffff;


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
