"use strict";
// What is drawn from the numbers of the run, and what the controls choose.
(() => {
  const run = JSON.parse(document.getElementById("run-data").textContent);
  const at = (id) => document.getElementById(id);
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const row = (values, i, width) => Array.from(values.subarray(i * width, (i + 1) * width));
  const { Chart, brief, image, make, mix, rangeOf, show, tickText } = charts;
  const unpacked = {};
  for (const name of ["mean", "deviation", "energy", "classMean", "classDeviation", "cells", "classRanges", "lines", "residuals"]) {
    unpacked[name] = run[name].map(floats);
  }
  const restCounts = run.rest.map((rest) => rest && floats(rest.x));
  const MOST_LINES = 100;
  const colour = (d) => `var(--d${d})`, ink = (e) => `var(--e${e % 4})`, dash = (n) => run.dashes[n % run.dashes.length];
  const chosen = { depth: -1, class: -1, photo: -1 };

  // Numbers as the tables of the page have them.
  function number(value, kind) {
    if (!Number.isFinite(value)) return "—";
    if (kind === "percent") return `${Math.round(100 * value)} %`;
    if (kind === "power") return value.toExponential(0);
    return String(Number(value.toPrecision(4)));
  }
  function inRange(value, [least, most]) {
    if (!Number.isFinite(value)) return "—";
    if (most === Infinity) return `≥ ${number(value)}`;
    return most - least > 0.2 * value ? `${number(least)} to ${number(most)}` : number(value);
  }
  const kinds = { energy: "percent", residual: "power", defined: "power" };

  // The values without the indices that a depth of fewer units has not.
  const known = (values) => values.slice(0, values.findLastIndex(Number.isFinite) + 1);

  // Mean and deviation of the chosen class at a depth, with the indices they belong to.
  function curve(d) {
    const whole = chosen.class < 0, width = run.curve.length;
    const mean = known(whole ? Array.from(unpacked.mean[d]) : row(unpacked.classMean[d], chosen.class, width));
    const deviation = whole ? Array.from(unpacked.deviation[d]) : row(unpacked.classDeviation[d], chosen.class, width);
    const photos = whole ? run.depths[d].photos : run.classPhotos[d][chosen.class];
    return { x: (whole ? run.full : run.curve).slice(0, mean.length), mean, deviation: deviation.slice(0, mean.length), photos };
  }

  // How many of all values lie above thresholds, below the k known ones: estimate, least and most.
  function restOf(d) {
    const rest = run.rest[d], ofK = curve(d);
    if (!rest || !ofK.photos) return null;
    const width = rest.y.length, first = 3 * (chosen.class + 1), k = ofK.x.at(-1);
    const counts = [0, 1, 2].map((i) => row(restCounts[d], first + i, width));
    const beyond = rest.y.map((_, i) => i).filter((i) => counts[0][i] > k);
    if (!beyond.length) return null;
    // Where the k values end, it begins.
    const [x, least, most] = counts.map((count) => [...beyond.map((i) => Math.max(k, count[i])), k]);
    return { x, least, most, y: [...beyond.map((i) => rest.y[i]), ofK.mean.at(-1)] };
  }

  function members(d) {
    const width = run.line.length;
    return run.photos.map((_, p) => p).filter((p) => (chosen.class < 0 || run.photos[p][1] === chosen.class) && Number.isFinite(unpacked.lines[d][p * width]));
  }
  function linesAt(d) {
    const all = members(d), step = Math.ceil(all.length / MOST_LINES) || 1;
    return all.filter((p, i) => i % step === 0 || p === chosen.photo);
  }
  const className = (p) => (run.photos[p][1] < 0 ? "another class" : run.classes[run.photos[p][1]]);
  function pick(p) {
    if (chosen.depth < 0) return;
    at("choose-photo").value = String(p);
    at("choose-photo").dispatchEvent(new Event("change"));
  }

  function drawSpectra(host) {
    const shown = run.depths.map((_, d) => d).filter((d) => (chosen.depth < 0 || d === chosen.depth) && curve(d).photos);
    const photos = chosen.depth < 0 ? [] : linesAt(chosen.depth), width = run.line.length;
    const lines = photos.map((p) => [p, row(unpacked.lines[chosen.depth], p, width), row(unpacked.residuals[chosen.depth], p, width)]);
    const curves = shown.map((d) => [d, curve(d), restOf(d)]);
    const resolved = (s, residuals) => s.map((value, n) => (value < residuals[n] ? NaN : value));
    const ys = [run.threshold, ...curves.flatMap(([, { mean, deviation }, rest]) => [...mean.map((m, i) => m + deviation[i]), ...mean, ...(rest ? rest.y : [])]), ...lines.flatMap(([, s, residuals]) => resolved(s, residuals))];
    const last = Math.max(run.k, ...curves.map(([, , rest]) => (rest ? Math.max(...rest.most) : 1)));
    const far = last > run.wide * run.k;
    const chart = new Chart(host, host.clientWidth < 500 ? 300 : 350, { range: far ? [1, last * 1.05] : last > 1 ? [1, last] : [0.5, 1.5], log: far, whole: true, label: "index i" }, { range: rangeOf(ys, true), log: true, label: "singular value σᵢ" });
    const { left, right } = chart.area, one = chart.Y(run.threshold);
    make("line", { x1: left, x2: right, y1: one, y2: one, class: "one" }, chart.marks);
    make("text", { x: left + 5, y: one - 5, class: "note" }, chart.marks, `σ = ${number(run.threshold)}`);
    for (const [p, s, residuals] of lines) if (p !== chosen.photo) chart.line(run.line, resolved(s, residuals), { colour: "var(--photo)", width: 1 });
    for (const [d, { x, mean, deviation, photos: count }, rest] of curves) {
      const name = run.depths[d].name;
      chart.band(x, mean.map((m, i) => m + deviation[i]), x, mean.map((m, i) => Math.max(m - deviation[i], m / 100)), colour(d));
      if (rest) {
        chart.band(rest.least, rest.y, rest.most, rest.y, colour(d));
        chart.line(rest.x, rest.y, { colour: colour(d), width: 1 });
        rest.x.forEach((n, i) => chart.spot(n, rest.y[i], `${name}, of ${run.depths[d].size} values\nσ ≥ ${number(rest.y[i])}: ${number(n)} (${number(rest.least[i])} to ${number(rest.most[i])})`));
      }
      if (x.length > 1) chart.line(x, mean, { colour: colour(d), dash: dash(d), width: 2.2 });
      else chart.point(x[0], mean[0], colour(d));
      x.forEach((i, n) => chart.spot(i, mean[n], `${name}, mean of ${count}\nσ${i} = ${number(mean[n])} ± ${number(deviation[n])}`));
    }
    for (const [p, s, residuals] of lines) {
      s.forEach((value, n) => value >= residuals[n] && chart.spot(run.line[n], value, `${run.photos[p][0]}\n${className(p)}\nσ${run.line[n]} = ${number(value)}, residual ${residuals[n].toExponential(1)}`, () => pick(p)));
      if (p === chosen.photo) {
        chart.line(run.line, resolved(s, residuals), { colour: "var(--picked)", width: 2.5 });
        s.forEach((value, n) => { if (value > 0 && value >= residuals[n]) chart.point(run.line[n], value, "var(--picked)", 0, 3); });
      }
    }
    return chart;
  }

  function markLegend() {
    for (const button of at("key-table").querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.depth) === chosen.depth));
  }

  function drawHeat(host) {
    const curves = run.depths.map((_, d) => curve(d)), narrow = host.clientWidth < 500;
    const values = curves.flatMap((c) => c.mean).filter((m) => m > 0);
    if (!values.length) return null;
    let low = values[0], high = values[0];
    for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
    const shade = (v) => (v > 0 ? mix(run.heat, high > low ? Math.log(v / low) / Math.log(high / low) : 0.5) : null);
    const size = narrow ? 24 : 28, height = 74 + size * run.depths.length + 26;
    const chart = new Chart(host, height, { range: [0.5, run.k + 0.5], whole: true, label: "index i" }, { names: run.depths.map((depth) => depth.name) }, { top: 34 });
    // Of many indices only some have their value; each takes the place up to halfway to the next.
    const nearest = (x) => Array.from({ length: run.k }, (_, i) => x.reduce((best, v, n) => (Math.abs(v - i - 1) < Math.abs(x[best] - i - 1) ? n : best), 0));
    const colours = curves.map(({ x, mean }) => { const index = x.length ? nearest(x) : []; return Array.from({ length: run.k }, (_, i) => (x.length && i < x.at(-1) ? shade(mean[index[i]]) : null)); });
    image(chart, colours, chart.area);
    const most = number(high), right = chart.area.right - 8 * most.length - 6, key = { left: right - 120, right, top: 6, bottom: 16 };
    chart.marks = make("g", {}, chart.svg);
    image(chart, [run.heat], key);
    make("text", { x: key.left - 6, y: 15, "text-anchor": "end", class: "note" }, chart.svg, `mean σ: ${number(low)}`);
    make("text", { x: key.right + 6, y: 15, class: "note" }, chart.svg, most);
    curves.forEach(({ x, mean }, d) => x.forEach((i, n) => chart.spot(i, d, `${run.depths[d].name}\nmean σ${i} = ${number(mean[n])}`)));
    return chart;
  }

  // Bounds of the mean of an estimate at a depth, with two standard errors.
  function ranges(d, e) {
    if (chosen.class < 0) { const [, , low, high, cut] = run.dimensions[d][e]; return [low, cut ? Infinity : high]; }
    return e < 3 ? row(unpacked.classRanges[d], chosen.class, 6).slice(2 * e, 2 * e + 2) : [null, null];
  }
  function drawDimension(host) {
    const width = run.columns.length, first = run.columns.indexOf(run.estimates[0][0]), all = chosen.class < 0;
    const value = (d, e) => (all ? run.dimensions[d][e][0] : unpacked.cells[d][chosen.class * width + first + e]);
    const told = run.depths.map((_, d) => run.estimates.map((_, e) => ({ y: value(d, e), deviation: all ? run.dimensions[d][e][1] : 0, ends: ranges(d, e) })));
    const ys = told.flat().flatMap(({ y, deviation, ends: [low, high] }) => [y, y + deviation, Math.max(low, 0.5 * y), Number.isFinite(high) ? high : y]);
    const chart = new Chart(host, 330, { names: run.depths.map((depth) => depth.name) }, { range: rangeOf(ys, true), log: true, label: "dimension" });
    run.estimates.forEach(([, title], e) => {
      const shift = (e - 1.5) * 0.06, shown = told.map((depth, d) => [d + shift, depth[e]]).filter(([, one]) => one.y > 0);
      chart.line(shown.map(([x]) => x), shown.map(([, one]) => one.y), { colour: ink(e), dash: dash(e), width: 1.6 });
      for (const [x, { y, deviation, ends: [low, high] }] of shown) {
        if (Number.isFinite(low) && Number.isFinite(high) && e < 3) chart.bar(x, Math.max(low, 0.01 * y), high, ink(e), 7, 0.3);
        if (deviation > 0) chart.bar(x, Math.max(y - deviation, 0.1 * y), y + deviation, ink(e), 1);
        if (high === Infinity) make("path", { d: `M${chart.X(x) - 4} ${chart.Y(y) - 9}l4 -6l4 6`, fill: "none", stroke: ink(e), "stroke-width": 1.5 }, chart.marks);
        chart.point(x, y, ink(e), e, 4.5);
        const bounds = e < 3 && Number.isFinite(high) && Number.isFinite(low) ? ` (${number(low)} to ${number(high)})` : "";
        chart.spot(x, y, `${run.depths[Math.round(x)].name}\n${title}: ${high === Infinity ? "≥ " : ""}${number(y)}${bounds}`);
      }
    });
    return chart;
  }

  // The share of all energy that the first i values hold.
  function drawEnergy(host) {
    const ys = unpacked.energy.flatMap((one) => Array.from(one)).filter(Number.isFinite);
    if (!ys.length) return null;
    const chart = new Chart(host, 330, { range: [1, Math.max(2, run.k)], whole: true, label: "index i" }, { range: [0, 1], label: "share of ‖J‖² held" });
    run.depths.forEach((depth, d) => {
      const held = known(Array.from(unpacked.energy[d])), x = run.full.slice(0, held.length);
      chart.line(x, held, { colour: colour(d), dash: dash(d), width: 2.2 });
      x.forEach((i, n) => chart.spot(i, held[n], `${depth.name}\nσ1 to σ${i} hold ${number(held[n], "percent")}`));
    });
    return chart;
  }

  const lastTree = () => { const names = Object.keys(run.trees.depths), name = chosen.depth < 0 ? "" : run.depths[chosen.depth].name; return names.includes(name) ? name : names.at(-1); };

  // Two trees face each other; x runs from the root of one to the root of the other.
  function drawTree(host) {
    const trees = run.trees, mine = trees.depths[lastTree()], theirs = trees.wordnet, count = trees.names.length;
    const chart = new Chart(host, 40 + 17 * count, { range: [0, 1] }, { names: trees.names }, { left: 4, right: 4, top: 24, bottom: 4 });
    chart.svg.querySelector(".axes").remove();
    const wide = chart.width, X = (x) => 4 + x * (wide - 8), groups = [...new Set(trees.groups)].sort();
    const branches = (tree, place) => tree.x.forEach((xs, i) => make("path", { d: "M" + xs.map((h, n) => `${X(place(h)).toFixed(1)} ${chart.Y(tree.y[i][n]).toFixed(1)}`).join("L"), class: "branch" }, chart.marks));
    branches(mine, (h) => 0.28 * (1 - h));
    branches(theirs, (h) => 0.72 + 0.28 * h);
    const most = Math.floor((0.17 * wide) / 6.4);
    mine.order.forEach((c, i) => {
      const g = groups.indexOf(trees.groups[c]), j = theirs.order.indexOf(c);
      make("line", { x1: X(0.455), x2: X(0.545), y1: chart.Y(i), y2: chart.Y(j), stroke: ink(g), "stroke-width": 1.6, "stroke-dasharray": dash(Math.floor(g / 4)).map((v) => v * 1.6).join(" ") || null }, chart.marks);
      const label = (x, y, anchor) => { const text = make("text", { x: X(x), y: chart.Y(y), dy: "0.32em", "text-anchor": anchor }, chart.marks, brief(trees.names[c], most)); make("title", {}, text, `${trees.names[c]}: ${trees.groups[c]}`); };
      label(0.285, i, "start");
      label(0.715, j, "end");
    });
    make("text", { x: 4, y: 14, class: "label" }, chart.svg, `by spectra at ${lastTree()}`);
    make("text", { x: wide - 4, y: 14, "text-anchor": "end", class: "label" }, chart.svg, "by WordNet");
    return chart;
  }

  // Distances of classes in the order of WordNet's tree: near ones are dark.
  function drawMatrix(packed, title) {
    return (host) => {
      const { names, wordnet } = run.trees, order = wordnet.order, count = names.length, values = floats(packed());
      const place = (i, j) => (i < j ? i * count - (i * (i + 1)) / 2 + j - i - 1 : j * count - (j * (j + 1)) / 2 + i - j - 1);
      const sorted = [...new Set(values)].sort((a, b) => a - b);
      // By rank, as the correlation compares them.
      const rank = new Map(sorted.map((v, i) => [v, i / Math.max(1, sorted.length - 1)]));
      const narrow = host.clientWidth < 400, left = narrow ? 8 : 110, side = host.clientWidth - left - 8;
      const chart = new Chart(host, side + 34, { range: [0, count] }, { names: order.map((c) => names[c]) }, { left, right: 8, top: 26, bottom: 8 });
      chart.svg.querySelector(".axes").remove();
      image(chart, order.map((a) => order.map((b) => (a === b ? null : mix(run.heat, rank.get(values[place(a, b)]))))), chart.area);
      make("text", { x: chart.area.left, y: 15, class: "label" }, chart.svg, title());
      const each = side / count;
      if (!narrow) order.forEach((c, i) => { if (each >= 7 || i % Math.ceil(9 / each) === 0) make("text", { x: left - 5, y: chart.Y(i), dy: "0.32em", "text-anchor": "end", class: "tiny" }, chart.svg, brief(names[c], 18)); });
      order.forEach((a, i) => order.forEach((b, j) => { if (i !== j) chart.spots.push({ x: chart.area.left + (j + 0.5) * each, y: chart.Y(i), text: `${names[a]}\n${names[b]}\n${number(values[place(a, b)])}` }); }));
      return chart;
    };
  }
  function drawClasses() {
    if (!run.trees) return;
    show("plot-tree", drawTree);
    show("plot-distances", drawMatrix(() => run.trees.depths[lastTree()].distances, () => `by spectra at ${lastTree()}`));
    show("plot-wordnet", drawMatrix(() => run.trees.distances, () => "by WordNet"));
  }

  function fillClasses() {
    const table = at("class-table");
    if (!table) return;
    let d = chosen.depth;
    if (d < 0) d = Math.max(0, run.depths.findLastIndex((depth) => depth.photos));
    const width = run.columns.length;
    at("class-depth").textContent = run.depths[d].name;
    for (const line of table.tBodies[0].rows) {
      const c = Number(line.dataset.c), values = [run.classPhotos[d][c], ...row(unpacked.cells[d], c, width)];
      values.forEach((value, i) => {
        const cell = line.cells[i + 1];
        const e = i ? run.estimates.findIndex(([name]) => name === run.columns[i - 1]) : -1;
        cell.textContent = e < 0 || e > 2 ? number(value, i ? kinds[run.columns[i - 1]] : "") : inRange(value, row(unpacked.classRanges[d], c, 6).slice(2 * e, 2 * e + 2));
        if (Number.isFinite(value)) cell.dataset.v = value; else delete cell.dataset.v;
      });
    }
    tables.sortAgain(table);
  }

  function fillPhotos() {
    const select = at("choose-photo"), listed = chosen.depth < 0 ? [] : members(chosen.depth);
    if (!listed.includes(chosen.photo)) chosen.photo = -1;
    const none = new Option(chosen.depth < 0 ? "pick a depth" : "none picked", "-1");
    select.replaceChildren(none, ...listed.map((p) => new Option(`${run.photos[p][0]} (${className(p)})`, String(p))));
    select.disabled = chosen.depth < 0;
    select.value = String(chosen.photo);
  }

  function tell() {
    const d = chosen.depth, of = chosen.class < 0 ? "all classes" : run.classes[chosen.class];
    if (d < 0) { at("told").textContent = chosen.class < 0 ? "" : `All depths, ${of}.`; return; }
    const { x, mean, photos } = curve(d), all = members(d).length, lines = linesAt(d).length;
    let text = `${run.depths[d].name}, ${of}: ${photos} ${photos === 1 ? run.noun.slice(0, -1) : run.noun} with values, ${lines} drawn`;
    if (all > lines) text += ` (of ${all} that have lines)`;
    if (photos) text += `; mean σ1 ${number(mean[0])}, mean σ${x[mean.length - 1]} ${number(mean[mean.length - 1])}`;
    if (chosen.photo >= 0) {
      const width = run.line.length, s = known(row(unpacked.lines[d], chosen.photo, width)), end = s.length - 1, r = row(unpacked.residuals[d], chosen.photo, width);
      text += `. Picked ${run.photos[chosen.photo][0]}, ${className(chosen.photo)}: σ1 ${number(s[0])} (residual ${number(r[0], "power")}), σ${run.line[end]} ${number(s[end])} (residual ${number(r[end], "power")}${s[end] < r[end] ? ", so no digit of it is known" : ""})`;
    }
    at("told").textContent = `${text}.`;
  }

  function choose(name, value) {
    chosen[name] = value;
    const select = at(`choose-${name}`);
    if (select) select.value = String(value);
    fillPhotos();
    markLegend();
    show("plot-spectra", drawSpectra);
    if (name === "class") { show("plot-heat", drawHeat); show("plot-dimension", drawDimension); }
    if (name === "depth") { drawClasses(); fillClasses(); }
    tell();
  }
  for (const name of ["depth", "class", "photo"]) {
    const select = at(`choose-${name}`);
    if (!select) continue;
    select.addEventListener("change", (event) => choose(name, Number(event.target.value)));
    select.value = "-1";
  }
  fillPhotos();
  for (const button of at("key-table").querySelectorAll("button")) {
    button.addEventListener("click", () => choose("depth", chosen.depth === Number(button.dataset.depth) ? -1 : Number(button.dataset.depth)));
  }
  tell();
  show("plot-spectra", drawSpectra);
  const took = (name) => { document.documentElement.dataset[name] = String(Math.round(performance.now())); };
  took("first");
  show("plot-heat", drawHeat);
  show("plot-dimension", drawDimension);
  show("plot-energy", drawEnergy);
  drawClasses();
  took("drawn");
})();
