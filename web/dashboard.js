// The dashboard: asks /dashboard/data once a second while it is seen, and draws what changed.
"use strict";

const PERIOD_MS = 1000, HISTORY = 300; // samples: five minutes
const FREE = -1, CACHED = -2, SHARED = -3; // in the map of blocks; from 1 on: a request

const history = [];   // {time, output, prompt, running, waiting}
let last = null;      // the data shown
let cells = null;     // of the map: {blocks, per, size, columns}

// ---- texts ----

function number(x, digits = 0) {
  return x.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function rate(x) {
  return number(x, x < 100 ? 1 : 0);
}

function bytes(x) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; x >= 1000 && i < units.length - 1; i++) x /= 1000;
  return `${number(x, x < 100 && i > 0 ? 1 : 0)} ${units[i]}`;
}

function span(seconds) {
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? `${hours} h ${Math.floor(seconds % 3600 / 60)} min` : `${Math.floor(hours / 24)} days`;
}

function ms(x) {
  return x <= 0 ? "–" : number(x, x < 10 ? 2 : x < 100 ? 1 : 0);
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

// A colour for a request, the same in the map and in its row.
function colour(request) {
  const hue = (request * 137.508) % 360;
  return document.documentElement.classList.contains("dark") ? `hsl(${hue} 50% 60%)` : `hsl(${hue} 55% 48%)`;
}

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---- meters and charts ----

// Parts of a whole: [[share, class]].
function meter(id, parts) {
  while ($(id).children.length < parts.length) $(id).append(el("i"));
  parts.forEach(([share, name], i) => {
    $(id).children[i].className = name;
    $(id).children[i].style.width = `${Math.min(100, share * 100)}%`;
  });
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// The next of 1, 2, 5, 10, ... that is not below x.
function roundUp(x) {
  const base = 10 ** Math.floor(Math.log10(Math.max(x, 1)));
  return [1, 2, 5, 10].find((k) => k * base >= x) * base;
}

// Lines over the last minute, or five once there is more to show: [[key of the history, class]].
function chart(id, lines) {
  const width = Math.max($(id).clientWidth, 200), height = 190, left = 40, bottom = 20, top = 8;
  const most = roundUp(Math.max(4, ...history.flatMap((h) => lines.map(([key]) => h[key]))));
  const now = history.at(-1).time, window = history.length < 60 ? 60 : HISTORY;
  const x = (time) => width - (width - left) * (now - time) / window;
  const y = (value) => height - bottom - (height - bottom - top) * value / most;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(svg("line", {class: "grid", x1: left, x2: width, y1: y(share * most), y2: y(share * most)}),
      svg("text", {x: left - 8, y: y(share * most) + 4, "text-anchor": "end"}, number(share * most, share * most % 1 ? 1 : 0)));
  }
  for (const share of [0.75, 0.5, 0.25])
    parts.push(svg("text", {x: x(now - share * window), y: height - 4, "text-anchor": "middle"}, `${share * window} s ago`));
  for (const [key, name] of lines) {
    const d = history.map((h, i) => `${i ? "L" : "M"}${x(h.time).toFixed(1)} ${y(h[key]).toFixed(1)}`).join("");
    parts.push(svg("path", {class: `area ${name}`, d: `${d}L${width} ${y(0)}L${x(history[0].time).toFixed(1)} ${y(0)}Z`}),
      svg("path", {class: name, d}));
  }
  $(id).setAttribute("viewBox", `0 0 ${width} ${height}`);
  $(id).replaceChildren(...parts);
}

// ---- the map ----

// [code of each block] from runs of (code, count).
function unroll(runs) {
  const blocks = [];
  for (let i = 0; i < runs.length; i += 2)
    for (let k = 0; k < runs[i + 1]; k++) blocks.push(runs[i]);
  return blocks;
}

function drawMap() {
  const canvas = $("map"), blocks = unroll(last.blocks.map), ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, rowsMax = 200;
  // As large as lets all blocks stand in 220 pixels of height; several to a cell if even 4 do not.
  let size = 16;
  while (size > 4 && Math.ceil(blocks.length / Math.floor(width / size)) * size > 220) size--;
  const columns = Math.max(1, Math.floor(width / size));
  const per = Math.max(1, Math.ceil(blocks.length / (columns * rowsMax)));
  const n = Math.ceil(blocks.length / per), height = Math.ceil(n / columns) * size;
  cells = {blocks, per, size, columns};
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const fixed = {[FREE]: style("--empty"), [CACHED]: style("--pale"), [SHARED]: style("--warm")};
  const gap = size > 6 ? 2 : 1;
  for (let i = 0; i < n; i++) {
    // The fullest of the cell's blocks: a request's, else shared, else cached.
    const group = blocks.slice(i * per, (i + 1) * per);
    const code = group.find((c) => c > 0) ?? Math.min(...group);
    context.fillStyle = fixed[code] ?? colour(code);
    context.beginPath();
    context.roundRect(i % columns * size, Math.floor(i / columns) * size, size - gap, size - gap, size > 8 ? 3 : 1);
    context.fill();
  }
}

function blockText(code) {
  if (code === FREE) return "free";
  if (code === CACHED) return "cached: a finished request's prefix, ready to be used again";
  if (code === SHARED) return "shared by several requests";
  const call = last.calls.find((c) => c.requests.includes(code));
  return `held by ${call ? call.id : `request ${code}`}`;
}

function showHover(event) {
  if (!cells) return;
  const box = $("map").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / cells.size);
  const i = (Math.floor((event.clientY - box.top) / cells.size) * cells.columns + column) * cells.per;
  put("hover", column < cells.columns && i < cells.blocks.length ? `Block ${i}: ${blockText(cells.blocks[i])}` : "");
}

