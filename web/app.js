// The chat page: a conversation with /v1/chat/completions, streamed.
"use strict";

const $ = (id) => document.getElementById(id);
const SETTINGS = ["system", "temperature", "top_p", "min_p", "repetition_penalty", "max_tokens",
                  "seed", "key", "dark"];
const NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed"];
const DEFAULTS = {temperature: 0.7, top_p: 0.95, min_p: 0, repetition_penalty: 1};

let messages = [];     // [{role, content}]
let running = null;    // AbortController of the answer being written

// ---- settings ----

function loadSettings() {
  const saved = JSON.parse(localStorage.getItem("sluice") || "{}");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  for (const name of SETTINGS) {
    const value = saved[name] ?? DEFAULTS[name];
    if (name === "dark") $(name).checked = value ?? dark;
    else if (value !== undefined) $(name).value = value;
    $(name).addEventListener("input", saveSettings);
  }
  showSettings();
}

function saveSettings() {
  const saved = {};
  for (const name of SETTINGS) saved[name] = name === "dark" ? $(name).checked : $(name).value;
  localStorage.setItem("sluice", JSON.stringify(saved));
  showSettings();
}

function showSettings() {
  document.documentElement.classList.toggle("dark", $("dark").checked);
  for (const output of document.querySelectorAll("#panel output"))
    output.textContent = output.parentElement.querySelector("input").value;
}

function headers() {
  const all = {"content-type": "application/json"};
  if ($("key").value) all.authorization = "Bearer " + $("key").value;
  return all;
}

// ---- markdown: a small, safe part of it ----

function escapeHtml(text) {
  return text.replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[c]);
}

function inline(text) {
  // Code spans are set aside first, so that nothing inside them is formatted.
  const spans = [];
  text = escapeHtml(text.replace(/\u0000/g, "")).replace(/`([^`\n]+)`/g, (_, code) => {
    spans.push(code);
    return `\u0000${spans.length - 1}\u0000`;
  });
  text = text.replace(/\*\*([^*\n]+)\*\*/g, "<strong>$1</strong>")
    .replace(/(^|[\s(])\*([^*\s][^*\n]*)\*/g, "$1<em>$2</em>")
    .replace(/\[([^\]\n]+)\]\((https?:[^\s)]+)\)/g, '<a href="$2" rel="noopener noreferrer" target="_blank">$1</a>');
  return text.replace(/\u0000(\d+)\u0000/g, (_, i) => `<code>${spans[i]}</code>`);
}

function table(rows) {
  const cells = (row, tag) => "<tr>" + row.replace(/^\||\|$/g, "").split("|")
    .map((cell) => `<${tag}>${inline(cell.trim())}</${tag}>`).join("") + "</tr>";
  return `<table>${cells(rows[0], "th")}${rows.slice(2).map((row) => cells(row, "td")).join("")}</table>`;
}

function block(text) {
  const lines = text.split("\n");
  if (lines.length > 1 && lines[0].includes("|") && /^[\s|:-]+$/.test(lines[1])) return table(lines);
  const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
  if (heading) {
    const level = heading[1].length + 1;
    const rest = lines.slice(1).join("\n");
    return `<h${level}>${inline(heading[2])}</h${level}>` + (rest.trim() ? block(rest) : "");
  }
  if (lines.every((line) => /^\s*[-*]\s+/.test(line)))
    return "<ul>" + lines.map((line) => `<li>${inline(line.replace(/^\s*[-*]\s+/, ""))}</li>`).join("") + "</ul>";
  if (lines.every((line) => /^\s*\d+[.)]\s+/.test(line)))
    return "<ol>" + lines.map((line) => `<li>${inline(line.replace(/^\s*\d+[.)]\s+/, ""))}</li>`).join("") + "</ol>";
  return `<p>${lines.map(inline).join("<br>")}</p>`;
}

function markdown(text) {
  let html = "";
  text.split(/^```/m).forEach((part, i) => {
    if (i % 2) {
      const newline = part.indexOf("\n");
      html += `<pre><code>${escapeHtml(newline < 0 ? "" : part.slice(newline + 1))}</code></pre>`;
    } else {
      html += part.split(/\n{2,}/).filter((p) => p.trim()).map((p) => block(p.replace(/^\n+|\n+$/g, ""))).join("");
    }
  });
  return html;
}

