"use strict";
const panels = JSON.parse(document.getElementById("panels").textContent);
const chips = [...document.querySelectorAll(".chips button[data-series]")];
const views = new Map();
const nameOf = (chip) => chip.dataset.series;
const shown = () => chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map(nameOf);

function apply() {
  const labels = shown();
  for (const view of views.values()) view.signal("shown", labels).runAsync();
  for (const row of document.querySelectorAll("tr[data-series]")) row.hidden = !labels.includes(row.dataset.series);
}

function press(keep) {
  for (const chip of chips) chip.setAttribute("aria-pressed", String(keep(chip)));
  apply();
}

for (const chip of chips) {
  chip.addEventListener("click", (event) => {
    if (event.shiftKey) press((other) => other === chip);
    else press((other) => (other === chip) !== (other.getAttribute("aria-pressed") === "true"));
  });
}
document.querySelector(".chips .all").addEventListener("click", () => press(() => true));

async function draw(element) {
  const spec = panels[Number(element.dataset.panel)];
  const result = await vegaEmbed(element, spec, { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } });
  result.view.signal("shown", shown());
  await result.view.runAsync();
  element.style.minHeight = 0;
  views.set(element, result.view);
}

Promise.all([...document.querySelectorAll(".chart")].map(draw))
  .then(() => { document.documentElement.dataset.drawn = String(views.size); })
  .catch((error) => { document.documentElement.dataset.error = String(error); throw error; });
