"use strict";
// Joins the controls and tables of the page to Plotly, which draws. Text of the run reaches Plotly
// only through safe(), because Plotly reads tags, and never through a template.
(() => {
  const run = JSON.parse(document.getElementById("run-data").textContent);
  const at = (id) => document.getElementById(id);
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const row = (values, i, width) => Array.from(values.subarray(i * width, (i + 1) * width));
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const brief = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  const unpacked = {};
  for (const name of ["mean", "deviation", "classMean", "classDeviation", "cells", "classRanges", "lines", "residuals"]) {
    unpacked[name] = run[name].map(floats);
  }
  const restCounts = run.rest.map((rest) => rest && floats(rest.x));
  const narrow = window.matchMedia("(max-width: 600px)").matches;
  const ink = "#1b1b1f", grid = "#dcdce2", MOST_LINES = 100;
  const config = { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
  const font = { family: "system-ui, sans-serif", size: 13, color: ink };
  const label = (text) => ({ text, standoff: 8 });
  const base = (more) => ({
    font, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest", dragmode: narrow ? false : "zoom",
    margin: { l: 56, r: 12, t: 12, b: 48 }, hoverlabel: { bgcolor: "#fff", bordercolor: ink, font: { color: ink }, align: "left", namelength: -1 },
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top" }, ...more,
  });
  const axis = (text, more) => ({ title: label(text), gridcolor: grid, linecolor: "#6d6d78", zeroline: false, ticks: "outside", automargin: true, ...more });
  // A logarithmic axis with labels at 1, 2, 5 where few decades are seen, else at powers of ten.
  function powers(values) {
    const seen = values.filter((v) => v > 0), spread = Math.log10(Math.max(...seen) / Math.min(...seen));
    return { type: "log", exponentformat: "power", dtick: spread > 2.5 ? 1 : "D2" };
  }

  function show(value, kind) {
    if (!Number.isFinite(value)) return "—";
    if (kind === "percent") return `${Math.round(100 * value)} %`;
    if (kind === "power") return value.toExponential(0);
    return String(Number(value.toPrecision(4)));
  }
  function showRange(value, [least, most]) {
    if (!Number.isFinite(value)) return "—";
    if (most === Infinity) return `≥ ${show(value)}`;
    return most - least > 0.2 * value ? `${show(least)} to ${show(most)}` : show(value);
  }
  const kinds = { energy: "percent", residual: "power", defined: "power" };

  const chosen = { depth: -1, class: -1, photo: -1 };

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

  function meanTraces(d) {
    const { x, mean, deviation, photos } = curve(d);
    if (!photos) return [];
    const depth = run.depths[d], rgb = depth.colour.join(","), name = safe(brief(depth.name, 28));
    const above = mean.map((m, i) => m + deviation[i]);
    const below = mean.map((m, i) => Math.max(m - deviation[i], m / 100));
    const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: `${d}` };
    return [
      { ...edge, y: below },
      { ...edge, y: above, fill: "tonexty", fillcolor: `rgba(${rgb},0.18)` },
      { x, y: mean, mode: x.length > 1 ? "lines" : "markers", name, legendgroup: `${d}`, line: { color: `rgb(${rgb})`, width: 2.5, dash: depth.dash }, customdata: deviation,
        text: mean.map(() => `${safe(depth.name)}, mean of ${photos}`), hovertemplate: "%{text}<br>σ<sub>%{x}</sub> = %{y:.4g} ± %{customdata:.2g}<extra></extra>" },
    ];
  }

  // How many values of all lie above a threshold, below the k known ones: a band of what is possible,
  // and the estimate as a thin line.
  function restTraces(d) {
    const rest = run.rest[d];
    if (!rest) return [];
    const width = rest.y.length, first = 3 * (chosen.class + 1);
    const counts = [0, 1, 2].map((i) => row(restCounts[d], first + i, width));
    const ofK = curve(d), k = ofK.x.at(-1), beyond = rest.y.map((_, i) => i).filter((i) => counts[0][i] > k);
    if (!beyond.length) return [];
    // Where the k values end, it begins.
    const [x, least, most] = counts.map((count) => [...beyond.map((i) => Math.max(k, count[i])), k]);
    const y = [...beyond.map((i) => rest.y[i]), ofK.mean.at(-1)];
    const depth = run.depths[d], rgb = depth.colour.join(",");
    const edge = { mode: "lines", showlegend: false, legendgroup: `${d}` };
    return [
      { ...edge, x: [...least, ...[...most].reverse()], y: [...y, ...[...y].reverse()], line: { width: 0 }, fill: "toself", fillcolor: `rgba(${rgb},0.18)`, hoverinfo: "skip" },
      { ...edge, x, y, line: { color: `rgb(${rgb})`, width: 1 }, customdata: least.map((low, i) => [low, most[i]]),
        text: x.map(() => `${safe(depth.name)}, of ${depth.size} values`), hovertemplate: "%{text}<br>σ ≥ %{y:.3g}: %{x:.5g} (%{customdata[0]:.5g} to %{customdata[1]:.5g})<extra></extra>" },
    ];
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

  function photoTrace(d, p) {
    const width = run.line.length, picked = p === chosen.photo;
    return {
      x: run.line, y: row(unpacked.lines[d], p, width), customdata: row(unpacked.residuals[d], p, width), mode: picked || width < 2 ? "lines+markers" : "lines", showlegend: picked,
      name: safe(brief(run.photos[p][0], 28)), meta: p, text: run.line.map(() => `${safe(run.photos[p][0])}<br>${safe(className(p))}`),
      line: picked ? { color: "#b3261e", width: 2.5 } : { color: "rgba(60,60,70,0.3)", width: 1 },
      marker: { symbol: "circle", size: 7, color: "#fff", line: { color: "#b3261e", width: 2 } },
      hovertemplate: "%{text}<br>σ<sub>%{x}</sub> = %{y:.4g}, residual %{customdata:.1e}<extra></extra>",
    };
  }

  function drawSpectra() {
    const d = chosen.depth, traces = [];
    if (d < 0) run.depths.forEach((_, i) => traces.push(...restTraces(i), ...meanTraces(i)));
    else {
      const drawn = linesAt(d);
      traces.push(...drawn.filter((p) => p !== chosen.photo).map((p) => photoTrace(d, p)), ...restTraces(d), ...meanTraces(d));
      if (drawn.includes(chosen.photo)) traces.push(photoTrace(d, chosen.photo));
    }
    const last = Math.max(run.k, ...traces.flatMap((t) => t.x));
    const one = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: "#55555e", width: 1, dash: "dot" } };
    const tall = 420 + (d < 0 ? 22 * Math.ceil(run.depths.length / (narrow ? 2 : 4)) : 20);
    const layout = base({ height: tall, shapes: [one], xaxis: axis("index i", last > run.wide * run.k ? { ...powers([1, last]), range: [0, Math.log10(last)] } : {}), yaxis: axis("singular value σᵢ", powers([1, ...traces.flatMap((t) => t.y)])) });
    layout.legend.y = -70 / 340;
    return Plotly.react("plot-spectra", traces, layout, config);
  }

  function drawHeat() {
    const curves = run.depths.map((_, d) => curve(d)), x = curves[0].x;
    const z = curves.map((c) => c.mean.map((m) => (m > 0 ? Math.log10(m) : null)));
    const values = z.flat().filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values), steps = high - low > 2.5 ? [1] : [1, 2, 5], ticks = [];
    for (let t = Math.floor(low); t <= high; t += 1) ticks.push(...steps.map((step) => Number(`${step}e${t}`)).filter((v) => Math.log10(v) >= low - 1e-6 && Math.log10(v) <= high + 1e-6));
    const trace = {
      type: "heatmap", x, y: run.depths.map((_, d) => d), z, colorscale: "Cividis", hoverongaps: false,
      customdata: curves.map((c) => c.mean), text: run.depths.map((depth) => x.map(() => safe(depth.name))),
      hovertemplate: "%{text}<br>mean σ<sub>%{x}</sub> = %{customdata:.4g}<extra></extra>",
      colorbar: { title: { text: "mean σ" }, tickvals: ticks.map(Math.log10), ticktext: ticks.map(String), thickness: 14 },
    };
    const layout = base({
      height: Math.max(260, 110 + 34 * run.depths.length), xaxis: axis("index i", { showgrid: false }),
      yaxis: { autorange: "reversed", tickvals: run.depths.map((_, d) => d), ticktext: run.depths.map((depth) => safe(brief(depth.name, narrow ? 12 : 24))), automargin: true, showgrid: false },
    });
    layout.margin.r = 4;
    return Plotly.react("plot-heat", [trace], layout, config);
  }

  const symbols = ["circle", "square", "diamond", "triangle-up"], dashes = ["solid", "dash", "dot", "dashdot"];
  const inks = ["#1b1b1f", "#0b4f9e", "#a8480a", "#2f6b3a"];
  // Bounds of the mean of an estimate at a depth, with two standard errors.
  function ranges(d, e) {
    if (chosen.class < 0) return run.dimensions[d][e].slice(2);
    return e < 3 ? row(unpacked.classRanges[d], chosen.class, 6).slice(2 * e, 2 * e + 2) : [null, null];
  }
  function drawDimension() {
    const width = run.columns.length, place = run.columns.indexOf(run.estimates[0][0]);
    const names = run.depths.map((depth) => safe(depth.name));
    const traces = run.estimates.map(([, plain, bounded], e) => {
      const title = bounded ? `${plain}, at least` : plain;
      const all = chosen.class < 0;
      const y = run.depths.map((_, d) => (all ? run.dimensions[d][e][0] : unpacked.cells[d][chosen.class * width + place + e]));
      return {
        x: run.depths.map((_, d) => d), y: y.map((v) => (v > 0 ? v : null)), name: title, mode: "lines+markers", text: names, line: { color: inks[e], dash: dashes[e], width: 2 }, marker: { symbol: symbols[e], size: 9, color: inks[e] },
        error_y: { type: "data", visible: all, array: run.depths.map((_, d) => run.dimensions[d][e][1]), arrayminus: run.depths.map((_, d) => Math.min(run.dimensions[d][e][1], 0.9 * (run.dimensions[d][e][0] ?? 0))), thickness: 1, width: 4 },
        customdata: run.depths.map((_, d) => ranges(d, e)), hovertemplate: `%{text}<br>${title}: %{y:.4g}${e < 3 ? " (%{customdata[0]:.4g} to %{customdata[1]:.4g})" : ""}<extra></extra>`,
      };
    });
    run.estimates.slice(0, 3).forEach((_, e) => {
      const ends = run.depths.map((_, d) => ranges(d, e)), y = traces[e].y, open = ([low, high], i) => y[i] > 0 && Number.isFinite(low) && Number.isFinite(high);
      const size = (end) => ends.map((pair, i) => (open(pair, i) ? Math.max(0, end ? pair[1] - y[i] : y[i] - Math.max(pair[0], 0.01 * y[i])) : 0));
      traces.push({ x: traces[e].x, y, mode: "markers", marker: { size: 1, color: inks[e] }, opacity: 0.3, showlegend: false, hoverinfo: "skip", error_y: { type: "data", symmetric: false, array: size(1), arrayminus: size(0), thickness: 8, width: 0, color: inks[e] } });
    });
    const layout = base({ height: 430, xaxis: axis("", { tickvals: run.depths.map((_, d) => d), ticktext: run.depths.map((depth) => safe(brief(depth.name, narrow ? 12 : 20))), tickangle: narrow ? -60 : -30 }), yaxis: axis("dimension", powers(traces.flatMap((t) => t.y))) });
    layout.legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
    layout.margin.t = narrow ? 60 : 30;
    return Plotly.react("plot-dimension", traces, layout, config);
  }

  // Two trees face each other; x runs from the root of one to the root of the other.
  function drawTree() {
    if (!run.trees) return null;
    const trees = run.trees, last = Object.keys(trees.depths).pop();
    const asked = chosen.depth < 0 ? last : run.depths[chosen.depth].name;
    const layer = asked in trees.depths ? asked : last, mine = trees.depths[layer], theirs = trees.wordnet;
    const joints = (tree, place) => ({ x: tree.x.flatMap((h) => [...h.map(place), null]), y: tree.y.flatMap((h) => [...h, null]), mode: "lines", line: { color: ink, width: 1.3 }, hoverinfo: "skip", showlegend: false });
    const names = (tree, x, textposition) => ({ x: tree.order.map(() => x), y: tree.order.map((_, i) => i), mode: "text", text: tree.order.map((c) => safe(brief(trees.names[c], 20))), textposition, textfont: { size: 12 }, hovertext: tree.order.map((c) => `${safe(trees.names[c])}: ${safe(trees.groups[c])}`), hovertemplate: "%{hovertext}<extra></extra>", showlegend: false });
    const groups = [...new Set(trees.groups)].sort();
    const links = groups.map((group, g) => {
      const x = [], y = [];
      mine.order.forEach((c, i) => { if (trees.groups[c] === group) { x.push(0.46, 0.54, null); y.push(i, theirs.order.indexOf(c), null); } });
      return { x, y, mode: "lines", name: safe(group), line: { color: inks[g % 4], dash: dashes[Math.floor(g / 4) % 4], width: 2 }, hovertemplate: `${safe(group)}<extra></extra>` };
    });
    const hidden = { visible: false, fixedrange: true };
    const layout = base({ height: 90 + 19 * trees.names.length, xaxis: { ...hidden, range: [0, 1] }, yaxis: { ...hidden, range: [trees.names.length - 0.3, -0.7] }, margin: { l: 4, r: 4, t: 28, b: 10 },
      annotations: [["by spectra", 0, "left"], ["by WordNet", 1, "right"]].map(([text, x, xanchor]) => ({ text, x, xanchor, y: 1, yanchor: "bottom", xref: "paper", yref: "paper", showarrow: false })) });
    layout.legend = { orientation: "h", x: 0.5, xanchor: "center", y: 0, yanchor: "top" };
    at("tree-told").textContent = mine.correlation === null ? `At ${layer}: distances do not vary.` : `At ${layer}: correlation ${mine.correlation.toFixed(3)} with WordNet's distances, p = ${mine.p} of Mantel's test.`;
    return Plotly.react("plot-tree", [joints(mine, (h) => 0.28 * (1 - h)), joints(theirs, (h) => 0.72 + 0.28 * h), ...links, names(mine, 0.285, "middle right"), names(theirs, 0.715, "middle left")], layout, { ...config, displayModeBar: false });
  }

  function fillClasses() {
    let d = chosen.depth;
    if (d < 0) d = Math.max(0, run.depths.findLastIndex((depth) => depth.photos));
    const width = run.columns.length, table = at("class-table");
    at("class-depth").textContent = run.depths[d].name;
    for (const line of table.tBodies[0].rows) {
      const c = Number(line.dataset.c), values = [run.classPhotos[d][c], ...row(unpacked.cells[d], c, width)];
      values.forEach((value, i) => {
        const cell = line.cells[i + 2];
        const e = i ? run.estimates.findIndex(([name]) => name === run.columns[i - 1]) : -1;
        cell.textContent = e < 0 || e > 2 ? show(value, i ? kinds[run.columns[i - 1]] : "") : showRange(value, row(unpacked.classRanges[d], c, 6).slice(2 * e, 2 * e + 2));
        if (Number.isFinite(value)) cell.dataset.v = value; else delete cell.dataset.v;
      });
    }
    sortAgain(table);
  }

  function fillPhotos() {
    const select = at("choose-photo"), listed = chosen.depth < 0 ? [] : members(chosen.depth);
    if (!listed.includes(chosen.photo)) chosen.photo = -1;
    const none = new Option(chosen.depth < 0 ? "choose a depth first" : "none picked", "-1");
    select.replaceChildren(none, ...listed.map((p) => new Option(`${run.photos[p][0]} (${className(p)})`, String(p))));
    select.disabled = chosen.depth < 0;
    select.value = String(chosen.photo);
  }

  function tell() {
    const d = chosen.depth, of = chosen.class < 0 ? "all classes" : run.classes[chosen.class];
    if (d < 0) { at("told").textContent = `All depths, ${of}.`; return; }
    const { x, mean, photos } = curve(d), all = members(d).length, lines = linesAt(d).length;
    let text = `${run.depths[d].name}, ${of}: ${photos} photos with values, ${lines} drawn`;
    if (all > lines) text += ` (of ${all} that have lines)`;
    if (photos) text += `; mean σ1 ${show(mean[0])}, mean σ${x[mean.length - 1]} ${show(mean[mean.length - 1])}`;
    if (chosen.photo >= 0) {
      const width = run.line.length, s = known(row(unpacked.lines[d], chosen.photo, width)), end = s.length - 1, r = row(unpacked.residuals[d], chosen.photo, width);
      text += `. Picked ${run.photos[chosen.photo][0]}, ${className(chosen.photo)}: σ1 ${show(s[0])} (residual ${show(r[0], "power")}), σ${run.line[end]} ${show(s[end])} (residual ${show(r[end], "power")}${s[end] < r[end] ? ", so no digit of it is known" : ""})`;
    }
    at("told").textContent = `${text}.`;
  }

  function openVectors() {
    if (chosen.depth < 0) return;
    for (const one of document.querySelectorAll("details[data-depth]")) one.open = one.dataset.depth === run.depths[chosen.depth].name;
  }

  // Tables: a click on a heading sorts, numbers by data-v or text, what is empty last.
  const collator = new Intl.Collator(undefined, { numeric: true });
  function sortBy(table, column, falling) {
    const heads = table.tHead.rows[0].cells, body = table.tBodies[0], key = (line) => {
      const cell = line.cells[column];
      if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
      const number = Number(cell.textContent);
      return cell.textContent.trim() && Number.isFinite(number) ? number : cell.textContent === "—" ? null : cell.textContent;
    };
    const lines = Array.from(body.rows, (line) => [key(line), line]);
    lines.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
      return falling ? -order : order;
    });
    body.append(...lines.map(([, line]) => line));
    Array.from(heads).forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : falling ? "descending" : "ascending"));
  }
  function sortAgain(table) {
    const heads = Array.from(table.tHead.rows[0].cells), column = heads.findIndex((head) => ["ascending", "descending"].includes(head.getAttribute("aria-sort")));
    if (column >= 0) sortBy(table, column, heads[column].getAttribute("aria-sort") === "descending");
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sortBy(table, column, now === "ascending" || (now !== "descending" && column > 0));
      });
    });
  }
  at("find-class").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const line of at("class-table").tBodies[0].rows) line.hidden = !`${line.cells[0].textContent} ${line.cells[1].textContent}`.toLowerCase().includes(wanted);
  });

  for (const name of ["depth", "class", "photo"]) {
    at(`choose-${name}`).addEventListener("change", (event) => {
      chosen[name] = Number(event.target.value);
      fillPhotos();
      drawSpectra();
      if (name === "class") { drawHeat(); drawDimension(); }
      if (name === "depth") { drawTree(); fillClasses(); openVectors(); }
      tell();
    });
  }
  for (const name of ["depth", "class"]) at(`choose-${name}`).value = "-1";
  fillPhotos();
  tell();
  // What is seen first is drawn first; the rest follows when the page can already be read.
  const later = () => new Promise((done) => (window.requestIdleCallback || window.setTimeout)(done));
  const took = (name) => { document.documentElement.dataset[name] = String(Math.round(performance.now())); };
  drawSpectra().then(async () => {
    took("first");
    at("plot-spectra").on("plotly_click", (event) => {
      const photo = event.points[0].data.meta;
      if (photo === undefined) return;
      at("choose-photo").value = String(photo);
      at("choose-photo").dispatchEvent(new Event("change"));
    });
    for (const draw of [drawHeat, drawDimension, drawTree]) { await later(); await draw(); }
    took("drawn");
  });
})();
