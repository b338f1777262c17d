(() => {
  const root = document.documentElement, dialog = document.querySelector("dialog");
  const theme = new URLSearchParams(location.search).get("theme");
  if (theme) root.dataset.theme = theme;
  const source = document.getElementById("cells").textContent;
  const data = source ? JSON.parse(source) : null;
  const words = data ? data.words : {};
  // pictures elsewhere on the disk cannot be asked for by a page that came from a server
  const reachable = (link) => link && (location.protocol === "file:" || !/^(file:|\.\.)/.test(link));
  const element = (tag, text, css) => { const made = document.createElement(tag); if (text) made.textContent = text; if (css) made.className = css; return made; };
  const figure = (src, full, text) => {
    const made = element("figure"), image = new Image();
    const pixels = () => { image.className = image.naturalWidth <= 128 ? "small-pixels" : ""; };
    image.onload = pixels;
    image.src = src;
    image.alt = text;
    if (reachable(full)) { const big = new Image(); big.onload = () => { image.src = full; }; big.src = full; }
    made.append(image, element("figcaption", text));
    return made;
  };
  const fixed = (value, digits, sign) => (sign && value >= 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
  const thumb = (button) => button.querySelector("img").src;

  // -- what is told about a picture -------------------------------------------------------------
  const ofCell = (cell) => {
    const button = document.getElementById("c" + cell), pictures = [], facts = [];
    const twin = data.twin[cell], near = data.references[data.near[cell]];
    if (twin >= 0) pictures.push([thumb(document.getElementById("c" + twin)), data.images[twin], words.base]);
    pictures.push([thumb(button), data.images[cell], button.title]);
    if (near) pictures.push([near.src, near.full, words.reference + ": " + near.name]);
    facts.push([words.prompt, data.axes.prompt[data.at.prompt[cell]], ""]);
    for (const metric of data.metrics) {
      const value = metric.values[cell];
      if (value !== null) facts.push([metric.label, fixed(value, metric.digits, metric.sign), metric.about]);
    }
    if (data.nearCosine[cell] !== null) facts.push([words.cosine, fixed(data.nearCosine[cell], 3), ""]);
    if (data.names[cell]) facts.push([words.training, data.names[cell], ""]);
    facts.push([words.file, data.files[cell], ""]);
    return { pictures, facts };
  };
  const ofButton = (button) => {
    if (button.dataset.cell) return ofCell(Number(button.dataset.cell));
    const twin = button.dataset.twin && document.getElementById(button.dataset.twin);
    const pictures = [[thumb(button), button.dataset.full, button.title]];
    if (twin && twin !== button) pictures.unshift([thumb(twin), twin.dataset.full, twin.title]);
    return { pictures, facts: JSON.parse(button.dataset.facts) };
  };

  // -- large pictures ---------------------------------------------------------------------------
  let around = [], at = 0, back = null;
  const show = (index) => {
    at = (index + around.length) % around.length;
    const told = ofButton(around[at]), list = dialog.querySelector("dl");
    dialog.querySelector(".big").replaceChildren(...told.pictures.map((one) => figure(...one)));
    dialog.querySelector(".where").textContent = around.length > 1 ? `${at + 1} / ${around.length}` : "";
    list.replaceChildren();
    for (const [name, value, about] of told.facts) {
      const term = element("dt", name);
      if (about) term.title = about;
      list.append(term, element("dd", value));
    }
    if (!dialog.open) { dialog.showModal(); dialog.querySelector(".next").focus(); }
  };
  const open = (buttons, button, from) => { around = buttons; back = from || button; show(Math.max(0, buttons.indexOf(button))); };
  dialog.addEventListener("close", () => { if (back) back.focus(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (step) { event.preventDefault(); show(at + step); }
    if (event.key === "Home") show(0);
    if (event.key === "End") show(-1);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog) return dialog.close();
    if (!button) return;
    if (button.matches(".thumb[data-cell], .thumb[data-facts]")) open([...document.querySelectorAll("button.thumb[data-cell], button.thumb[data-facts]")], button);
    else if (button.dataset.cells) {
      const cells = button.dataset.cells.split(",").map((cell) => document.getElementById("c" + cell)).filter(Boolean);
      if (cells.length) open(cells, cells[0], button);
    } else if (button.matches("dialog .back")) show(at - 1);
    else if (button.matches("dialog .next")) show(at + 1);
    else if (button.matches("dialog .close")) dialog.close();
    else if (button.dataset.copy && navigator.clipboard) navigator.clipboard.writeText(button.dataset.copy).then(() => { button.textContent = button.dataset.done || "✓"; }, () => {});
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

  // -- the map ----------------------------------------------------------------------------------
  const map = document.getElementById("map");
  if (!map) return;
  const axes = ["weight", "checkpoint", "prompt", "seed"];
  const select = Object.fromEntries([...document.querySelectorAll("select[data-map]")].map((one) => [one.dataset.map, one]));
  const count = data.images.length, bare = (checkpoint) => checkpoint === 0;
  const places = (x, y, held) => {
    const found = new Map(), many = data.axes.checkpoint.length > 1;
    for (let cell = 0; cell < count; cell++) {
      const base = bare(data.at.checkpoint[cell]);
      if (axes.some((axis) => axis in held && held[axis] >= 0 && data.at[axis][cell] !== held[axis] && !(axis === "checkpoint" && base))) continue;
      if (base && x !== "weight" && y !== "weight" && held.weight !== data.at.weight[cell]) continue;
      const every = data.axes.checkpoint.map((_, index) => index).slice(1);
      const along = (axis) => axis === "checkpoint" && base && many ? every : [data.at[axis][cell]];
      for (const row of along(y)) for (const column of along(x)) {
        const key = row + "," + column;
        if (!found.has(key)) found.set(key, []);
        found.get(key).push(cell);
      }
    }
    return found;
  };
  const colour = (value, low, high, kind) => {
    let share, hue;
    if (kind === "gain") { share = Math.min(1, Math.abs(value) / (Math.max(Math.abs(low), Math.abs(high)) || 1)); hue = value >= 0 ? "0,114,178" : "213,94,0"; }
    else { share = high > low ? (value - low) / (high - low) : 0.5; hue = kind === "fault" ? "213,94,0" : "0,114,178"; }
    return `background:rgba(${hue},${(0.06 + 0.84 * share).toFixed(2)})` + (share > 0.62 ? ";color:#fff" : "");
  };
  const draw = () => {
    const x = select.x.value, y = select.y.value, held = {};
    const metric = data.metrics.find((one) => one.key === select.metric.value);
    for (const axis of axes) {
      select[axis].parentElement.hidden = axis === x || axis === y;
      if (axis !== x && axis !== y) held[axis] = Number(select[axis].value);
    }
    document.getElementById("map-about").textContent = metric.about;
    const found = places(x, y, held), means = new Map();
    for (const [key, cells] of found) {
      const values = cells.map((cell) => metric.values[cell]).filter((value) => value !== null);
      if (values.length) means.set(key, values.reduce((a, b) => a + b, 0) / values.length);
    }
    const low = Math.min(...means.values()), high = Math.max(...means.values());
    const used = (place) => [...new Set([...found.keys()].map((key) => Number(key.split(",")[place])))].sort((a, b) => a - b);
    const rows = used(0), columns = used(1), single = [...found.values()].every((cells) => cells.length === 1);
    const head = element("tr"), body = element("tbody"), top = element("thead");
    head.append(element("th", `${data.titles[y]} ↓ ${data.titles[x]} →`, "quiet"), ...columns.map((column) => element("th", data.axes[x][column])));
    top.append(head);
    for (const row of rows) {
      const line = element("tr"), name = element("th", data.axes[y][row]);
      name.scope = "row";
      line.append(name);
      for (const column of columns) {
        const place = element("td"), cells = found.get(row + "," + column), mean = means.get(row + "," + column);
        if (!cells) { place.textContent = "–"; line.append(place); continue; }
        const button = element("button");
        button.type = "button";
        button.dataset.cells = cells.join(",");
        button.title = `${cells.length} ${words.pictures}`;
        if (single) {
          const small = new Image();
          small.loading = "lazy"; small.width = 64; small.alt = ""; small.src = thumb(document.getElementById("c" + cells[0]));
          button.append(small);
        }
        button.append(element("span", mean === undefined ? "–" : fixed(mean, metric.digits, metric.sign)));
        place.append(button);
        if (mean !== undefined) place.style.cssText = colour(mean, low, high, metric.colour);
        const here = { ...held, [x]: column, [y]: row };
        const told = [x, y].some((axis) => axis === "weight" || axis === "checkpoint");
        if (told && data.pick.weight >= 0 && here.weight === data.pick.weight && here.checkpoint === data.pick.checkpoint) place.className = "pick";
        line.append(place);
      }
      body.append(line);
    }
    map.replaceChildren(top, body);
  };
  for (const [name, one] of Object.entries(select)) one.addEventListener("change", () => {
    // two axes cannot be the same: the other one takes what was left
    const other = { x: "y", y: "x" }[name];
    if (other && select[other].value === one.value) select[other].value = axes.find((axis) => axis !== one.value && axis !== select[other].value);
    draw();
  });
  draw();
})();
