// A job's page: what happens to it is told by its event stream.

import { refresh } from "./page.js";
import { clearProblem, root, showProblem } from "./service.js";

const MIN_PAUSE = 700; // milliseconds between two looks
let due = false;
let looking = false;
let failed = false;
let gone = false;

// A look for many events; one that takes long is followed by a longer pause.
async function look() {
  due = true;
  if (looking) return;
  looking = true;
  while (due && !gone) {
    due = false;
    const started = performance.now();
    try {
      await refresh();
      if (failed) clearProblem();
      failed = false;
    } catch (error) {
      failed = true;
      gone = error.status === 404;
      showProblem(error);
    }
    const took = performance.now() - started;
    await new Promise((resume) => setTimeout(resume, Math.max(MIN_PAUSE, 4 * took)));
  }
  looking = false;
}

function follow() {
  const { job, over, lastEvent } = document.getElementById("head").dataset;
  if (over === "true") return;
  const stream = new EventSource(`${root}/jobs/${job}/events?after=${lastEvent}`);
  const kinds = ["queued", "waiting", "resumed", "started", "stage", "progress", "requeued", "cancel_requested"];
  for (const kind of kinds) stream.addEventListener(kind, look);
  for (const kind of ["succeeded", "failed", "cancelled"]) {
    stream.addEventListener(kind, () => {
      stream.close();
      look();
    });
  }
  // Lines of the log and the time that is left are no events.
  const clock = setInterval(() => {
    if (gone || document.getElementById("head").dataset.over === "true") {
      clearInterval(clock);
      stream.close();
    } else if (!document.hidden) look();
  }, 3000);
}

// The report's own plots; their style is in ours.
async function drawPlots() {
  const place = document.getElementById("plots");
  if (!place || place.childElementCount) return;
  const response = await fetch(place.dataset.report);
  if (!response.ok) return;
  const text = (await response.text()).replace(/<style>[^]*?<\/style>/, "");
  const report = new DOMParser().parseFromString(text, "text/html");
  place.replaceChildren(...[...report.querySelectorAll("main figure")].map((one) => document.importNode(one, true)));
}

document.addEventListener("renewed", drawPlots);
drawPlots();
follow();
