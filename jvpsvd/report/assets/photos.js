"use strict";
// Photos and their vectors: one photo at a time, and its vectors added to it.
(() => {
  const box = document.getElementById("photos");
  if (!box) return;
  const panels = Array.from(box.querySelectorAll(".panel")), picks = Array.from(box.querySelectorAll("input[name=photo]"));
  const slider = box.querySelector("#step"), told = box.querySelector("#step-told");
  const loaded = (image) => image.decode().catch(() => {}).then(() => image);

  function pixels(image, side) {
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side }), paint = canvas.getContext("2d", { willReadFrequently: true });
    paint.drawImage(image, 0, 0, side, side);
    return [canvas, paint, paint.getImageData(0, 0, side, side)];
  }
  const originals = new WeakMap();
  let latest = 0;
  async function show() {
    const turn = (latest += 1);
    const which = picks.findIndex((pick) => pick.checked), step = slider ? Number(slider.value) : 0;
    panels.forEach((panel, i) => { panel.hidden = i !== which && panels.length > 1; });
    const panel = panels[Math.max(0, which)], photo = picks[Math.max(0, which)].parentElement.querySelector("img.photo");
    if (told) told.textContent = step ? `photo ${step > 0 ? "+" : "−"} εv, up to ${Math.abs(step)} grey levels` : "v alone";
    if (!photo) return;
    await loaded(photo);
    const images = Array.from(panel.querySelectorAll("img.vector")), fresh = images.filter((image) => !originals.has(image));
    for (const image of fresh) originals.set(image, [image.src, Object.assign(new Image(), { src: image.src })]);
    await Promise.all(fresh.map((image) => loaded(originals.get(image)[1])));
    if (turn !== latest) return;  // another choice was made while images were read
    for (const image of images) {
      const [source, first] = originals.get(image);
      if (!step) { image.src = source; continue; }
      const [canvas, paint, sum] = pixels(photo, first.naturalWidth), [, , change] = pixels(first, first.naturalWidth);
      for (let i = 0; i < sum.data.length; i += 4) for (let c = 0; c < 3; c += 1) sum.data[i + c] += (step * (change.data[i + c] - 127.5)) / 127.5;
      paint.putImageData(sum, 0, 0);
      image.src = canvas.toDataURL();
    }
  }
  for (const control of [...picks, ...(slider ? [slider] : [])]) control.addEventListener("input", show);
  show();
})();