function showBlocks(b) {
  put("blocks-note", `${number(b.all)} of ${b.tokens} tokens each`);
  put("kv", number(100 * b.used / b.all, 1));
  meter("kv-meter", [[b.used / b.all, "fill-accent"], [b.cached / b.all, "fill-pale"]]);
  $("map-legend").replaceChildren(...[
    ["fill-empty", `${number(b.free)} free`], ["fill-pale", `${number(b.cached)} cached`],
    ["fill-warm", `${number(b.shared)} shared`], ["fill-many", `${number(b.used - b.shared)} of one request each`],
  ].map(([name, text]) => el("span", {}, el("i", {className: name}), text)));
  drawMap();
}

// ---- rows ----

function state(call, held) {
  if (call.output_tokens > 0) return "writing";
  return held > 0 ? "reading" : "waiting";
}

function row(call, held) {
  const writing = call.ttft_ms >= 0 ? (call.age_ms - call.ttft_ms) / 1000 : 0;
  const what = state(call, held);
  const swatch = el("i");
  if (held > 0) swatch.style.background = colour(call.requests[0]);
  const cell = (text, name = "") => el("td", {className: name}, text);
  return el("tr", {}, el("td", {title: call.id}, swatch, call.id), cell(call.path, "wide"),
    el("td", {}, el("span", {className: `badge ${what}`}, what)), cell(number(call.prompt_tokens)),
    cell(number(call.output_tokens)), cell(number(held), "wide"),
    cell(call.ttft_ms < 0 ? "–" : `${ms(call.ttft_ms)} ms`, "wide"),
    cell(writing > 0.05 && call.output_tokens > 1 ? rate((call.output_tokens - 1) / writing) : "–", "wide"),
    cell(span(call.age_ms / 1000)));
}

function showCalls(data) {
  const held = {};
  for (let i = 0; i < data.blocks.map.length; i += 2)
    held[data.blocks.map[i]] = (held[data.blocks.map[i]] ?? 0) + data.blocks.map[i + 1];
  const rows = data.calls.map((call) => row(call, call.requests.reduce((n, id) => n + (held[id] ?? 0), 0)));
  if (rows.length === 0) rows.push(el("tr", {}, el("td", {colSpan: 9, className: "none"}, "Nothing to do.")));
  $("calls").replaceChildren(...rows);
  put("calls-note", data.calls.length === data.calls_all ? "" : `the newest ${data.calls.length} of ${data.calls_all}`);
}

// ---- everything ----

