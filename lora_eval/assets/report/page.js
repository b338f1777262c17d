(() => {
  const dialog = document.querySelector("dialog");
  const thumbs = [...document.querySelectorAll("button.thumb[data-facts]")];
  let at = -1;
  const picture = (src, full, text) => {
    const figure = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
    image.src = src;
    image.alt = text;
    if (full) { const big = new Image(); big.onload = () => { image.src = full; if (big.naturalWidth <= 128) image.className = "small-pixels"; }; big.src = full; }
    image.onload = () => { if (image.naturalWidth <= 128) image.className = "small-pixels"; };
    caption.textContent = text;
    figure.append(image, caption);
    return figure;
  };
  const show = (index) => {
    at = (index + thumbs.length) % thumbs.length;
    const button = thumbs[at], image = button.querySelector("img"), facts = JSON.parse(button.dataset.facts);
    const row = dialog.querySelector(".big"), list = dialog.querySelector("dl");
    row.replaceChildren(picture(image.src, button.dataset.full, button.title || ""));
    const twin = button.dataset.twin && document.getElementById(button.dataset.twin);
    if (twin && twin !== button) row.prepend(picture(twin.querySelector("img").src, twin.dataset.full, "without LoRA, same prompt and seed"));
    list.replaceChildren();
    for (const [name, value] of facts) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name; dd.textContent = value; list.append(dt, dd);
    }
    if (!dialog.open) dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.thumb[data-facts]");
    if (button) show(thumbs.indexOf(button));
    else if (event.target === dialog) dialog.close();
    const copy = event.target.closest("button[data-copy]");
    if (copy && navigator.clipboard) navigator.clipboard.writeText(copy.dataset.copy).then(() => { copy.textContent = "copied"; });
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
