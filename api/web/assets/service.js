// Requests to the service. Errors are its own sentences (RFC 9457).

export const root = document.body.dataset.root;
const NO_ANSWER = "The service does not answer. Is it running?";

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || `the service answered ${status}`);
    this.status = status;
    this.code = problem.code;
    this.errors = problem.errors || [];
  }
}

// Sends a request; returns the response if its status is one of success.
export async function send(method, path, { body, headers = {}, signal } = {}) {
  const options = { method, headers: { Accept: "application/json", ...headers }, signal, body };
  if (body !== undefined && !(body instanceof Blob)) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(root + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { detail: NO_ANSWER, code: "no_answer" });
  }
  if (response.status === 401) location.assign(signInAddress());
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refusal(response.status, problem);
  }
  return response;
}

// Loads one of our pages; a session that is over leads to signing in.
export async function loadPage(address) {
  let response;
  try {
    response = await fetch(address, { headers: { Accept: "text/html" } });
  } catch {
    throw new Refusal(0, { detail: NO_ANSWER, code: "no_answer" });
  }
  if (response.redirected && new URL(response.url).pathname.endsWith("/ui/sign-in")) {
    location.assign(signInAddress());
  }
  const text = await response.text();
  return { status: response.status, page: new DOMParser().parseFromString(text, "text/html") };
}

// Says what is wrong; the same thing is said once.
export function showProblem(error) {
  const place = document.getElementById("problem");
  if (!place.hidden && place.textContent === error.message) return;
  place.textContent = error.message;
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
}

export function clearProblem() {
  const place = document.getElementById("problem");
  place.hidden = true;
  place.textContent = "";
}

export function written(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${bytes.toFixed(at ? 1 : 0)} ${units[at]}`;
}

function signInAddress() {
  const here = location.pathname.slice(root.length) + location.search;
  return `${root}/ui/sign-in?next=${encodeURIComponent(here)}`;
}