function showMemory(m) {
  const parts = [["weights", "fill-accent"], ["kv", "fill-warm"], ["activations", "fill-pale"], ["other", "fill-muted"]];
  const all = parts.reduce((sum, [key]) => sum + m[key], 0);
  put("resident", bytes(m.resident));
  meter("memory-meter", parts.map(([key, name]) => [m[key] / all, name]));
  put("memory-note", `${bytes(all)} in all, fixed at start`);
  const names = {weights: "weights", kv: "KV cache", activations: "activations", other: "tables and the rest"};
  $("memory-legend").replaceChildren(...parts.map(([key, name]) =>
    el("span", {}, el("i", {className: name}), `${names[key]} ${bytes(m[key])}`)));
}

function showLatency(id, latency) {
  put(id, ms(latency.p50));
  put(`${id}-tail`, latency.n > 0 ? `p90 ${ms(latency.p90)} · p99 ${ms(latency.p99)}` : "nothing in the last minute");
}

function sample(data) {
  const now = {time: data.now_s, running: data.engine.running, waiting: data.engine.waiting, output: 0, prompt: 0};
  if (last && last.up_s < data.up_s) {
    const seconds = data.now_s - last.now_s;
    now.output = (data.engine.output_tokens - last.engine.output_tokens) / seconds;
    now.prompt = (data.engine.prompt_tokens - last.engine.prompt_tokens) / seconds;
  } else {
    history.length = 0;
  }
  history.push(now);
  if (history.length > HISTORY) history.shift();
  last = data;
}

function show(data) {
  const now = history.at(-1), e = data.engine, m = data.model;
  const well = data.heartbeat_s < 10 && !data.draining;
  $("dot").className = well ? "good" : "bad";
  $("dot").setAttribute("aria-label", data.draining ? "shutting down" : well ? "healthy" : "the engine stands still");
  put("model", `${m.name} · ${m.arch}, ${m.weights} · ${m.level}, ${m.threads} threads · up ${span(data.up_s)}` +
    (data.draining ? " · shutting down" : well ? "" : ` · the engine has not moved for ${span(data.heartbeat_s)}`));
  put("output-rate", rate(now.output));
  put("prompt-rate", rate(now.prompt));
  put("output-total", `${number(e.output_tokens)} so far`);
  put("prompt-total", `${number(e.prompt_tokens)} so far`);
  put("running", number(e.running));
  const f = data.finished;
  put("finished", `${number(e.waiting)} waiting · ${number(f.stop + f.length)} answered` + (f.abort ? ` · ${number(f.abort)} cancelled` : "") +
    (f.error ? ` · ${number(f.error)} failed` : ""));
  put("hits", e.query_tokens > 0 ? number(100 * e.hit_tokens / e.query_tokens, 1) : "–");
  put("hits-total", `${number(e.hit_tokens)} of ${number(e.query_tokens)} tokens`);
  showLatency("ttft", data.ttft);
  showLatency("itl", data.itl);
  showMemory(data.memory);
  showBlocks(data.blocks);
  showCalls(data);
  chart("chart-tokens", [["prompt", "ink-warm"], ["output", "ink-accent"]]);
  chart("chart-requests", [["waiting", "ink-warm"], ["running", "ink-accent"]]);
}

function showProblem(error) {
  $("dot").className = "bad";
  $("dot").setAttribute("aria-label", "no data");
  put("model", error.message);
  const keyed = error.status === 401;
  if (keyed && $("ask").hidden) $("ask").hidden = false;
  if (keyed && settings.key) put("problem", "This key is not known here.");
}

async function look() {
  if (!document.hidden && $("ask").hidden) {
    try {
      sample(await getJson("/dashboard/data"));
      show(last);
    } catch (error) {
      showProblem(error instanceof TypeError ? new Error("no connection to the server") : error);
    }
  }
  setTimeout(look, PERIOD_MS);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  saveSetting("key", $("key").value);
  put("problem", "");
  $("ask").hidden = true;
});
$("map").addEventListener("pointermove", showHover);
$("map").addEventListener("pointerdown", showHover);
$("map").addEventListener("pointerleave", () => put("hover", ""));
addEventListener("theme", () => { if (last) drawMap(); });
addEventListener("resize", () => { if (last) show(last); });
look();
