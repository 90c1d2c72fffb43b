// Small SVG charts. They know numbers and names, and nothing of what they mean.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320, HEIGHT = 120, LEFT = 34, BOTTOM = 16;

/** Make an element with attributes and children; texts are put in as texts. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Write a number as short as it can be read. */
export function short(value) {
  if (value === null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value >= 10000) return `${Math.round(value / 1000)}k`;
  if (value >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(2)));
}

/** Draw curves over the last `seconds`; each is {name, kind, points: [[age_s, value or null], ...]}. */
export function lines(place, title, curves, seconds, target = null) {
  const values = curves.flatMap((curve) => curve.points.map(([, value]) => value ?? 0));
  const top = round(Math.max(...values, target ?? 0));
  const svg = frame(top);
  const x = (age) => WIDTH - (age / seconds) * (WIDTH - LEFT);
  if (target !== null) svg.append(draw("line", { class: "target", x1: LEFT, x2: WIDTH, y1: y(target, top), y2: y(target, top) }));
  for (const { kind, points } of curves) {
    for (const run of unbroken(points)) {
      const path = run.map(([age, value]) => `${x(age).toFixed(1)},${y(value, top).toFixed(1)}`).join(" ");
      svg.append(draw("polyline", { class: `curve ${kind}`, points: path }));
    }
  }
  svg.append(text(LEFT, HEIGHT - 3, `${seconds} s ago`, "start"), text(WIDTH, HEIGHT - 3, "now", "end"));
  const last = curves.map(({ name, points }) => `${name} ${short(points.at(-1)?.[1] ?? null)}`);
  show(place, svg, `${title}: ${last.join(", ")}`);
}

/** Draw bars; each is [name, value]. */
export function bars(place, title, told) {
  const top = round(Math.max(...told.map(([, value]) => value), 0));
  const svg = frame(top);
  const step = (WIDTH - LEFT) / Math.max(told.length, 1);
  told.forEach(([name, value], index) => {
    const height = y(0, top) - y(value, top);
    const at = { x: LEFT + index * step + 2, width: Math.max(step - 4, 1), y: y(value, top), height };
    const full = draw("title");
    full.textContent = `${name}: ${short(value)}`;
    const bar = draw("rect", { class: "bar", ...at });
    bar.append(full);
    svg.append(bar);
    const every = Math.ceil(told.length / 6);
    if (index % every === 0) svg.append(text(at.x + at.width / 2, HEIGHT - 3, name, "middle"));
  });
  const most = told.reduce((best, each) => (each[1] > best[1] ? each : best), ["nothing", 0]);
  show(place, svg, `${title}: most often ${most[0]}`);
}

/** Draw many numbers as a strip of bars around zero. */
export function strip(numbers) {
  const top = Math.max(...numbers.map(Math.abs)) || 1;
  const svg = draw("svg", { viewBox: `0 0 ${numbers.length} 40`, preserveAspectRatio: "none", role: "img", height: 40 });
  svg.setAttribute("aria-label", `${numbers.length} numbers`);
  numbers.forEach((value, index) => {
    const height = (Math.abs(value) / top) * 20;
    svg.append(draw("rect", { class: "bar", x: index, y: value > 0 ? 20 - height : 20, width: 0.8, height }));
  });
  return svg;
}

function frame(top) {
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  for (const value of [0, top / 2, top]) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value, top), y2: y(value, top) }));
    svg.append(text(LEFT - 5, y(value, top) + 4, short(value), "end"));
  }
  return svg;
}

function show(place, svg, label) {
  svg.setAttribute("aria-label", label);
  place.replaceChildren(svg);
}

function y(value, top) {
  return 8 + (1 - value / top) * (HEIGHT - BOTTOM - 10);
}

/** The next of 1, 2, 5, 10, 20, ... that holds the value. */
function round(value) {
  if (value <= 0) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= value * 0.999);
}

function unbroken(points) {
  const runs = [[]];
  for (const point of points) {
    if (point[1] === null) runs.push([]);
    else runs.at(-1).push(point);
  }
  return runs.filter((run) => run.length > 1);
}

function draw(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, content, anchor) {
  const made = draw("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}
