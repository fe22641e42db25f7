// What every page does: buttons that act, times by the reader's clock, parts that live.

import { clearProblem, loadPage, Refusal, root, send, showProblem } from "./service.js";

const shown = new Map(); // what the service last sent of each living part

export function settle(part) {
  for (const time of part.querySelectorAll("time[datetime]")) {
    time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
  for (const place of part.querySelectorAll("[data-origin]")) place.textContent = location.origin;
}

// Loads this page again and puts its living parts in the place of the old ones.
export async function refresh() {
  const { status, page } = await loadPage(location.href);
  if (status !== 200) {
    const told = page.querySelector("main p")?.textContent;
    throw new Refusal(status, { detail: told || `The service answered ${status}.` });
  }
  document.title = page.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh || shown.get(part.id) === fresh.outerHTML) continue;
    shown.set(part.id, fresh.outerHTML);
    replace(part, fresh);
  }
}

// Swaps a part; what the reader has chosen, opened, focused or scrolled to stays.
function replace(part, fresh) {
  const chosen = new Set([...part.querySelectorAll("input:checked")].map((one) => one.value));
  const open = [...part.querySelectorAll("details")].map((one) => one.open);
  const focused = part.contains(document.activeElement) ? pathTo(document.activeElement) : null;
  const log = part.querySelector("pre.log");
  const scrolled = log && log.scrollTop + log.clientHeight < log.scrollHeight - 4 ? log.scrollTop : null;
  fresh.querySelectorAll("input[type=checkbox]").forEach((one) => { one.checked = chosen.has(one.value); });
  fresh.querySelectorAll("details").forEach((one, at) => { one.open = open[at] || one.open; });
  const adopted = document.adoptNode(fresh);
  settle(adopted);
  part.replaceWith(adopted);
  const newLog = adopted.querySelector("pre.log");
  if (newLog) newLog.scrollTop = scrolled ?? newLog.scrollHeight;
  if (focused) {
    const again = adopted.querySelectorAll(focused.selector)[focused.at] || document.getElementById("main");
    again.focus({ preventScroll: true });
  }
  adopted.dispatchEvent(new CustomEvent("renewed", { bubbles: true }));
}

// Where to find an element again in a part that came anew.
function pathTo(element) {
  for (const [name, value] of [["data-act", element.dataset.act], ["data-act-chosen", element.dataset.actChosen],
    ["href", element.getAttribute("href")], ["value", element.type === "checkbox" ? element.value : null]]) {
    if (value) return { selector: `${element.localName}[${name}="${CSS.escape(value)}"]`, at: 0 };
  }
  const alike = [...element.closest("[data-live]").querySelectorAll(element.localName)];
  return { selector: element.localName, at: alike.indexOf(element) };
}

async function act(button, requests) {
  // Not `disabled`, which would take the focus away.
  if (button.getAttribute("aria-disabled") === "true") return;
  if (button.dataset.confirm && !window.confirm(button.dataset.confirm)) return;
  clearProblem();
  button.setAttribute("aria-disabled", "true");
  try {
    let answer;
    for (const [method, path] of requests) answer = await send(method, path);
    const to = button.dataset.to;
    if (to === "job") location.assign(`${root}/ui/jobs/${(await answer.json()).id}`);
    else if (to) location.assign(root + to);
    else await refresh();
  } catch (error) {
    showProblem(error);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-act], button[data-act-chosen]");
  if (!button) return;
  if (button.dataset.act) {
    act(button, [button.dataset.act.split(" ")]);
    return;
  }
  const [method, path] = button.dataset.actChosen.split(" ");
  const ids = [...document.querySelectorAll("input[name=job]:checked")].map((one) => one.value);
  if (!ids.length) showProblem(new Error("Choose a job first."));
  else act(button, ids.map((id) => [method, path.replace("{id}", id)]));
});

document.addEventListener("submit", (event) => {
  if (event.target.id === "chosen" && document.querySelectorAll("input[name=job]:checked").length < 2) {
    event.preventDefault();
    showProblem(new Error("Choose two finished jobs or more to compare."));
  }
});

settle(document);
document.querySelectorAll("pre.log").forEach((one) => { one.scrollTop = one.scrollHeight; });

const pause = Math.min(...[...document.querySelectorAll("[data-every]")].map((one) => Number(one.dataset.every)));
if (Number.isFinite(pause)) {
  setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 1000 * pause);
}
