"use strict";
// The report's script: tables that sort and filter, and a panel for each trial. Without it the page is complete but for
// trials beyond those in the table and the panels. It asks for nothing outside this page.
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick" || name === "oninput" || name === "onchange") node[name] = value;
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((c) => c !== null));
    return node;
  }

  // Numbers, as words.number in Python writes them.

  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const minus = (text) => text.replace("-", "−");

  function say(value, whole = false) {
    if (value === null || value === undefined) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "string") return value;
    if (typeof value === "object") return { inf: "∞", "-inf": "−∞" }[value.float] || "nan";
    if (whole && Math.abs(value) < 1e7) return minus(String(value));
    if (value === 0) return "0";
    const exponent = Math.floor(Math.log10(Math.abs(value)));
    if (exponent >= -4 && exponent < 6) return minus(value.toFixed(Math.max(3 - exponent, 0)));
    const power = [...String(exponent)].map((c) => SUPERSCRIPTS[c]).join("");
    return `${minus((value / 10 ** exponent).toFixed(2))} × 10${power}`;
  }

  // Tables

  const collator = new Intl.Collator("en", { numeric: true });

  function sortValue(row, column) {
    const cell = row.cells[column];
    if (column === 0 && row.dataset.setting !== undefined && !row.dataset.setting.includes(" ")) {
      return Number(row.dataset.setting);  // in the order of declaration: 0.05 comes before 0.2
    }
    const marked = cell.dataset.value !== undefined ? cell : $("[data-value]", cell);
    const text = marked ? marked.dataset.value : cell.textContent.trim();
    const number = { True: 1, False: 0, inf: Infinity, "-inf": -Infinity }[text] ?? Number(text);
    if (text === "" || text === "–" || text === "nan") return null;
    return Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (a === null || b === null) return null;
    if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : 0;
    return collator.compare(String(a), String(b));
  }

  // A row of class "says" holds a sentence on the row above it, and goes where that goes.
  const rowsOf = (table) => [...table.tBodies[0].rows].filter((row) => !row.classList.contains("says"));
  const sentenceOf = (row) => (row.nextElementSibling?.classList.contains("says") ? row.nextElementSibling : null);

  function sortBy(table, column, descending) {
    const body = table.tBodies[0];
    // What is equal keeps its order, trials that of their declaration.
    const rows = rowsOf(table).map((row, i) => ({ row, place: Number(row.dataset.place ?? i), value: sortValue(row, column) }));
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
      return (descending ? -1 : 1) * compare(a.value, b.value) || a.place - b.place;
    });
    body.append(...rows.flatMap((r) => [r.row, sentenceOf(r.row)]).filter(Boolean));
    for (const th of table.tHead.rows[0].cells) th.setAttribute("aria-sort", "none");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  function sortable(th, before = () => {}) {
    const button = make("button", { type: "button" });
    button.append(...th.childNodes);
    button.onclick = () => {
      before();
      sortBy(th.closest("table"), th.cellIndex, th.getAttribute("aria-sort") === "ascending");
    };
    th.append(button);
    th.setAttribute("aria-sort", "none");
  }

  function filterable(table, tools, before = () => {}) {
    const status = make("span", { role: "status" });
    const show = () => {
      if (input.value.trim()) before();
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      const rows = rowsOf(table);
      for (const row of rows) {
        const sentence = sentenceOf(row);
        const text = `${row.textContent} ${sentence?.textContent ?? ""}`.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        if (sentence) sentence.hidden = row.hidden;
        shown += !row.hidden;
      }
      status.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
    };
    const name = table.caption.textContent;
    const input = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter rows: ${name}`, oninput: show });
    tools.append(input, status);
    return show;
  }

  const LONG = 8;

  for (const table of $$("table.sortable")) {
    if (table.closest("#trials") || rowsOf(table).length < 2) continue;
    for (const th of table.tHead.rows[0].cells) sortable(th);
    if (rowsOf(table).length <= LONG) continue;
    const tools = make("div", { class: "tools" });
    table.closest(".scroll").before(tools);
    filterable(table, tools);
  }

  // Printed, everything is open.

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = $$("details:not([open])");
    for (const d of closed) d.open = true;
  });
  addEventListener("afterprint", () => {
    for (const d of closed) d.open = false;
  });

  // Trials

  const section = $("#trials");
  const table = $("table", section);
  let parsed = null;
  const data = () => (parsed ??= prepared(JSON.parse($("#trial-data").textContent)));

  function prepared(found) {
    found.whole = found.metrics.map((_, i) => found.whole.includes(i));
    found.trials.forEach((trial, i) => {
      trial.place = i;
      trial.task = Object.fromEntries(trial.t.map(([column, ...rest]) => [column, rest]));
    });
    return found;
  }

  const trialOf = (row) => data().trials[Number(row.dataset.place)];
  const nameOf = (trial) => `${data().settings[trial.s]} · seed ${trial.r}`;

  function valueCell(trial, metric) {
    const [path, , , column] = data().metrics[metric];
    const value = trial.v[metric];
    const task = trial.task[column];
    const cell = make("td", { "data-metric": path });
    if (task && task[1] !== "done") cell.append(make("span", { class: "bad" }, task[1]));
    else cell.append(marked(value, metric));
    return cell;
  }

  function marked(value, metric) {
    const text = say(value, data().whole[metric]);
    if (value === null || typeof value === "string") return document.createTextNode(text);
    const told = typeof value === "object" ? value.float : typeof value === "boolean" ? (value ? "True" : "False") : String(value);
    return make("span", { "data-stat": "value", "data-value": told }, text);
  }

  function link(task, column) {
    const [key, , , store] = task;
    const shown = key.slice(0, 12);
    if (store < 0) return make("span", { class: "key", title: `${key} (no artifact)` }, shown);
    const [top, told] = data().stores[store];
    const inside = `artifacts/${data().tasks[column]}/${key}`;
    if (top === null) return make("span", { class: "key", title: told + inside }, shown);
    return make("a", { class: "key", href: `${top}artifacts/${encodeURIComponent(data().tasks[column])}/${encodeURIComponent(key)}/`, title: inside }, shown);
  }

  function ending(status) {
    return make("td", { class: "text" }, status === "done" ? status : make("span", { class: "bad" }, status));
  }

  function rowOf(trial) {
    const row = make("tr", { "data-of": "trial", "data-setting": trial.s, "data-seed": trial.r, "data-place": trial.place });
    row.append(make("th", { scope: "row" }, data().settings[trial.s]), make("td", {}, trial.r));
    for (const metric of columns) row.append(valueCell(trial, metric));
    const [column, ...task] = trial.t[0];
    row.append(ending(task[1]), make("td", { class: "text" }, link(task, column)));
    opens(row);
    return row;
  }

  function opens(row) {
    const th = row.cells[0];
    th.replaceChildren(make("button", { type: "button", "aria-haspopup": "dialog" }, th.textContent));
    row.classList.add("opens");
    row.onclick = (event) => {
      if (!event.target.closest("a") && !String(getSelection())) open(trialOf(row));
    };
  }

  let columns = [];
  let complete = false;

  function completed() {
    if (complete) return;
    complete = true;
    const body = table.tBodies[0];
    body.append(...data().trials.slice(body.rows.length).map(rowOf));
    $("#trial-more").hidden = true;
  }

  const breakable = (name) => name.split("_").flatMap((part, i) => (i ? ["_", make("wbr"), part] : [part]));

  function chosen(metric, on) {
    completed();
    const place = 2 + (on ? columns.length : columns.indexOf(metric));
    if (on) {
      columns.push(metric);
      const [path, words] = data().metrics[metric];
      const [task, name] = [path.slice(0, path.lastIndexOf(".")), path.slice(path.lastIndexOf(".") + 1)];
      const th = make("th", { scope: "col", title: words, "data-metric": path }, make("span", { class: "task" }, task), ...breakable(name));
      table.tHead.rows[0].cells[place].before(th);
      sortable(th, completed);
      for (const row of table.tBodies[0].rows) row.cells[place].before(valueCell(trialOf(row), metric));
    } else {
      columns.splice(columns.indexOf(metric), 1);
      for (const row of [table.tHead.rows[0], ...table.tBodies[0].rows]) row.cells[place].remove();
    }
  }

  function chooser() {
    const choices = make("div", { class: "choices" });
    const details = make("details", {}, make("summary", {}, "Columns"), choices);
    details.addEventListener("toggle", () => {
      if (choices.firstChild) return;
      data().metrics.forEach(([path, words], metric) => {
        const box = make("input", { type: "checkbox", onchange: () => chosen(metric, box.checked) });
        box.checked = columns.includes(metric);
        choices.append(make("label", { title: words }, box, ` ${path}`));
      });
    });
    return details;
  }

  // The panel of a trial

  const panel = $("#trial");
  let current = null;

  function open(trial) {
    current = trial;
    const others = data().trials.filter((t) => t.s === trial.s && t !== trial);
    const at = (step) => {
      const rows = $$("tbody tr:not([hidden])", table);
      const row = rows[rows.findIndex((r) => Number(r.dataset.place) === trial.place) + step];
      return row ? trialOf(row) : null;
    };
    const step = (words, by) =>
      make("button", { type: "button", disabled: at(by) === null, onclick: () => open(at(by)) }, words);
    const bar = make("div", { class: "bar" }, make("h3", { id: "trial-name" }, nameOf(trial)), step("Previous", -1), step("Next", 1),
      make("button", { type: "button", onclick: () => panel.close() }, "Close"));
    const bad = trial.t.filter((t) => t[2] !== "done");
    const problems = bad.map(([column, , status, reason]) =>
      make("p", { class: "bad" }, `${data().columns[column]} ${status}${reason ? `: ${reason}` : ""}`));
    panel.replaceChildren(bar, ...problems, pictures(trial, others), values(trial), artifacts(trial));
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
  }

  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close();  // beside it
  });
  panel.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 0, ArrowRight: 1 }[event.key];
    if (step !== undefined) $$(".bar button", panel)[step].click();
  });
  panel.addEventListener("close", () => {
    const row = current && $(`tbody tr[data-place="${current.place}"] button`, table);
    if (row) row.focus();
  });

  function values(trial) {
    const body = make("tbody");
    data().metrics.forEach(([path, words, , column], metric) => {
      const value = trial.v[metric];
      if (value === null || !trial.task[column]) return;
      body.append(make("tr", {}, make("th", { scope: "row", title: words }, path), make("td", { "data-metric": path }, marked(value, metric)), make("td", { class: "text" }, words)));
    });
    const head = make("thead", {}, make("tr", {}, ...["metric", "value", "what it is"].map((t, i) => make("th", { scope: "col", class: i === 2 ? "text" : null }, t))));
    const where = { "data-of": "trial", "data-setting": trial.s, "data-seed": trial.r };
    return make("div", { class: "scroll" }, make("table", where, make("caption", { class: "unseen" }, "All that was measured on this trial"), head, body));
  }

  function artifacts(trial) {
    const parts = trial.t.flatMap(([column, ...task]) => [`${data().columns[column]} `, link(task, column), " "]);
    return make("p", { class: "note" }, "Artifacts: ", ...parts);
  }

  // Pictures of a trial

  const SVG = "http://www.w3.org/2000/svg";

  function draw(tag, attributes, text = "") {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  }

  function pictures(trial, others) {
    const charts = make("div", { class: "charts" });
    data().curves.forEach((curve, index) => {
      const own = trial.c.find((c) => c[0] === index);
      if (own) charts.append(chart(curve, own, others.map((t) => t.c.find((c) => c[0] === index)).filter(Boolean)));
    });
    if (!charts.childNodes.length) return make("p", { class: "note" }, "This page holds no curves of this trial.");
    const note = "Grey: the other seeds of this setting.";
    return make("div", {}, charts, make("p", { class: "note" }, others.length ? note : ""));
  }

  function ticks(low, high, log) {
    if (log) {
      const decades = Math.log10(high / low);
      const steps = decades < 0.7 ? [1, 1.5, 2, 3, 5, 7] : decades < 2 ? [1, 2, 5] : [1];
      const every = Math.max(1, Math.ceil(decades / 5));
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += every) {
        found.push(...steps.map((m) => m * 10 ** e).filter((v) => v >= low && v <= high));
      }
      return found;
    }
    const rough = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const found = [];
    for (let v = Math.ceil(low / size - 1e-9) * size; v <= high + size * 1e-9; v += size) found.push(Math.abs(v) < size * 1e-9 ? 0 : v);
    return found;
  }

  const tick = (v) => {
    if (v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5)) return minus(String(Number(v.toPrecision(3))));
    const [mantissa, power] = v.toExponential(1).split("e");
    const raised = [...String(Number(power))].map((c) => SUPERSCRIPTS[c]).join("");
    return `${Number(mantissa) === 1 ? "" : `${minus(String(Number(mantissa)))}·`}10${raised}`;
  };

  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [320, 190, 44, 8, 8, 34];

  function chart(curve, own, others) {
    const good = (v) => v !== null && (!curve.log || v > 0);
    const all = [own, ...others];
    const xs = all.flatMap(([, x]) => data().xs[x]).filter((v) => v !== null);
    const ys = all.flatMap(([, , lines]) => lines.flatMap(([, line]) => line)).filter(good);
    const figure = make("figure", { class: "chart" }, make("figcaption", {}, curve.title));
    if (!xs.length || !ys.length) {
      figure.append(make("p", { class: "note" }, "No value that can be drawn."));
      return figure;
    }
    const range = (values, log) => {
      let [low, high] = [values[0], values[0]];
      for (const v of values) [low, high] = [Math.min(low, v), Math.max(high, v)];
      if (low === high) return log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
      const space = log ? (high / low) ** 0.04 : (high - low) * 0.04;
      return log ? [low / space, high * space] : [low - space, high + space];
    };
    const [x0, x1] = range(xs, false);
    const [y0, y1] = range(ys, curve.log);
    const scale = (v) => (curve.log ? Math.log(v) : v);
    const px = (v) => LEFT + ((v - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    const py = (v) => HEIGHT - BOTTOM - ((scale(v) - scale(y0)) / (scale(y1) - scale(y0))) * (HEIGHT - TOP - BOTTOM);
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${curve.title}: ${curve.names.join(", ")} by ${curve.xlabel}` });
    for (const v of ticks(y0, y1, curve.log)) {
      svg.append(draw("path", { class: "axis", d: `M${LEFT} ${py(v)}H${WIDTH - RIGHT}` }));
      svg.append(draw("text", { x: LEFT - 5, y: py(v) + 3, "text-anchor": "end" }, tick(v)));
    }
    for (const v of ticks(x0, x1, false)) svg.append(draw("text", { x: px(v), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, tick(v)));
    svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, curve.xlabel));
    const path = (x, line) => {
      let pen = false;
      return line.map((v, i) => {
        if (!good(v) || x[i] === null) return ((pen = false), "");
        const part = `${pen ? "L" : "M"}${px(x[i]).toFixed(1)} ${py(v).toFixed(1)}`;
        return ((pen = true), part);
      }).join("");
    };
    const place = (trial, kind) => {
      const x = data().xs[trial[1]];
      const several = curve.names.length === 1 || trial[2].length > curve.names.length;
      const count = {};
      for (const [name, line] of trial[2]) {
        const nth = (count[name] = (count[name] ?? -1) + 1);
        const colour = several ? nth : name;
        const style = kind ?? `line c${colour % 8}${curve.dashed[name] ? " dashed" : ""}`;
        if (curve.points || line.length === 1) {
          const radius = kind ? 1.6 : 2.8;
          line.forEach((v, i) => good(v) && x[i] !== null && svg.append(draw("circle", { class: style, cx: px(x[i]).toFixed(1), cy: py(v).toFixed(1), r: radius })));
        } else svg.append(draw("path", { class: style, d: path(x, line) }));
      }
      return several;
    };
    for (const other of others.slice(0, 30)) place(other, "other");
    const several = place(own, null);
    const legend = make("div", { class: "legend" });
    if (curve.names.length > 1 || curve.log) {
      curve.names.forEach((name, i) => {
        const key = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
        key.append(draw("path", { class: `line ${several ? "c4" : `c${i % 8}`}${curve.dashed[i] ? " dashed" : ""}`, d: "M0 5H26" }));
        if (curve.names.length > 1) legend.append(make("span", {}, key, name));
      });
      if (curve.log) legend.append(make("span", {}, "logarithmic"));
    }
    figure.append(svg, legend);
    return figure;
  }

  // The trials' table comes to life.

  if (table.tBodies[0].rows.length) {
    [...table.tBodies[0].rows].forEach((row, place) => {
      row.dataset.place = place;
      opens(row);
    });
    const heads = [...table.tHead.rows[0].cells];
    const paths = heads.map((th) => th.dataset.metric).filter(Boolean);
    columns = paths.map((path) => data().metrics.findIndex((m) => m[0] === path));
    for (const th of heads) sortable(th, completed);
    const tools = $("#trial-tools");
    tools.className = "tools";
    filterable(table, tools, completed);
    if (data().metrics.length > columns.length) tools.after(chooser());
    const rest = data().trials.length - table.tBodies[0].rows.length;
    if (rest > 0) {
      const more = $("#trial-more");
      more.append(make("button", { type: "button", onclick: completed }, `Show ${rest} more trials`));
      more.hidden = false;
    }
    tools.hidden = false;
    $("#trial-help").hidden = false;
  }
})();
