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

