// Markdown as a model writes it, while it is being written. Elements are made one by one from texts:
// nothing in the text can become markup.
"use strict";

const MARKDOWN_DEPTH = 8; // of quotes and lists

// ---- inside a line ----

const INLINE = new RegExp([
  "``([^\\n]+?)``", "`([^`\\n]+)`",                        // code
  "\\*\\*(?=\\S)([^\\n]+?)\\*\\*",                         // strong
  "(?<![\\w*])\\*(?=[^\\s*])([^*\\n]+)\\*(?!\\w)",         // emphasis
  "(?<!\\w)_(?=[^\\s_])([^_\\n]+)_(?!\\w)",
  "~~(?=\\S)([^~\\n]+)~~",                                 // struck out
  "\\[([^\\]\\n]+)\\]\\((https?://[^\\s)]+)\\)",           // link
  "(https?://[^\\s<>\"'`)\\]]*[^\\s<>\"'`)\\].,;:!?])",    // bare address
  "(\\n)",
].join("|"), "g");

function link(href, ...children) {
  return el("a", {href, target: "_blank", rel: "noopener noreferrer"}, ...children);
}

function inline(text, depth = 0) {
  if (depth > MARKDOWN_DEPTH) return [text];
  const nodes = [];
  let at = 0;
  for (const m of text.matchAll(INLINE)) {
    if (m.index > at) nodes.push(text.slice(at, m.index));
    at = m.index + m[0].length;
    const [, code2, code, strong, em, em2, struck, label, href, address] = m;
    if (code2 ?? code) nodes.push(el("code", {}, code2 ?? code));
    else if (strong) nodes.push(el("strong", {}, ...inline(strong, depth + 1)));
    else if (em ?? em2) nodes.push(el("em", {}, ...inline(em ?? em2, depth + 1)));
    else if (struck) nodes.push(el("s", {}, ...inline(struck, depth + 1)));
    else if (href) nodes.push(link(href, ...inline(label, depth + 1)));
    else if (address) nodes.push(link(address, address));
    else nodes.push(el("br"));
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

// ---- blocks ----

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function isTable(lines, i) {
  return lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") &&
    TABLE_LINE.test(lines[i + 1]);
}

function startsBlock(lines, i) {
  const line = lines[i];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
    ITEM.test(line) || isTable(lines, i);
}

function codeBlock(language, text) {
  const copy = el("button", {type: "button", className: "copy-code"}, "Copy");
  copy.onclick = () => copyText(text, copy);
  return el("div", {className: "code"},
    el("div", {className: "code-head"}, el("span", {}, language || "text"), copy),
    el("pre", {}, el("code", {}, text)));
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function table(lines) {
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  return el("div", {className: "table"}, el("table", {},
    el("thead", {}, row(lines[0], "th")),
    el("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")))));
}

// A list: its items' lines with the indent taken off are blocks again.
function list(lines, depth) {
  const [, indent, marker] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const m = ITEM.exec(line);
    if (m && m[1].length <= indent.length + 1) items.push([m[3]]);
    else items.at(-1).push(line.replace(new RegExp(`^\\s{0,${indent.length + 4}}`), ""));
  }
  const ordered = /\d/.test(marker);
  const element = el(ordered ? "ol" : "ul", {}, ...items.map((item) => {
    const parts = blocks(item.join("\n"), depth + 1).map((block) => block.make());
    // A single paragraph stands in its item without the paragraph's space.
    if (parts[0]?.tagName === "P") parts.splice(0, 1, ...parts[0].childNodes);
    return el("li", {}, ...parts);
  }));
  if (ordered) element.start = parseInt(marker, 10);
  return element;
}

// How many lines from i on belong to one block, and how to make it.
function takeBlock(lines, i, depth) {
  let end = i + 1;
  let m = FENCE.exec(lines[i]);
  if (m) {
    while (end < lines.length && !(lines[end].trim().startsWith(m[1]) && !/[^`~\s]/.test(lines[end]))) end++;
    const text = lines.slice(i + 1, end).join("\n");
    return [end + 1, () => codeBlock(m[2], text)];
  }
  m = HEADING.exec(lines[i]);
  if (m) return [end, () => el("h" + Math.min(m[1].length + 1, 6), {}, ...inline(m[2]))];
  if (RULE.test(lines[i])) return [end, () => el("hr")];
  if (isTable(lines, i)) {
    while (end < lines.length && lines[end].includes("|")) end++;
    return [end, () => table(lines.slice(i, end))];
  }
  if (depth < MARKDOWN_DEPTH && QUOTE.test(lines[i])) {
    while (end < lines.length && QUOTE.test(lines[end])) end++;
    const text = lines.slice(i, end).map((line) => QUOTE.exec(line)[1]).join("\n");
    return [end, () => el("blockquote", {}, ...blocks(text, depth + 1).map((block) => block.make()))];
  }
  if (depth < MARKDOWN_DEPTH && ITEM.test(lines[i])) {
    const [, indent, marker] = ITEM.exec(lines[i]), ordered = /\d/.test(marker);
    const isItem = (line) => {
      const item = ITEM.exec(line);
      return item && (item[1].length > indent.length + 1 || /\d/.test(item[2]) === ordered);
    };
    const inItem = (k) => isItem(lines[k]) || /^\s{2,}\S/.test(lines[k]) ||
      (!lines[k].trim() && k + 1 < lines.length && (isItem(lines[k + 1]) || /^\s{2,}\S/.test(lines[k + 1])));
    while (end < lines.length && inItem(end)) end++;
    return [end, () => list(lines.slice(i, end), depth)];
  }
  while (end < lines.length && lines[end].trim() && !startsBlock(lines, end)) end++;
  return [end, () => el("p", {}, ...inline(lines.slice(i, end).map((line) => line.trim()).join("\n")))];
}

// [{source, make}]: the blocks of a text, each one element.
function blocks(text, depth = 0) {
  const lines = text.split("\n"), all = [];
  for (let i = 0; i < lines.length;) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const [end, make] = takeBlock(lines, i, depth);
    // A fence that is not closed yet differs from the one that is.
    all.push({source: lines.slice(i, end).join("\n") + (end > lines.length ? "\n" : ""), make});
    i = end;
  }
  return all;
}

// Shows a text that has grown: blocks that are as they were stay, so that a selection in them does.
function showMarkdown(element, text) {
  const old = element.shown || [], now = blocks(text);
  let same = 0;
  while (same < old.length && same < now.length && old[same] === now[same].source) same++;
  while (element.children.length > same) element.lastElementChild.remove();
  for (const block of now.slice(same)) element.append(block.make());
  element.shown = now.map((block) => block.source);
}

// To the clipboard, also where the page has no right to its newer interface (plain http).
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", {value: text, className: "offscreen"});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label === "Copied" ? "Copy" : label; }, 1500);
}
