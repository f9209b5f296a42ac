// The chat page: a conversation with /v1/chat/completions, streamed.
"use strict";

const NUMBERS = ["temperature", "top_p", "min_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const FIELDS = ["system", "key", ...NUMBERS];
const DEFAULTS = {temperature: 0.7, top_p: 0.95, min_p: 0, repetition_penalty: 1};
const STARTS = ["Tell me a story about a lighthouse.", "What makes a good friend?",
                "Write a short poem about rain."];

let messages = [];     // [{role, content}]
let running = null;    // AbortController of the answer being written

// ---- settings ----

function showFields() {
  for (const name of FIELDS) $(name).value = settings[name] ?? DEFAULTS[name] ?? "";
  showValues();
}

function showValues() {
  for (const output of document.querySelectorAll("#panel output"))
    output.textContent = output.parentElement.querySelector("input").value;
}

function openPanel(open) {
  $("panel").hidden = !open;
  $("toggle").setAttribute("aria-expanded", String(open));
}

// ---- showing ----

// Whether the reader is at the end, and so wants to stay there.
function atEnd() {
  const box = $("messages");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

function toEnd() {
  $("messages").scrollTop = $("messages").scrollHeight;
}

function addArticle(role, text) {
  const article = el("article", {className: role}, text);
  $("messages").append(article);
  toEnd();
  return article;
}

function showWelcome() {
  const starts = STARTS.map((text) => {
    const start = el("button", {type: "button"}, text);
    start.onclick = () => ask(text);
    return start;
  });
  $("messages").replaceChildren(el("section", {className: "welcome"},
    el("h2", {}, "Ask something."),
    el("p", {className: "muted"}, "The model runs on this server; nothing goes any further."),
    el("div", {className: "starts"}, ...starts)));
}

function addTools(article, text, note) {
  for (const old of document.querySelectorAll(".again")) old.remove();
  const tools = el("div", {className: "tools"});
  if (text) {
    const copy = el("button", {type: "button", className: "copy"}, "Copy");
    copy.onclick = () => copyText(text, copy);
    tools.append(copy);
  }
  const again = el("button", {type: "button", className: "again"}, text ? "Regenerate" : "Try again");
  again.onclick = regenerate;
  tools.append(again, el("span", {className: "muted figures"}, note));
  article.append(tools);
}

function setRunning(controller) {
  running = controller;
  $("send").textContent = controller ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(controller));
}

// ---- answering ----

function body() {
  const system = (settings.system ?? "").trim();
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

// An answer while it is written; drawn at most once per frame of the screen.
class Answer {
  constructor() {
    this.text = this.thought = "";
    this.start = performance.now();
    this.first = this.last = this.pieces = 0;
    this.usage = null;
    this.article = addArticle("assistant", "");
    this.thinking = el("details", {className: "thinking", hidden: true}, el("summary", {}, "Thinking"), el("div"));
    this.content = el("div", {className: "content writing"});
    this.article.append(this.thinking, this.content);
    this.drawing = false;
  }

  take(event) {
    if (event.error) throw new Error(event.error.message);
    this.usage = event.usage || this.usage;
    const delta = event.choices[0]?.delta ?? {};
    const thought = delta.reasoning ?? delta.reasoning_content ?? "";
    if (!delta.content && !thought) return;
    this.last = performance.now();
    this.first = this.first || this.last;
    this.pieces++;
    this.text += delta.content ?? "";
    this.thought += thought;
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.draw();
    });
  }

  draw() {
    const stay = atEnd();
    showMarkdown(this.content, this.text);
    this.thinking.hidden = !this.thought;
    this.thinking.lastChild.textContent = this.thought;
    if (stay) toEnd();
  }

  figures() {
    const tokens = this.usage ? this.usage.completion_tokens : this.pieces;
    const seconds = (this.last - this.first) / 1000; // the first token has no time before it
    const parts = [`${tokens} token${tokens === 1 ? "" : "s"}`];
    if (tokens > 1 && seconds > 0.02) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
    parts.push(`first after ${Math.round(this.first - this.start)} ms`);
    return parts.join(" · ");
  }

  // failure: a sentence, or ""; stopped: by the reader.
  end(failure, stopped) {
    this.draw();
    this.content.classList.remove("writing");
    if (this.text) messages.push({role: "assistant", content: this.text});
    if (failure) this.article.append(el("p", {className: "failure"}, failure));
    const note = this.first ? this.figures() : "";
    addTools(this.article, this.text, stopped ? ["stopped", note].filter(Boolean).join(" · ") : note);
    toEnd();
  }
}

async function answer() {
  const controller = new AbortController(), conversation = messages;
  setRunning(controller);
  const now = new Answer();
  let failure = "", stopped = false;
  try {
    const response = await fetch("/v1/chat/completions",
      {method: "POST", headers: headers(), body: body(), signal: controller.signal});
    if (response.status === 401) openPanel(true);
    if (!response.ok) throw await refusal(response);
    for await (const event of events(response)) now.take(event);
  } catch (error) {
    stopped = error.name === "AbortError";
    if (!stopped) failure = error.message;
  }
  if (conversation !== messages) return; // a new chat was begun
  setRunning(null);
  now.end(failure, stopped);
}

function regenerate() {
  if (running || messages.length === 0) return;
  if (messages.at(-1).role === "assistant") messages.pop();
  $("messages").lastElementChild.remove();
  answer();
}

function ask(text) {
  if (messages.length === 0) $("messages").replaceChildren();
  messages.push({role: "user", content: text});
  addArticle("user", text);
  answer();
}

function send() {
  const text = $("input").value.trim();
  if (running || !text) return;
  $("input").value = "";
  grow();
  ask(text);
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = $("input").scrollHeight + "px";
}

async function showModel() {
  try {
    const model = (await getJson("/v1/models")).data[0];
    $("model").textContent = `${model.id} · ${model.max_model_len.toLocaleString()} tokens of context`;
  } catch (error) {
    $("model").textContent = error.message;
    if (error.status === 401) {
      openPanel(true);
      $("key").focus();
    }
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else send();
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
$("toggle").onclick = () => openPanel($("panel").hidden);
$("new").onclick = () => {
  if (running) running.abort();
  messages = [];
  setRunning(null);
  showWelcome();
  $("input").focus();
};
$("reset").onclick = () => {
  for (const name of NUMBERS) saveSetting(name, undefined);
  showFields();
};
for (const name of FIELDS)
  $(name).addEventListener("input", () => {
    saveSetting(name, $(name).value);
    showValues();
  });
$("key").addEventListener("change", showModel);
showFields();
showWelcome();
showModel();
