"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const numberOf = (cell) => {
    const text = cell.textContent.trim().replaceAll("\u2212", "-").replaceAll(",", "");
    if (text === "\u221e" || text === "-\u221e") return text === "\u221e" ? Infinity : -Infinity;
    return text === "" ? NaN : Number(text);
  };
  const natural = new Intl.Collator("en", { numeric: true, sensitivity: "base" }).compare;

  // Tables: a click on a heading sorts, and sorts back.
  all("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    all("thead tr:last-child th", table).forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const numeric = head.classList.contains("num");
      button.addEventListener("click", () => {
        const cycle = numeric ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
        const next = cycle[(cycle.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        all("th[aria-sort]", table).forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const rows = original.map((row) => [row, numeric ? numberOf(row.cells[index]) : row.cells[index].textContent]);
        if (next !== "none") {
          rows.sort(([, a], [, b]) => {
            if (!numeric) return sign * natural(a, b);
            if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
            return a === b ? 0 : a < b ? -sign : sign;
          });
        }
        body.append(...rows.map(([row]) => row));
        const name = head.querySelector(".label").textContent;
        table.dispatchEvent(new CustomEvent("sorted", { detail: next === "none" ? "" : `, sorted by ${name}, ${next}` }));
      });
    });
  });

  // The layer table: rows that hold every word of the filter, columns of one source.
  all(".tools").forEach((tools) => { tools.hidden = false; });
  const table = byId("layertable");
  const filter = byId("filter");
  if (table) {
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
    let order = "";
    const apply = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(([row, text]) => {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      });
      byId("count").textContent = `${words.length ? `${shown} of ` : ""}${rows.length} layers${order}`;
    };
    table.addEventListener("sorted", (event) => {
      order = event.detail;
      apply();
    });
    filter.addEventListener("input", apply);
    apply();
  }
  const columns = byId("columns");
  if (table && columns) {
    const heads = all("thead tr:last-child th", table);
    const groups = all("thead tr.groups th", table);
    const arrange = () => {
      const wanted = heads.map((head, index) => index === 0 || columns.value === "all" ||
        (columns.value === "main" ? "main" in head.dataset : head.dataset.of === columns.value));
      [...table.tBodies[0].rows, heads[0].parentNode].forEach((row) => {
        wanted.forEach((shown, index) => { row.cells[index].hidden = !shown; });
      });
      groups.forEach((group, index) => {
        const count = heads.filter((head, at) => wanted[at] && head.dataset.of === String(index)).length;
        group.hidden = count === 0;
        group.colSpan = Math.max(count, 1);
      });
    };
    columns.addEventListener("change", arrange);
    arrange();
  }

  // The graph: boxes take the colour of a column; below and above zero differ in hue where a column has both.
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const rising = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"].map(rgb);
  const signed = ["#8c2d04", "#cc6d1f", "#f0b26b", "#f1f1f1", "#a9c6e3", "#4f86c0", "#123c70"].map(rgb);
  const colourAt = (map, share) => {
    const place = Math.min(Math.max(share, 0), 1) * (map.length - 1);
    const low = Math.min(Math.floor(place), map.length - 2);
    return map[low].map((part, i) => Math.round(part + (place - low) * (map[low + 1][i] - part)));
  };
  const select = byId("colour");
  const titles = new Map(all("svg.graph .node").map((node) => [node.id, node.querySelector("title")?.textContent ?? ""]));
  const say = (node, more) => {
    const title = node.querySelector("title");
    if (title) title.textContent = titles.get(node.id) + more;
  };
  const paint = () => {
    all("svg.graph .node").forEach((node) => {
      all("rect,text", node).forEach((part) => { part.style.fill = ""; });
      say(node, "");
    });
    const index = Number(select.value);
    const known = [...table.tBodies[0].rows]
      .map((row) => [row.id.slice(1), numberOf(row.cells[index]), row.cells[index].textContent])
      .filter(([, value]) => index > 0 && Number.isFinite(value));
    byId("legend").hidden = !known.length;
    if (!known.length) return;
    known.sort((a, b) => a[1] - b[1]);
    const [low, high] = [known[0], known[known.length - 1]];
    const both = low[1] < 0 && high[1] > 0;
    const map = both ? signed : rising;
    const log = low[1] > 0 && high[1] / low[1] > 100;
    const scale = log ? Math.log : (v) => v;
    const end = Math.max(-low[1], high[1]);
    const span = scale(high[1]) - scale(low[1]);
    const share = (v) => both ? (v / end + 1) / 2 : span > 0 ? (scale(v) - scale(low[1])) / span : 0.5;
    const name = select.selectedOptions[0].textContent;
    known.forEach(([id, value, text]) => {
      const node = byId(`n${id}`);
      if (!node) return;
      const colour = colourAt(map, share(value));
      const linear = colour.map((v) => (v / 255) ** 2.3);
      const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179;
      const rect = node.querySelector("rect");
      if (rect) rect.style.fill = `rgb(${colour})`;
      all("text", node).forEach((part) => { part.style.fill = light ? "#000" : "#fff"; });
      say(node, `\n${name}: ${text}`);
    });
    byId("map").replaceChildren(...map.map((colour, at) => {
      const stop = document.createElementNS("http://www.w3.org/2000/svg", "stop");
      stop.setAttribute("offset", at / (map.length - 1));
      stop.setAttribute("stop-color", `rgb(${colour})`);
      return stop;
    }));
    const far = low[1] + high[1] > 0 ? high : low;
    const mirrored = far[2].startsWith("\u2212") ? far[2].slice(1) : `\u2212${far[2]}`;
    byId("low").textContent = !both || far === low ? low[2] : mirrored;
    byId("high").textContent = !both || far === high ? high[2] : mirrored;
    const meaning = select.selectedOptions[0].title;
    byId("chosen").textContent = `${name}. `;
    byId("meaning").textContent = [
      meaning ? meaning[0].toUpperCase() + meaning.slice(1).replace(/\.?$/, ".") : "",
      log ? "Colours follow the logarithm." : both ? "The middle colour is 0." : "",
      known.length < rowCount ? `${rowCount - known.length} of ${rowCount} layers have no such number and no colour.` : "",
    ].filter(Boolean).join(" ");
  };
  const rowCount = table ? table.tBodies[0].rows.length : 0;
  if (table && select) {
    select.addEventListener("change", paint);
    paint();
  }

  // Paper shows what is folded away on the screen.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((item) => { item.open = false; }));
})();
