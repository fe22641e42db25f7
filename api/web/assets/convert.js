// The form: sends files as soon as they are chosen, asks what would happen, submits.

import { settle } from "./page.js";
import { clearProblem, loadPage, Refusal, root, send, showProblem, written } from "./service.js";
import { upload } from "./upload.js";

const form = document.getElementById("convert");
const at = (id) => document.getElementById(id);
const value = (name) => form.elements[name].value;
const chosen = (name) => form.querySelector(`input[name=${name}]:checked`)?.value;

// --- files

class SentFile {
  constructor(id) {
    this.input = at(id);
    this.bar = at(`${id}-bar`);
    this.told = at(`${id}-told`);
    this.sent = null; // of the file that was chosen last
    const drop = at(`${id}-drop`);
    this.input.addEventListener("change", () => this.take(this.input.files[0]));
    for (const kind of ["dragenter", "dragover"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
  }

  take(file) {
    this.stop?.abort();
    this.sent = null;
    if (!file) return;
    const max = Number(form.dataset.maxBytes);
    if (file.size > max) {
      this.say(`${file.name} has ${written(file.size)}; at most ${written(max)} can be sent.`);
      return;
    }
    this.stop = new AbortController();
    this.bar.hidden = false;
    const told = (bytes, words) => {
      this.bar.value = bytes / file.size;
      this.say(words || `${file.name}: ${written(bytes)} of ${written(file.size)}`);
    };
    const sending = upload(file, told, this.stop.signal);
    this.sent = sending;
    sending.then(
      (made) => {
        if (this.sent !== sending) return;
        this.bar.hidden = true;
        this.say(`${file.name}, ${written(file.size)}, SHA-256 `, made.sha256);
      },
      (error) => {
        if (this.sent !== sending || error.name === "AbortError") return;
        this.sent = null;
        this.bar.hidden = true;
        this.input.value = ""; // or choosing the same file again would tell us nothing
        this.say(error.message);
      },
    );
  }

  say(words, digest) {
    this.told.textContent = words;
    if (digest) this.told.append(Object.assign(document.createElement("code"), { textContent: digest }));
  }

  async id(what) {
    if (!this.sent) {
      this.input.focus();
      throw new Error(`Choose ${what} first.`);
    }
    return (await this.sent).id;
  }
}

const checkpoint = new SentFile("checkpoint");
const images = new SentFile("images");

// --- choices

function showChosen() {
  for (const [name, attribute] of [["kind", "kind"], ["data", "data"]]) {
    for (const part of form.querySelectorAll(`[data-${attribute}]`)) part.hidden = !part.dataset[attribute].split(" ").includes(chosen(name));
  }
}
form.addEventListener("change", showChosen);
showChosen();

at("zoo-search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const entry of at("zoo").children) {
    const has = words.every((word) => entry.dataset.words.toLowerCase().replaceAll("_", " ").includes(word)
      || entry.dataset.words.toLowerCase().includes(word));
    entry.hidden = !has;
    found += has;
  }
  at("zoo-count").textContent = found ? `${found} ${found === 1 ? "entry" : "entries"}` : "Nothing like that; a library's name may have it.";
});

at("imagenet").addEventListener("click", () => {
  for (const name of ["mean", "std"]) form.elements[name].value = form.elements[name].placeholder;
});

// --- the request

async function wanted() {
  const request = { seed: Number(value("seed")), task: value("task") };
  const kind = chosen("kind");
  if (kind === "file") request.source = { upload: await checkpoint.id("a checkpoint") };
  else request.source = { zoo: kind === "zoo" ? chosen("zoo") : value("named").trim() };
  if (kind === "file" && value("architecture").trim()) request.architecture = value("architecture").trim();
  const data = chosen("data");
  if (data === "file") request.data = { upload: await images.id("an archive of images") };
  else if (data === "registered") request.data = { registered: value("registered") };
  if (data === "file" || data === "registered") {
    request.data.labelled = form.elements.labelled.checked;
    if (value("mean").trim() || value("std").trim()) request.preprocessing = { mean: numbers("mean"), std: numbers("std") };
  } else if (data === "synthetic") request.data = { synthetic: Number(value("synthetic")) };
  const gamma = value("gamma").trim();
  request.conversion = { gamma: gamma === "auto" ? gamma : number("gamma") };
  request.measurement = { batch_size: Number(value("batch_size")), rivals: form.elements.rivals.checked };
  const steps = Number(value("max_steps"));
  const calibrate = form.elements.calibrate.checked;
  if (request.task === "finetune") request.finetuning = { max_steps: steps, calibrate };
  else if (steps === 0) request.refinement = null;
  else {
    const goal = value("goal").trim() ? { tolerable_loss: number("goal") } : null;
    request.refinement = { max_steps: steps, goal, calibrate };
  }
  if (value("name").trim()) request.name = value("name").trim();
  const tags = value("tags").split(",").map((tag) => tag.trim()).filter(Boolean);
  if (tags.length) request.tags = tags;
  return request;
}

