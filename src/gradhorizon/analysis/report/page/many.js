// Of a page with many charts only those near the window are drawn, and let go when they are far: a browser holds no
// hundred of them at once.
const unpackedColumn = (column) => Array.isArray(column) ? column : column.at.map((index) => column.words[index]);

function unpackedRows(columns) {
  const names = Object.keys(columns);
  const values = names.map((name) => unpackedColumn(columns[name]));
  return (values[0] ?? []).map((_, row) => Object.fromEntries(names.map((name, at) => [name, values[at][row]])));
}

function unpacked(spec) {
  const named = Object.entries(spec.datasets).map(([name, columns]) => [name, unpackedRows(columns)]);
  return { ...spec, datasets: Object.fromEntries(named) };
}

const owned = panels.map((spec) => new Set(spec.params.find((one) => one.name === "shown").value));
const numberOf = (element) => Number(element.dataset.panel);
const wanted = new Set();

async function draw(element) {
  const number = numberOf(element);
  const own = (labels) => labels.filter((label) => owned[number].has(label));
  const result = await vegaEmbed(element, unpacked(panels[number]), { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } });
  await result.view.signal("shown", own(shown())).runAsync();
  views.set(element, { signal: (name, labels) => result.view.signal(name, own(labels)), release: () => result.finalize() });
  document.documentElement.dataset.drawn = String(views.size);
  if (!wanted.has(element)) release(element);
}

function release(element) {
  if (!views.has(element)) return;
  views.get(element).release();
  views.delete(element);
  element.replaceChildren();
}

const broken = (error) => { document.documentElement.dataset.error = String(error); throw error; };
let drawing = Promise.resolve();
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) { wanted.delete(target); release(target); continue; }
    wanted.add(target);
    drawing = drawing.then(() => wanted.has(target) && !views.has(target) ? draw(target) : null).catch(broken);
  }
}, { rootMargin: "1200px 0px" });
document.querySelectorAll(".chart").forEach((element) => observer.observe(element));

function hideEmpty() {
  const labels = shown();
  for (const element of document.querySelectorAll(".chart")) {
    element.closest("figure").hidden = !labels.some((label) => owned[numberOf(element)].has(label));
  }
}

const search = document.querySelector(".chips input");
search?.addEventListener("input", () => {
  const text = search.value.toLowerCase();
  press((chip) => nameOf(chip).toLowerCase().includes(text));
  hideEmpty();
});
document.querySelector(".chips").addEventListener("click", (event) => {
  if (event.target.closest(".all") && search) search.value = "";
  hideEmpty();
});
