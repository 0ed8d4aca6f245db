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
      });
    });
  });

  all(".tools").forEach((tools) => { tools.hidden = false; });
  const table = byId("layertable");
  const filter = byId("filter");
  if (table && filter) {
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
    const apply = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(([row, text]) => {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      });
      byId("count").textContent = words.length ? `${shown} of ${rows.length} layers` : `${rows.length} layers`;
    };
    filter.addEventListener("input", apply);
    apply();
  }

  const map = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]
    .map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const colourAt = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (map.length - 1);
    const low = Math.min(Math.floor(place), map.length - 2);
    return map[low].map((part, i) => Math.round(part + (place - low) * (map[low + 1][i] - part)));
  };
  const select = byId("colour");
  if (table && select) {
    const stops = byId("map");
    map.forEach((_, index) => {
      const stop = document.createElementNS("http://www.w3.org/2000/svg", "stop");
      stop.setAttribute("offset", index / (map.length - 1));
      stop.setAttribute("stop-color", `rgb(${map[index]})`);
      stops.append(stop);
    });
    const paint = () => {
      all("svg.graph .node").forEach((node) => {
        all("rect,text", node).forEach((part) => { part.style.fill = ""; });
      });
      byId("legend").hidden = select.value === "";
      if (select.value === "") return;
      const cells = [...table.tBodies[0].rows].map((row) => [row.id.slice(1), row.cells[Number(select.value)]]);
      const known = cells.map(([id, cell]) => [id, numberOf(cell), cell.textContent]).filter(([, v]) => Number.isFinite(v));
      if (!known.length) {
        byId("legend").hidden = true;
        return;
      }
      known.sort((a, b) => a[1] - b[1]);
      const [low, high] = [known[0], known[known.length - 1]];
      const log = low[1] > 0 && high[1] / low[1] > 100;
      const scale = log ? Math.log : (v) => v;
      const span = scale(high[1]) - scale(low[1]);
      known.forEach(([id, value]) => {
        const node = byId(`n${id}`);
        if (!node) return;
        const rgb = colourAt(span > 0 ? (scale(value) - scale(low[1])) / span : 0.5);
        const linear = rgb.map((v) => (v / 255) ** 2.3);
        const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179;
        const rect = node.querySelector("rect");
        if (rect) rect.style.fill = `rgb(${rgb})`;
        all("text", node).forEach((text) => { text.style.fill = light ? "#000" : "#fff"; });
      });
      byId("low").textContent = low[2];
      byId("high").textContent = high[2];
      byId("scale").textContent = log ? "log" : "";
    };
    select.addEventListener("change", paint);
    if (select.options.length > 1) select.selectedIndex = 1;
    paint();
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((item) => { item.open = false; }));
})();