function numbers(name) {
  return value(name).split(/[,;\s]+/).filter(Boolean).map((word) => parsed(name, word));
}

function number(name) {
  return parsed(name, value(name).trim());
}

function parsed(name, word) {
  const found = Number(word.replace("%", ""));
  if (word === "" || Number.isNaN(found)) {
    mark(form.elements[name]);
    throw new Error(`${form.querySelector(`label[for=${name}]`).textContent}: "${word}" is no number.`);
  }
  return found;
}

// Which field an error of the service means: where it points, or as far as that.
const FIELDS = {
  "/conversion": "gamma",
  "/refinement/goal": "goal",
  "/refinement/max_steps": "max_steps",
  "/finetuning/max_steps": "max_steps",
  "/measurement/batch_size": "batch_size",
  "/preprocessing": "mean",
  "/architecture": "architecture",
  "/data/synthetic": "synthetic",
  "/data/registered": "registered",
  "/source/zoo": "named",
  "/name": "name",
  "/tags": "tags",
  "/seed": "seed",
};
const FIELD_OF_CODE = { missing_preprocessing: "mean", unknown_architecture: "architecture", unknown_dataset: "registered" };

function mark(field) {
  field.closest("details")?.setAttribute("open", "");
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

function showRefusal(error) {
  if (error instanceof Refusal) {
    const named = error.errors.map(({ pointer }) => (
      Object.entries(FIELDS).find(([path]) => (pointer || "").startsWith(path))?.[1]
    ));
    for (const name of [...named, FIELD_OF_CODE[error.code]]) {
      if (name && !form.elements[name].closest("[hidden]")) mark(form.elements[name]);
    }
  }
  if (error.name !== "AbortError") showProblem(error);
}

// Does what a button stands for; another button may be pressed meanwhile.
async function doing(button, words, work) {
  if (button.getAttribute("aria-disabled") === "true") return;
  clearProblem();
  form.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
  button.setAttribute("aria-disabled", "true");
  at("form-told").textContent = words;
  try {
    await work();
  } catch (error) {
    showRefusal(error);
  } finally {
    at("form-told").textContent = "";
    button.removeAttribute("aria-disabled");
  }
}

// --- what would happen

let looking = new AbortController();

async function inspect() {
  const { signal } = looking;
  const panel = at("inspection");
  panel.hidden = true;
  let found = await (await send("POST", "/inspect", { body: await wanted(), signal })).json();
  while (found.state === "waiting") {
    at("form-told").textContent = "Looking; the inspection worker takes its time …";
    await new Promise((resume) => setTimeout(resume, 1000));
    found = await (await send("GET", `/inspections/${found.id}`, { signal })).json();
  }
  const { page } = await loadPage(`${root}/ui/inspections/${found.id}`);
  signal.throwIfAborted();
  const part = document.importNode(page.getElementById("found"), true);
  settle(part);
  panel.replaceChildren(part);
  panel.hidden = false;
  panel.focus();
}

at("inspect").addEventListener("click", (event) => doing(event.currentTarget, "Looking …", inspect));

// --- submitting; the same request that is sent twice makes one job

let submission = { text: "", key: "" };

async function convert() {
  const body = await wanted();
  const text = JSON.stringify(body);
  if (text !== submission.text) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    submission = { text, key: [...random].map((one) => one.toString(16).padStart(2, "0")).join("") };
  }
  const made = await (await send("POST", "/convert", { body, headers: { "Idempotency-Key": submission.key } })).json();
  submission = { text: "", key: "" };
  location.assign(`${root}/ui/jobs/${made.id}`);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  looking.abort();
  looking = new AbortController();
  doing(form.querySelector("button.main"), "Sending …", convert);
});
