"use strict";
const HEAVIEST = 24 * 1024 * 1024;
const one = (name, within = document) => within.querySelector(name);
const sides = [];
let picture = null;
let turn = 0;
let waiting = 0;
const page = `${Date.now()}-${Math.random()}`;

function say(error) { one("#error").textContent = error || ""; }

function filled(select, names) {
  for (const [place, name] of names.entries()) select.add(new Option(name, select.className === "run" ? place : name));
}

function side(offer, number) {
  const made = one("#side").content.cloneNode(true).firstElementChild;
  filled(one(".run", made), offer.runs);
  filled(one(".strategy", made), offer.strategies);
  one(".strategy", made).value = number ? "grid" : "foveal";
  one(".run", made).value = String(Math.min(number, offer.runs.length - 1));
  if (offer.runs.length > 1 && number) one(".strategy", made).value = "foveal";
  made.hidden = number > 0 && offer.runs.length < 2;
  for (const moved of made.querySelectorAll("input, select")) {
    moved.addEventListener("input", () => told(made));
    moved.addEventListener("change", soon);
  }
  one("#sides").append(made);
  sides.push(made);
  told(made);
}

function wanted(made) {
  const budget = one(".budget", made), price = one(".price", made).value;
  const explore = Number(one(".explore", made).value);
  return {
    run: Number(one(".run", made).value),
    strategy: one(".strategy", made).value,
    budget: price !== "" || budget.value === budget.max ? null : Number(budget.value),
    price: price === "" ? null : Number(price),
    explore: explore < 0 ? null : explore,
    temperature: Number((2 ** Number(one(".temperature", made).value)).toFixed(3)),
  };
}

function told(made) {
  const now = wanted(made);
  one(".budget-told", made).textContent = now.price !== null ? "as the price says" : now.budget === null ? "all" : String(now.budget);
  one(".explore-told", made).textContent = now.explore === null ? "by the question" : now.explore.toFixed(2);
  one(".temperature-told", made).textContent = now.temperature.toFixed(2);
}

function soon() {
  clearTimeout(waiting);
  if (picture) waiting = setTimeout(askAll, 300);
}

async function ask(made) {
  const body = JSON.stringify({ picture: picture.data, name: picture.name, question: one("#question").value, page, turn, ...wanted(made) });
  let reply, said;
  try {
    reply = await fetch("ask", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    said = await reply.json();
  } catch {
    throw new Error("the microscope does not answer; is foveal app still running?");
  }
  if (said.error) throw new Error(said.error);
  return said;
}

async function askAll() {
  clearTimeout(waiting);
  say("");
  if (!picture) return say("there is no picture yet; drop one on the page");
  const mine = ++turn;
  one("#busy").textContent = "looking ...";
  try {
    for (const made of sides.filter((each) => !each.hidden)) {
      const said = await ask(made);
      if (mine !== turn) return;
      show(made, said);
    }
  } catch (error) {
    if (mine === turn) say(error.message);
  } finally {
    if (mine === turn) one("#busy").textContent = "";
  }
}

function row(table, name, told) {
  const line = table.insertRow();
  for (const text of [name, told.visual_tokens, told.seconds.toFixed(2), told.answer]) line.insertCell().textContent = text;
}

function show(made, said) {
  const budget = one(".budget", made), all = said.all.visual_tokens;
  const whole = budget.value === budget.max && one(".price", made).value === "";
  budget.max = String(all);
  budget.value = String(whole || said.budget === null ? all : Math.min(said.budget, all));
  told(made);
  one(".answer", made).textContent = said.answer;
  const table = one(".cost tbody", made);
  table.replaceChildren();
  row(table, "now", said);
  row(table, "all tokens", said.all);
  one(".paid", made).textContent = said.price === null ? "" : `the last token of this budget gains ${said.price.toPrecision(3)} in the tree of foveal: the price it is bought at`;
  one(".notes", made).textContent = said.notes.join("; ");
  for (const group of made.querySelectorAll(".panels")) {
    group.replaceChildren(...said.panels.filter((each) => each.group === group.dataset.group).map(figure));
  }
  made.dataset.asked = String(turn);
}

function figure(panel) {
  const made = document.createElement("figure"), caption = document.createElement("figcaption");
  if (panel.src) {
    const image = document.createElement("img");
    image.src = panel.src;
    image.alt = panel.name;
    made.append(image);
  }
  caption.textContent = panel.name;
  const note = document.createElement("small");
  note.textContent = panel.note;
  caption.append(note);
  made.append(caption);
  return made;
}

function take(file) {
  say("");
  if (!file) return;
  if (file.size > HEAVIEST) return say(`${file.name} is too heavy; give a picture of at most 24 MB`);
  const reader = new FileReader();
  reader.onerror = () => say(`${file.name} cannot be read; choose it once more`);
  reader.onload = () => {
    picture = { name: file.name, data: reader.result.slice(reader.result.indexOf(",") + 1) };
    const shown = one("#picture");
    shown.src = reader.result.startsWith("data:image/") ? reader.result : "data:,";
    shown.hidden = !reader.result.startsWith("data:image/");
    one("#hint").textContent = shown.hidden ? file.name : "";
    askAll();
  };
  reader.readAsDataURL(file);
}

async function begin() {
  const offer = await (await fetch("offer")).json();
  for (const number of [0, 1]) side(offer, number);
  one("#beside").checked = offer.runs.length > 1;
  one("#beside").addEventListener("change", () => { sides[1].hidden = !one("#beside").checked; soon(); });
  one("#form").addEventListener("submit", (event) => { event.preventDefault(); askAll(); });
  one("#file").addEventListener("change", (event) => take(event.target.files[0]));
  const drop = one("#drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
  }
  drop.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  drop.addEventListener("keydown", (event) => { if (event.key === "Enter") one("#file").click(); });
}
begin().catch(() => say("the microscope does not answer; is foveal app still running?"));
