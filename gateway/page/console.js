// Asks for the counters every second, and draws what became of them in between.

import { bars, element, lines, short } from "./charts.js";
import { ask } from "./key.js";
import { offer } from "./try.js";

const KEPT_S = 120, RECENT_S = 10, SHAPES_S = 60, EVERY_MS = 1000;
const seen = []; // what was read in the last two minutes, the latest at the end
const drawn = []; // [time, figures] of each
let paused = false;

const at = (id) => document.getElementById(id);

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (paused) say("paused", "");
});
follow();

async function follow() {
  if (!paused && !document.hidden) await look();
  setTimeout(follow, EVERY_MS);
}

async function look() {
  try {
    const answer = await ask("console/data", { signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) return say("needs a key", "bad");
    if (!answer.ok) throw new Error(String(answer.status));
    const read = await answer.json();
    if (paused) return;
    take(read);
  } catch {
    say("no answer", "bad");
  }
}

function take(read) {
  const last = seen.at(-1);
  if (last && (read.time_s < last.time_s || total(read, "requests_total") < total(last, "requests_total"))) {
    seen.length = drawn.length = 0; // it was started again
  }
  seen.push(read);
  while (seen[0].time_s < read.time_s - KEPT_S) seen.shift();
  drawn.push([read.time_s, figures(before(read, RECENT_S), read)]);
  while (drawn[0][0] < read.time_s - KEPT_S) drawn.shift();
  say(read.state, read.state === "ready" ? "good" : "bad");
  at("version").textContent = read.version;
  tiles(drawn.at(-1)[1]);
  history(read);
  shapes(before(read, SHAPES_S), read);
  models(before(read, RECENT_S), read);
  offer(read.models);
}

function say(state, kind) {
  if (at("state").textContent !== state) at("state").textContent = state; // else it would be read out every second
  at("state").className = kind;
}

/** The latest that was read at least so many seconds earlier; the first, if there is none. */
function before(read, seconds) {
  return seen.findLast((each) => each.time_s <= read.time_s - seconds + 0.5) ?? seen[0];
}

function total(read, name, wanted = () => true) {
  const samples = read.samples[`headrace_${name}`] ?? [];
  return samples.reduce((sum, [labels, value]) => (wanted(labels) ? sum + value : sum), 0);
}

/** How much a counter grew. */
function grown(then, now, name, wanted) {
  return total(now, name, wanted) - total(then, name, wanted);
}

/** [upper bound, count] of a histogram's growth; counts are not added up. */
function buckets(then, now, name, wanted = () => true) {
  const bounds = [...new Set((now.samples[`headrace_${name}_bucket`] ?? []).map(([labels]) => labels.le))];
  const upTo = bounds
    .map((le) => [Number(le.replace("+Inf", "Infinity")), grown(then, now, `${name}_bucket`, (l) => l.le === le && wanted(l))])
    .sort(([one], [other]) => one - other);
  return upTo.map(([bound, count], index) => [bound, count - (index ? upTo[index - 1][1] : 0)]);
}

/** A quantile as Prometheus guesses it: evenly spread inside its bucket. */
function quantile(share, told) {
  const all = told.reduce((sum, [, count]) => sum + count, 0);
  let rank = share * all, lower = 0;
  if (!all) return null;
  for (const [bound, count] of told) {
    if (count >= rank && count > 0) return bound === Infinity ? lower : lower + (bound - lower) * (rank / count);
    rank -= count;
    lower = bound;
  }
  return lower;
}

function isCall({ route }) {
  return route !== "probe" && route !== "other" && !route.startsWith("/console");
}

function figures(then, now) {
  const seconds = now.time_s - then.time_s;
  const rate = (...outcomes) =>
    seconds ? grown(then, now, "requests_total", (l) => isCall(l) && outcomes.includes(l.outcome)) / seconds : null;
  const latency = buckets(then, now, "request_seconds", (labels) => isCall(labels) && labels.model !== "");
  const mean = (name) => ms(grown(then, now, `${name}_sum`) / grown(then, now, `${name}_count`));
  return {
    ok: rate("ok"),
    refused: rate("refused", "expired"),
    failed: rate("failed", "invalid", "cancelled"),
    inputs: seconds ? grown(then, now, "batch_size_sum") / seconds : null,
    p50: ms(quantile(0.5, latency)),
    p95: ms(quantile(0.95, latency)),
    p99: ms(quantile(0.99, latency)),
    waiting: total(now, "waiting_entries"),
    inFlight: Math.max(0, total(now, "in_flight") - 1), // this page's own call
    demand: now.samples.headrace_demand_ratio ? total(now, "demand_ratio") : null,
    tokenise: mean("tokenise_seconds"),
    queue: mean("queue_seconds"),
    device: mean("device_seconds"),
  };
}

function ms(seconds) {
  return seconds === null || Number.isNaN(seconds) ? null : seconds * 1000;
}

function tiles(now) {
  const told = [
    ["calls a second", now.ok], ["inputs a second", now.inputs], ["p50, ms", now.p50], ["p95, ms", now.p95], ["p99, ms", now.p99],
    ["refused a second", now.refused, now.refused > 0], ["failed a second", now.failed, now.failed > 0],
    ["inputs waiting", now.waiting], ["calls in flight", now.inFlight], ["demand, replicas", now.demand, now.demand > 1],
  ];
  const shown = told.map(([name, value, bad]) =>
    element("div", bad ? { class: "bad" } : {}, element("dt", {}, name), element("dd", {}, short(value))));
  at("tiles").replaceChildren(...shown);
}

function history(read) {
  const curve = (name, kind, of) => ({ name, kind, points: drawn.map(([time, told]) => [read.time_s - time, told[of]]) });
  const target = read.latency_target_s * 1000;
  const rates = [curve("answered", "one", "ok"), curve("refused", "two", "refused"), curve("failed", "three", "failed")];
  const latency = [curve("p50", "one", "p50"), curve("p95", "two", "p95"), curve("p99", "three", "p99")];
  const parts = [curve("tokenise", "three", "tokenise"), curve("queue", "two", "queue"), curve("device", "one", "device")];
  lines(at("rates"), "Calls a second", rates, KEPT_S);
  lines(at("latency"), "Latency in milliseconds", latency, KEPT_S, target);
  lines(at("waiting"), "Inputs that wait", [curve("waiting", "one", "waiting")], KEPT_S);
  lines(at("parts"), "Mean milliseconds", parts, KEPT_S);
  key(at("rates-key"), rates);
  key(at("latency-key"), [...latency, { name: `target ${short(target)}`, kind: "target" }]);
  key(at("parts").previousElementSibling.querySelector("small"), parts);
}

function key(place, curves) {
  if (place.querySelector(".key")) return;
  place.replaceChildren(...curves.flatMap(({ name, kind }) => [element("span", { class: `key ${kind}` }, name), " "]));
}

function shapes(then, now) {
  for (const [id, name, title] of [["sizes", "batch_size", "Inputs a batch"], ["tokens", "batch_tokens", "Tokens a batch"]]) {
    const told = buckets(then, now, name).filter(([bound]) => bound !== Infinity);
    const used = told.findLastIndex(([, count]) => count > 0);
    const named = told.slice(0, Math.max(used + 1, 4)).map(([bound, count]) => [`≤${short(bound)}`, count]);
    bars(at(id), title, named);
  }
  const padding = grown(then, now, "padding_ratio_sum") / grown(then, now, "padding_ratio_count");
  at("padding").textContent = Number.isNaN(padding) ? "" : `${(padding * 100).toFixed(1)} % padding`;
}

function models(then, now) {
  const head = ["Model", "Task", "Runs on", "Longest input", "Batches", "Inputs a second", "Waiting"];
  const seconds = now.time_s - then.time_s;
  const rows = now.models.map((model) => {
    const own = (labels) => labels.model === model.name;
    const rate = seconds ? grown(then, now, "batch_size_sum", own) / seconds : null;
    const how = model.padded_because ? `padded: ${model.padded_because}` : "without padding";
    const cells = [model.name, model.task, `${model.device}, ${model.dtype}`, `${model.max_length} tokens`, how];
    return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)),
      ...[rate, total(now, "waiting_entries", own)].map((cell) => element("td", { class: "number" }, short(cell))));
  });
  const titles = head.map((name, index) => element("th", { scope: "col", ...(index > 4 ? { class: "number" } : {}) }, name));
  at("models").replaceChildren(element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows));
}
