// What both pages share: settings kept in the browser, light and dark, requests with the key.
"use strict";

const $ = (id) => document.getElementById(id);

// An element with properties and children; texts become text, never markup.
function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

function readSettings() {
  try {
    return JSON.parse(localStorage.getItem("sluice")) || {};
  } catch {
    return {};
  }
}

const settings = readSettings();

function saveSetting(name, value) {
  settings[name] = value;
  localStorage.setItem("sluice", JSON.stringify(settings));
}

function isDark() {
  return settings.dark ?? matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  document.documentElement.classList.toggle("dark", isDark());
  $("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  $("theme").textContent = isDark() ? "☀" : "☾";
  dispatchEvent(new Event("theme"));
}

function headers() {
  const all = {"content-type": "application/json"};
  if (settings.key) all.authorization = "Bearer " + settings.key;
  return all;
}

// What a reply that is not OK says, which may be a proxy's and no JSON, as an Error with its status.
async function refusal(response) {
  const value = await response.json().catch(() => ({}));
  const error = new Error(value.error?.message || `the server answered ${response.status}`);
  error.status = response.status;
  return error;
}

// The JSON at a path of this server.
async function getJson(path) {
  const response = await fetch(path, {headers: headers()});
  if (!response.ok) throw await refusal(response);
  return response.json();
}

$("theme").onclick = () => {
  saveSetting("dark", !isDark());
  showTheme();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
addEventListener("storage", () => {
  Object.assign(settings, readSettings());
  showTheme();
});
showTheme();
