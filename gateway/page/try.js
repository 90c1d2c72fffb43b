// The form that tries a model: calls the server as any caller would.

import { element, short, strip } from "./charts.js";
import { ask as call } from "./key.js";

const SHOWN = 20; // rows
const pipeline = (model, task) => `models/${encodeURIComponent(model)}/pipeline/${task}`;
const rowsOf = (text) => text.split("\n").map((row) => row.trim()).filter(Boolean);

// What may be asked: its name, what the second text is and its example, where to send it, and how.
const ASKS = {
  embed: ["a vector", null, "", (m, text) => [pipeline(m, "feature-extraction"), { inputs: text }]],
  similarity: ["similarity of sentences", "Sentences, one a line", "Water drives the wheel.\nThe cat sleeps.",
    (m, text, more) => [pipeline(m, "sentence-similarity"), { inputs: { source_sentence: text, sentences: rowsOf(more) } }]],
  rerank: ["relevance of documents", "Documents, one a line", "Water drives the wheel.\nThe cat sleeps.",
    (m, text, more) => ["v1/rerank", { model: m, query: text, documents: rowsOf(more) }]],
  classify: ["its labels", null, "", (m, text) => [pipeline(m, "text-classification"), { inputs: text }]],
  "token-classify": ["labelled spans", null, "", (m, text) => [pipeline(m, "token-classification"), { inputs: text }]],
  "zero-shot": ["labels of your own", "Labels, one a line", "engineering\ncooking",
    (m, text, more) => [pipeline(m, "zero-shot-classification"), { inputs: text, parameters: { candidate_labels: rowsOf(more) } }]],
  "fill-mask": ["what the mask hides", null, "", (m, text) => [pipeline(m, "fill-mask"), { inputs: text }]],
  sparse: ["term weights", null, "", (m, text) => ["embed_sparse", { inputs: text }]],
};

const at = (id) => document.getElementById(id);
let offered = [];

at("model").addEventListener("change", chooseModel);
at("ask").addEventListener("change", chooseAsk);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});

/** Offer these models; what is chosen stays. */
export function offer(models) {
  const names = models.map((model) => model.name);
  if (names.join("\n") === offered.map((model) => model.name).join("\n")) return;
  offered = models;
  fill(at("model"), names.map((name) => [name, name]));
  chooseModel();
}

function fill(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, name]) => element("option", { value }, name)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

function chooseModel() {
  const model = offered.find((each) => each.name === at("model").value);
  fill(at("ask"), (model?.abilities ?? []).filter((ability) => ASKS[ability]).map((ability) => [ability, ASKS[ability][0]]));
  chooseAsk();
}

function chooseAsk() {
  const mask = offered.find((each) => each.name === at("model").value)?.mask;
  if (at("ask").value === "fill-mask" && !at("text").value.includes(mask)) at("text").value = `The headrace brings ${mask} to the wheel.`;
  const [, second, example] = ASKS[at("ask").value] ?? [];
  at("more-label").hidden = !second;
  at("more").required = Boolean(second);
  at("more-name").textContent = second ?? "";
  at("more").value = example ?? "";
}

async function run() {
  const ask = at("ask").value;
  const [path, body] = ASKS[ask][3](at("model").value, at("text").value, at("more").value);
  at("run").disabled = true;
  say("running", "");
  const started = performance.now();
  try {
    const headers = { "content-type": "application/json" };
    const answer = await call(path, { method: "POST", headers, body: JSON.stringify(body) });
    const told = await answer.text();
    const took = performance.now() - started;
    at("raw").hidden = false;
    at("raw").querySelector("pre").textContent = told;
    if (answer.ok) {
      say(`${short(took)} ms here; there ${times(answer.headers.get("server-timing"))}`, "good");
      at("answer").replaceChildren(draw(ask, JSON.parse(told), body));
    } else {
      say(`${answer.status}: ${reason(told)}`, "bad");
      at("answer").replaceChildren();
    }
  } catch (error) {
    say(`no answer: ${error.message}`, "bad");
  }
  at("run").disabled = false;
  at("run").focus();
}

function say(sentence, kind) {
  at("said").textContent = sentence;
  at("said").className = kind;
}

/** `queue;dur=0.10, device;dur=8.00` in words. */
function times(header) {
  const parts = (header ?? "").split(",").map((part) => part.trim().split(";dur="));
  return parts.map(([name, ms]) => `${name} ${short(Number(ms))} ms`).join(", ");
}

/** What an error says, in whichever dialect. */
function reason(told) {
  try {
    const { error, message, detail } = JSON.parse(told);
    return String(error?.message ?? error ?? message ?? detail);
  } catch {
    return told.slice(0, 200);
  }
}

function draw(ask, answer, body) {
  if (ask === "embed") {
    const numbers = answer.flat(Infinity);
    const length = Math.hypot(...numbers);
    const first = numbers.slice(0, 6).map((number) => number.toFixed(4)).join(", ");
    return element("div", {}, element("p", {}, `${numbers.length} numbers of length ${length.toFixed(4)}: ${first}, …`), strip(numbers));
  }
  return table(...({
    similarity: () => [["Sentence", "Cosine"], answer.map((score, index) => [body.inputs.sentences[index], score])],
    rerank: () => [["Document", "Score"], answer.results.map((each) => [body.documents[each.index], each.relevance_score])],
    classify: () => [["Label", "Score"], answer.flat().map((each) => [each.label, each.score])],
    "zero-shot": () => [["Label", "Score"], answer.map((each) => [each.label, each.score])],
    "token-classify": () => [["Text", "Label", "Score"], answer.map((each) => [each.word, each.entity_group ?? each.entity, each.score])],
    "fill-mask": () => [["Text", "Score"], answer.flat().map((each) => [each.sequence, each.score])],
    sparse: () => [["Token", "Weight"], answer[0].toSorted((one, other) => other.value - one.value).map((each) => [String(each.index), each.value])],
  })[ask]());
}

function table(head, rows) {
  if (!rows.length) return element("p", {}, "Nothing was found.");
  const cell = (value) => typeof value === "number"
    ? element("td", { class: "number" }, value.toFixed(4)) : element("td", {}, value);
  const titles = head.map((name, index) => element("th", { scope: "col", ...(index === head.length - 1 ? { class: "number" } : {}) }, name));
  const shown = rows.slice(0, SHOWN).map((row) => element("tr", {}, ...row.map(cell)));
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...shown));
  if (rows.length <= SHOWN) return made;
  return element("div", {}, made, element("p", {}, `and ${rows.length - SHOWN} more`));
}
