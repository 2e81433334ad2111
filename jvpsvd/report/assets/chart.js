"use strict";
// Figures as SVG: axes, lines, bands, points and cells. Colours are variables of the style sheet, so
// that a figure follows the reader's setting; text of the run becomes text nodes and nothing else.
const charts = (() => {
  function make(name, attributes, parent, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) if (value !== null) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }
  const brief = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  const raised = (n) => [...String(n)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");

  // Numbers as a person writes them on an axis.
  function tickText(value) {
    const size = Math.abs(value);
    if (size && (size >= 1e5 || size < 1e-3)) {
      const power = Math.floor(Math.log10(size) + 1e-9), lead = Number((value / 10 ** power).toPrecision(3));
      return lead === 1 ? `10${raised(power)}` : `${lead}·10${raised(power)}`;
    }
    return String(Number(value.toPrecision(6)));
  }

  // Where an axis has its ticks; `whole` leaves whole numbers, and adds 1, where an index begins.
  function ticksOf([low, high], log, most, whole) {
    const found = [];
    if (log) {
      const decades = Math.log10(high / low), step = Math.max(1, Math.ceil(decades / most));
      const leads = decades > 2.2 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
        if (power % step === 0) for (const lead of leads) found.push(Number(`${lead}e${power}`));
      }
    } else {
      const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
      const step = Math.max(whole ? 1 : 0, power * [1, 2, 5, 10].find((n) => n * power >= rough * 0.999));
      for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-9); n += 1) found.push(Number((n * step).toPrecision(10)));
      if (whole && low <= 1 && !found.includes(1)) found.unshift(1);
    }
    return found.filter((v) => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9) && (!whole || Number.isInteger(v)) && (log || whole || v >= low));
  }

  // The range of numbers with some air around them.
  function rangeOf(values, log, air = 0.05) {
    const known = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
    if (!known.length) return log ? [0.1, 10] : [0, 1];
    let low = known[0], high = known[0];
    for (const v of known) { if (v < low) low = v; if (v > high) high = v; }
    if (!log) return low === high ? [low - 1, high + 1] : [low - air * (high - low), high + air * (high - low)];
    const factor = low === high ? 3 : (high / low) ** air;
    return [low / factor, high * factor];
  }

  function scale([low, high], [from, to], log) {
    const f = log ? Math.log10 : (v) => v, step = (to - from) / (f(high) - f(low) || 1);
    return (v) => from + (f(v) - f(low)) * step;
  }

  // An axis is {range, log, label, whole} or {names}, which stand at 0, 1, …
  class Chart {
    constructor(host, height, x, y, { left = null, right = 10, top = 10, bottom = null } = {}) {
      const width = host.clientWidth || 640, short = width < 500;
      this.width = width;
      this.spots = [];
      const yTicks = y.names ? y.names.map((_, i) => i) : ticksOf(y.range, y.log, Math.max(3, height / 55), y.whole);
      const yText = yTicks.map((v) => (y.names ? brief(y.names[v], short ? 12 : 22) : tickText(v)));
      const slanted = x.names && x.names.some((name) => name.length * 7.2 > (width - 80) / x.names.length);
      const margin = {
        left: left ?? 14 + (y.label ? 20 : 0) + 6.7 * Math.max(0, ...yText.map((text) => text.length)), right, top,
        bottom: bottom ?? (x.names ? (slanted ? 84 : 34) : 46),
      };
      this.area = { left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
      const { left: l, right: r, top: t, bottom: b } = this.area;
      this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", focusable: "false" });
      this.X = scale(x.names ? [-0.5, x.names.length - 0.5] : x.range, [l, r], x.log);
      this.Y = scale(y.names ? [-0.5, y.names.length - 0.5] : y.range, y.names ? [t, b] : [b, t], y.log);
      const axes = make("g", { class: "axes" }, this.svg);
      yTicks.forEach((v, i) => {
        if (!y.names) make("line", { x1: l, x2: r, y1: this.Y(v), y2: this.Y(v), class: "grid" }, axes);
        make("text", { x: l - 7, y: this.Y(v), dy: "0.32em", "text-anchor": "end" }, axes, yText[i]);
      });
      const xTicks = x.names ? x.names.map((_, i) => i) : ticksOf(x.range, x.log, Math.max(3, (r - l) / 75), x.whole);
      for (const v of xTicks) {
        const px = this.X(v);
        make("line", { x1: px, x2: px, y1: b, y2: b + 5, class: "tick" }, axes);
        const turn = slanted ? { "text-anchor": "end", transform: `rotate(-35 ${px} ${b + 14})` } : { "text-anchor": "middle" };
        make("text", { x: px, y: b + 18, ...turn }, axes, x.names ? brief(x.names[v], 16) : tickText(v));
      }
      if (!y.names) make("line", { x1: l, x2: l, y1: t, y2: b, class: "tick" }, axes);
      make("line", { x1: l, x2: r, y1: b, y2: b, class: "tick" }, axes);
      if (x.label) make("text", { x: (l + r) / 2, y: height - 6, "text-anchor": "middle", class: "label" }, axes, x.label);
      if (y.label) make("text", { x: 12, y: (t + b) / 2, "text-anchor": "middle", class: "label", transform: `rotate(-90 12 ${(t + b) / 2})` }, axes, y.label);
      const clip = `clip-${host.id}`;
      make("rect", { x: l, y: t - 2, width: r - l + 2, height: b - t + 4 }, make("clipPath", { id: clip }, this.svg));
      this.marks = make("g", { "clip-path": `url(#${clip})` }, this.svg);
    }
    path(xs, ys) {
      let text = "", open = false;
      for (let i = 0; i < xs.length; i += 1) {
        const fine = Number.isFinite(xs[i]) && Number.isFinite(ys[i]);
        if (fine) text += `${open ? "L" : "M"}${this.X(xs[i]).toFixed(1)} ${this.Y(ys[i]).toFixed(1)}`;
        open = fine;
      }
      return text;
    }
    line(xs, ys, { colour, width = 2, dash = [], opacity = null }) {
      make("path", { d: this.path(xs, ys), fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash.length ? dash.map((d) => d * width).join(" ") : null, "stroke-linejoin": "round", "stroke-opacity": opacity }, this.marks);
    }
    // The region between two curves.
    band(firstX, firstY, secondX, secondY, colour, opacity = 0.18) {
      const there = this.path(firstX, firstY), back = this.path([...secondX].reverse(), [...secondY].reverse());
      if (there && back) make("path", { d: `${there}${back.replace("M", "L")}Z`, fill: colour, "fill-opacity": opacity, stroke: "none" }, this.marks);
    }
    point(x, y, colour, shape = 0, size = 5) {
      const px = this.X(x), py = this.Y(y), s = size;
      const corners = [null, [[-s, -s], [s, -s], [s, s], [-s, s]], [[0, -1.3 * s], [1.3 * s, 0], [0, 1.3 * s], [-1.3 * s, 0]], [[0, -1.2 * s], [1.2 * s, s], [-1.2 * s, s]]][shape];
      if (!corners) make("circle", { cx: px, cy: py, r: s, fill: colour }, this.marks);
      else make("polygon", { points: corners.map(([a, b]) => `${px + a},${py + b}`).join(" "), fill: colour }, this.marks);
    }
    bar(x, low, high, colour, width, opacity = null) {
      make("line", { x1: this.X(x), x2: this.X(x), y1: this.Y(low), y2: this.Y(high), stroke: colour, "stroke-width": width, "stroke-opacity": opacity }, this.marks);
    }
    // What the tip says at a place; `pick` is called where it is clicked.
    spot(x, y, text, pick) {
      const px = this.X(x), py = this.Y(y), { left, right, top, bottom } = this.area;
      if (px >= left - 1 && px <= right + 1 && py >= top - 3 && py <= bottom + 3) this.spots.push({ x: px, y: py, text, pick });
    }
  }

  // Cells as an image of a pixel each: `colours` is a list of rows of "#rrggbb" or null.
  function cells(colours) {
    const canvas = document.createElement("canvas");
    canvas.height = colours.length;
    canvas.width = colours[0].length;
    const paint = canvas.getContext("2d");
    colours.forEach((row, y) => row.forEach((colour, x) => { if (colour) { paint.fillStyle = colour; paint.fillRect(x, y, 1, 1); } }));
    return canvas.toDataURL();
  }
  function image(chart, colours, box) {
    make("image", { href: cells(colours), x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, preserveAspectRatio: "none", style: "image-rendering: pixelated" }, chart.marks);
  }
  function mix(stops, share) {
    const along = Math.max(0, Math.min(1, share)) * (stops.length - 1), first = Math.min(Math.floor(along), stops.length - 2);
    const channel = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
    return "#" + [0, 1, 2].map((i) => Math.round(channel(stops[first], i) + (along - first) * (channel(stops[first + 1], i) - channel(stops[first], i))).toString(16).padStart(2, "0")).join("");
  }

  // The tip: at the pointer's nearest place, or walked through by the arrow keys.
  function follow(host, chart) {
    const tip = host.nextElementSibling?.classList.contains("tip") ? host.nextElementSibling : null;
    if (!tip || !chart.spots.length) return;
    const ring = make("circle", { r: 6, class: "ring", visibility: "hidden" }, chart.svg);
    let current = -1;
    const hide = () => { current = -1; ring.setAttribute("visibility", "hidden"); tip.hidden = true; };
    function tell(number) {
      current = number;
      const spot = chart.spots[number], share = host.clientWidth / chart.width;
      ring.setAttribute("cx", spot.x);
      ring.setAttribute("cy", spot.y);
      ring.setAttribute("visibility", "visible");
      tip.replaceChildren(...spot.text.split("\n").map((line) => Object.assign(document.createElement("div"), { textContent: line })));
      tip.hidden = false;
      const x = host.offsetLeft + spot.x * share, room = host.parentElement.clientWidth - tip.offsetWidth - 4;
      tip.style.left = `${Math.max(0, Math.min(x + 12, room))}px`;
      tip.style.top = `${host.offsetTop + spot.y - tip.offsetHeight - 10}px`;
    }
    chart.svg.addEventListener("pointermove", (event) => {
      const box = chart.svg.getBoundingClientRect(), share = box.width / chart.width;
      const x = (event.clientX - box.left) / share, y = (event.clientY - box.top) / share;
      let best = -1, least = 60 ** 2;
      chart.spots.forEach((spot, i) => { const d = (spot.x - x) ** 2 + (spot.y - y) ** 2; if (d < least) { least = d; best = i; } });
      if (best < 0) hide(); else if (best !== current) tell(best);
    });
    chart.svg.addEventListener("pointerleave", hide);
    chart.svg.addEventListener("click", () => chart.spots[current]?.pick?.());
    host.onblur = hide;
    host.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); tell((current + step + chart.spots.length) % chart.spots.length); }
      else if (event.key === "Escape") hide();
      else if (event.key === "Enter" && current >= 0) chart.spots[current].pick?.();
    };
  }

  // Draws into the element of a name, and again whenever its width changes.
  const drawings = new Map();
  function show(id, draw) {
    const host = document.getElementById(id);
    if (!host) return;
    const again = () => {
      const chart = draw(host);
      host.replaceChildren(...(chart ? [chart.svg] : []));
      if (chart) follow(host, chart);
    };
    if (!drawings.has(id)) {
      let width = host.clientWidth;
      new ResizeObserver(() => { if (host.clientWidth && Math.abs(host.clientWidth - width) > 2) { width = host.clientWidth; drawings.get(id)(); } }).observe(host);
    }
    drawings.set(id, again);
    again();
  }

  return { Chart, brief, image, make, mix, rangeOf, show, tickText };
})();
