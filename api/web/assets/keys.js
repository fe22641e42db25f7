// Making an API key; its secret is shown once.

import { refresh } from "./page.js";
import { clearProblem, send, showProblem } from "./service.js";

const form = document.getElementById("new-key");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearProblem();
  const given = new FormData(form);
  const days = given.get("days");
  const wanted = {
    name: given.get("name"),
    tenant: given.get("tenant"),
    scopes: given.getAll("scopes"),
    expires_in_days: days ? Number(days) : null,
  };
  try {
    const made = await (await send("POST", "/keys", { body: wanted })).json();
    document.getElementById("secret-value").textContent = made.secret;
    document.getElementById("secret").hidden = false;
    form.reset();
    await refresh();
  } catch (error) {
    showProblem(error);
  }
});
