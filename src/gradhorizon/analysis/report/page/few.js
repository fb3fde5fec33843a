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