// ---- showing ----

function addArticle(role, text) {
  const article = document.createElement("article");
  article.className = role;
  if (role === "assistant") article.innerHTML = markdown(text);
  else article.textContent = text;
  $("messages").append(article);
  article.scrollIntoView({block: "end"});
  return article;
}

function addTools(article, text, timing) {
  for (const old of document.querySelectorAll(".tools .again")) old.remove();
  const tools = document.createElement("div");
  tools.className = "tools";
  const button = (label, action, name) => {
    const b = document.createElement("button");
    b.type = "button";
    b.textContent = label;
    b.className = name;
    b.onclick = () => action(b);
    tools.append(b);
  };
  button("Copy", async (b) => {
    await navigator.clipboard.writeText(text);
    b.textContent = "Copied";
    setTimeout(() => { b.textContent = "Copy"; }, 1500);
  }, "copy");
  button("Regenerate", regenerate, "again");
  const figure = document.createElement("span");
  figure.className = "muted";
  figure.textContent = timing;
  tools.append(figure);
  article.append(tools);
}

function setRunning(controller) {
  running = controller;
  $("send").textContent = controller ? "Stop" : "Send";
}

// ---- answering ----

function body() {
  const system = $("system").value.trim();
  const request = {
    messages: system ? [{role: "system", content: system}, ...messages] : messages,
    stream: true, stream_options: {include_usage: true},
  };
  for (const name of NUMBERS) if ($(name).value !== "") request[name] = Number($(name).value);
  return JSON.stringify(request);
}

// Yields the JSON of each "data:" line of an event stream.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines)
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

async function answer() {
  const article = addArticle("assistant", "");
  const controller = new AbortController();
  setRunning(controller);
  let text = "", first = 0, usage = null, failed = "";
  const start = performance.now();
  try {
    const response = await fetch("/v1/chat/completions",
      {method: "POST", headers: headers(), body: body(), signal: controller.signal});
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage || usage;
      const piece = event.choices[0]?.delta?.content;
      if (!piece) continue;
      first = first || performance.now();
      text += piece;
      article.innerHTML = markdown(text);
      $("messages").scrollTop = $("messages").scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") failed = error.message;
  }
  setRunning(null);
  if (failed) {
    addArticle("error", failed);
    if (!text) article.remove();
  }
  if (text) {
    messages.push({role: "assistant", content: text});
    const seconds = (performance.now() - first) / 1000;
    const tokens = usage ? usage.completion_tokens - 1 : 0; // the first has no time before it
    const rate = tokens > 0 && seconds > 0 ? `${(tokens / seconds).toFixed(1)} tokens/s · ` : "";
    addTools(article, text, `${rate}first token after ${Math.round(first - start)} ms`);
  }
}

function regenerate() {
  if (running || messages.at(-1)?.role !== "assistant") return;
  messages.pop();
  $("messages").querySelector("article.assistant:last-of-type").remove();
  answer();
}

async function send() {
  if (running) {
    running.abort();
    return;
  }
  const text = $("input").value.trim();
  if (!text) return;
  $("input").value = "";
  grow();
  messages.push({role: "user", content: text});
  addArticle("user", text);
  await answer();
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = $("input").scrollHeight + 2 + "px";
}

async function showModel() {
  try {
    const response = await fetch("/v1/models", {headers: headers()});
    const list = await response.json();
    if (!response.ok) throw new Error(list.error.message);
    const model = list.data[0];
    $("model").textContent = `${model.id} · ${model.max_model_len.toLocaleString()} tokens of context`;
  } catch (error) {
    $("model").textContent = error.message;
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) send();
  }
});
$("toggle").onclick = () => {
  $("panel").hidden = !$("panel").hidden;
  $("toggle").setAttribute("aria-expanded", String(!$("panel").hidden));
};
$("new").onclick = () => {
  if (running) running.abort();
  messages = [];
  $("messages").replaceChildren();
  $("input").focus();
};
$("key").addEventListener("change", showModel);
loadSettings();
showModel();
