"use strict";
// Texts of a trace are only ever written with `textContent`, `createTextNode` or `fillText`.

const SHAPES = {fill: "dot", edit: "diamond", remask: "ring", insert: "plus", delete: "cross", commit: "bar"};
const WORDS = {fill: "filled", edit: "edited", remask: "mask again", insert: "put in", delete: "taken out", commit: "committed"};
const SIGNS = {mask: "\u2591", remask: "\u21ba", insert: "\u207a"};
// Cividis: its lightness rises evenly, for every kind of colour vision.
const RAMP = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const GUTTER = 34, TOP = 20;
const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function colour(p) {
  const at = Math.min(Math.max(p, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
  const mixed = RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

function shape(pen, kind, x, y, size) {
  const r = size / 2;
  const lines = () => {
    pen.beginPath();
    if (kind === "diamond") { pen.moveTo(x, y - r); pen.lineTo(x + r, y); pen.lineTo(x, y + r); pen.lineTo(x - r, y); pen.closePath(); }
    if (kind === "dot") pen.arc(x, y, r * 0.45, 0, 7);
    if (kind === "ring") pen.arc(x, y, r * 0.75, 0, 7);
    if (kind === "plus") { pen.moveTo(x - r, y); pen.lineTo(x + r, y); pen.moveTo(x, y - r); pen.lineTo(x, y + r); }
    if (kind === "cross") { pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r); }
    if (kind === "bar") { pen.moveTo(x - r, y + r); pen.lineTo(x + r, y + r); }
  };
  const filled = kind === "diamond" || kind === "dot";
  pen.strokeStyle = "#000"; pen.lineWidth = filled ? 2 : Math.max(size / 3.2, 3);
  lines(); pen.stroke();
  pen.strokeStyle = pen.fillStyle = "#fff"; pen.lineWidth = Math.max(size / 7, 1.3);
  lines(); if (filled) pen.fill(); else pen.stroke();
}

function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]/g, (char) =>
    char === "\n" ? "\u21b5\n" : char === "\t" ? "\u2192" : "\ufffd");
}

/** A trace step by step: cells of every frame by position, each with the events that made it. */
function replay(trace) {
  const mask = trace.header.mask_token_id, frames = [];
  let cells = new Map(), now = null, moving = null;
  const settle = () => {
    if (!moving) return;
    const {forward, put} = moving, held = forward.confidence.map((_, i) => cells.get(forward.position + i));
    const next = [...forward.put], first = forward.position;
    held.forEach((_, i) => cells.delete(first + i));
    forward.moved.forEach((old, i) => {
      if (old >= 0) { if (held[old]) cells.set(first + i, held[old]); return; }
      const behind = forward.moved.slice(i).find((place) => place >= 0);
      const past = put.filter((event) => event.position === first + behind);
      cells.set(first + i, {id: next.shift(), state: "insert", past});
    });
    moving = null;
  };
  const close = () => { settle(); if (now) { now.cells = new Map(cells); frames.push(now); } now = null; };
  for (const step of trace.steps) {
    if (step.kind === "open") {
      close();
      step.ids.forEach((id, i) => cells.set(step.position + i, {id, state: id === mask ? "mask" : "given", past: []}));
      if (!frames.length) frames.push({number: 0, block: step.block, position: 0, confidence: [], events: [], cells: new Map(cells)});
    } else if (step.kind === "forward") {
      close();
      now = {number: step.forward, block: step.block, position: step.position, confidence: step.confidence, entropy: step.entropy, events: []};
      if (step.moved) moving = {forward: step, put: []};
    } else {
      if (step.kind === "commit") settle();
      if (now) now.events.push(step);
      if (step.kind === "insert" && moving) moving.put.push(step);
      const cell = cells.get(step.position);
      if (!cell || step.kind === "insert" || step.kind === "delete") continue;
      cells.set(step.position, {id: step.new, state: step.kind, past: [...cell.past, step]});
    }
  }
  close();
  return frames;
}

class Panel {
  constructor(group, several) {
    this.group = group;
    this.root = make("section");
    this.title = this.root.appendChild(make("h2"));
    this.about = this.root.appendChild(make("p", "about"));
    if (group.traces.length > 1) this.root.appendChild(this.chooser());
    this.root.appendChild(make("h3", "", "Canvas"));
    this.tokens = this.root.appendChild(make("div", "tokens"));
    this.root.appendChild(make("h3", "", "Confidence by position (across) and forward (down)"));
    this.holder = this.root.appendChild(make("div", "map"));
    this.map = this.holder.appendChild(make("canvas"));
    this.map.tabIndex = 0;
    this.root.appendChild(make("h3", "", "History of a token"));
    this.history = this.root.appendChild(make("div", "history"));
    this.history.setAttribute("aria-live", "polite");
    this.map.setAttribute("role", "img");
    this.listen();
    this.load(0);
  }

  chooser() {
    const label = make("label", "about", "Request "), select = label.appendChild(make("select"));
    this.group.traces.forEach((trace, i) => {
      const name = trace.header.id === undefined ? "" : ` (${trace.header.id})`;
      const option = select.appendChild(make("option", "", `${trace.header.request}${name}`));
      option.value = i;
    });
    select.addEventListener("change", () => { this.load(Number(select.value)); player.resize(); });
    return label;
  }

  load(index) {
    const trace = this.trace = this.group.traces[index], {header, stats} = trace;
    this.frames = replay(trace);
    this.at = 0; this.pinned = null; this.cursor = null;
    this.title.textContent = [this.group.title, `request ${header.request}`].filter(Boolean).join(", ");
    const told = [header.policy];
    if (stats.tokens !== undefined) told.push(`${stats.tokens} tokens in ${stats.forwards} forwards (${Number(stats.tokens_per_forward).toFixed(2)} per forward)`);
    for (const [name, words] of [["t2t_edits", "edits"], ["remasks", "remasks"], ["inserts", "inserts"], ["deletes", "deletes"], ["oscillations", "oscillations"]])
      if (stats[name]) told.push(`${stats[name]} ${words}`);
    if (header.model && header.model.name) told.push(header.model.name);
    this.about.textContent = told.join(" \u00b7 ");
    const places = this.frames.flatMap((frame) => [...frame.cells.keys()]).filter((place) => place >= 0);
    this.columns = places.reduce((most, place) => Math.max(most, place + 1), 0);
    this.rows = this.frames.slice(1);
    this.map.setAttribute("aria-label", `Confidence of ${this.columns} positions in ${this.rows.length} forwards`);
    this.tell(null);
    this.show(0);
  }

  text(id) {
    if (id === null || id === undefined) return "nothing";
    if (id === this.trace.header.mask_token_id) return "[MASK]";
    return this.trace.tokens[id] ?? `<${id}>`;
  }

  /** Shows the canvas after forward `at`, or after the last one before it. */
  show(at) {
    this.at = Math.max(this.frames.findLastIndex((frame) => frame.number <= at), 0);
    const frame = this.frames[this.at], pieces = document.createDocumentFragment();
    if (!frame) { this.tokens.textContent = "Nothing was decoded."; return; }
    const changed = new Set(frame.events.filter((event) => event.kind !== "commit").map((event) => event.position));
    const focus = document.activeElement && document.activeElement.parentNode === this.tokens ? document.activeElement.dataset.place : null;
    for (const place of [...frame.cells.keys()].sort((a, b) => a - b)) {
      const cell = frame.cells.get(place), edited = cell.past.some((event) => event.kind === "edit");
      const sign = SIGNS[cell.state];
      const piece = make("button", `token ${cell.state}`, sign ?? visible(this.text(cell.id)));
      piece.type = "button";
      piece.dataset.place = place;
      piece.classList.toggle("now", changed.has(place));
      piece.classList.toggle("edited", edited);
      piece.classList.toggle("prompt", place < 0);
      piece.classList.toggle("chosen", place === this.pinned);
      const state = cell.state === "mask" ? "mask" : cell.state === "given" ? "given" : WORDS[cell.state];
      piece.setAttribute("aria-label", `position ${place}: ${visible(this.text(cell.id))}, ${state}`);
      pieces.appendChild(piece);
    }
    this.tokens.replaceChildren(pieces);
    if (focus !== null) { const same = [...this.tokens.children].find((piece) => piece.dataset.place === focus); if (same) same.focus(); }
    this.draw();
    if (this.pinned !== null) this.tell(this.pinned);
  }

  size() {
    const room = Math.max(this.holder.clientWidth - GUTTER - 4, 100);
    const wide = Math.max(Math.min(Math.floor(room / Math.max(this.columns, 1)), 20), 9);
    const high = this.rows.length > 400 ? 8 : 14;
    return [Math.min(wide, Math.floor(16000 / Math.max(this.columns, 1)) || 1), Math.min(high, Math.floor(16000 / Math.max(this.rows.length, 1)) || 1)];
  }

  draw() {
    const [wide, high] = this.cell = this.size(), zoom = Math.min(window.devicePixelRatio || 1, 16000 / (GUTTER + this.columns * wide));
    const width = GUTTER + this.columns * wide + 2, height = TOP + this.rows.length * high + 2;
    this.map.width = width * zoom; this.map.height = height * zoom;
    this.map.style.width = `${width}px`; this.map.style.height = `${height}px`;
    const pen = this.map.getContext("2d"), ink = getComputedStyle(document.body).color;
    pen.scale(zoom, zoom);
    pen.font = "11px system-ui, sans-serif"; pen.fillStyle = ink;
    for (let place = 0; place < this.columns; place += 10) pen.fillText(String(place), GUTTER + place * wide, 13);
    pen.textAlign = "right";
    const every = high < 11 ? 5 : this.rows.length > 60 ? 2 : 1;
    this.rows.forEach((frame, row) => {
      const y = TOP + row * high;
      pen.fillStyle = ink;
      if (row % every === 0) pen.fillText(String(frame.number), GUTTER - 5, y + high - 3);
      frame.confidence.forEach((p, i) => {
        const place = frame.position + i;
        if (p === null || place < 0) return;
        pen.fillStyle = colour(p);
        pen.fillRect(GUTTER + place * wide, y, wide - 1, high - 1);
      });
    });
    const size = Math.min(wide, high) - 3;
    this.rows.forEach((frame, row) => {
      for (const event of frame.events)
        if (event.position >= 0) shape(pen, SHAPES[event.kind], GUTTER + (event.position + 0.5) * wide - 0.5, TOP + (row + 0.5) * high - 0.5, size);
    });
    const outline = (x, y, w, h) => { pen.strokeStyle = ink; pen.lineWidth = 2; pen.strokeRect(x, y, w, h); };
    if (this.at > 0) outline(GUTTER - 1, TOP + (this.at - 1) * high - 1, this.columns * wide + 1, high + 1);
    if (this.cursor) outline(GUTTER + this.cursor[0] * wide - 1, TOP + this.cursor[1] * high - 1, wide + 1, high + 1);
  }

  /** Says what happened to the token that stands at `place` in the shown frame, or in `row`. */
  tell(place, row) {
    const frame = row === undefined ? this.frames[this.at] : this.rows[row];
    this.history.replaceChildren();
    if (place === null || !frame) { this.history.append(make("p", "", "Point at a token or at the map.")); return; }
    const cell = frame.cells.get(place), line = make("p", "", `Position ${place}, after forward ${frame.number}: `);
    this.history.append(line);
    if (!cell) { line.append("nothing is there yet."); return; }
    line.append(make("code", "", visible(this.text(cell.id))));
    const p = frame.confidence[place - frame.position];
    if (p !== undefined && p !== null) line.append(` \u00b7 confidence ${digits(p)}`);
    const entropy = frame.entropy && frame.entropy[place - frame.position];
    if (entropy !== null && entropy !== undefined) line.append(` \u00b7 entropy ${digits(entropy)} nats`);
    const list = this.history.appendChild(make("ol"));
    for (const event of cell.past) list.append(this.told(event));
    const gone = frame.events.filter((event) => event.kind === "delete" && event.position === place);
    for (const event of gone) list.append(this.told(event));
    if (!list.children.length) line.append(" \u00b7 as it was at the start.");
  }

  told(event) {
    const item = make("li", "", `forward ${event.forward}: `), p = (value) => (value === undefined ? "" : ` (p ${digits(value)})`);
    const code = (id) => make("code", "", visible(this.text(id)));
    if (event.kind === "edit") item.append(code(event.old), p(event.p_old), " became ", code(event.new), p(event.p_new));
    else if (event.kind === "delete" || event.kind === "remask") item.append(`${WORDS[event.kind]}: `, code(event.old), p(event.p_old));
    else item.append(`${WORDS[event.kind]}: `, code(event.new), p(event.p_new));
    item.append(`; ${event.why}`);
    return item;
  }

  listen() {
    const placeOf = (event) => { const piece = event.target.closest(".token"); return piece ? Number(piece.dataset.place) : null; };
    this.tokens.addEventListener("pointerover", (event) => { const place = placeOf(event); if (place !== null) this.tell(place); });
    this.tokens.addEventListener("focusin", (event) => { const place = placeOf(event); if (place !== null) this.tell(place); });
    this.tokens.addEventListener("click", (event) => { const place = placeOf(event); if (place !== null) this.pin(place); });
    const cellAt = (event) => {
      const [wide, high] = this.cell, place = Math.floor((event.offsetX - GUTTER) / wide), row = Math.floor((event.offsetY - TOP) / high);
      return place >= 0 && place < this.columns && row >= 0 && row < this.rows.length ? [place, row] : null;
    };
    this.map.addEventListener("pointermove", (event) => { const cell = cellAt(event); if (cell) this.tell(...cell); });
    this.map.addEventListener("click", (event) => { const cell = cellAt(event); if (cell) { this.cursor = cell; this.pinned = cell[0]; player.go(this.rows[cell[1]].number); } });
    this.map.addEventListener("keydown", (event) => {
      const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!move || !this.rows.length) return;
      event.preventDefault(); event.stopPropagation();
      const [place, row] = this.cursor ?? [0, Math.max(this.at - 1, 0)], held = (value, most) => Math.max(0, Math.min(value, most - 1));
      this.cursor = this.cursor ? [held(place + move[0], this.columns), held(row + move[1], this.rows.length)] : [place, row];
      this.draw(); this.tell(...this.cursor); this.reveal();
    });
  }

  pin(place) { this.pinned = place; this.show(player.at); }

  reveal() {
    const [wide, high] = this.cell, x = GUTTER + this.cursor[0] * wide, y = TOP + this.cursor[1] * high, view = this.holder;
    if (x < view.scrollLeft || x + wide > view.scrollLeft + view.clientWidth) view.scrollLeft = x - view.clientWidth / 2;
    if (y < view.scrollTop || y + high > view.scrollTop + view.clientHeight) view.scrollTop = y - view.clientHeight / 2;
  }
}

function digits(value) { return value > 0.999 && value < 1 ? value.toFixed(5) : String(Number(value.toPrecision(3))); }

const player = {
  at: 0, timer: null,
  get most() { return Math.max(0, ...panels.map((panel) => panel.frames.at(-1)?.number ?? 0)); },
  go(at) {
    this.at = Math.max(0, Math.min(at, this.most));
    byId("scrub").value = this.at;
    byId("at").textContent = this.at ? `forward ${this.at} of ${this.most}` : `start, of ${this.most}`;
    panels.forEach((panel) => panel.show(this.at));
    if (this.at >= this.most) this.stop();
  },
  resize() { byId("scrub").max = this.most; this.go(this.at); },
  stop() {
    clearTimeout(this.timer); this.timer = null;
    byId("play").textContent = "\u25b6\ufe0e Play"; byId("play").setAttribute("aria-label", "Play"); byId("play").setAttribute("aria-pressed", "false");
  },
  start() {
    if (this.at >= this.most) this.go(0);
    byId("play").textContent = "\u275a\u275a Pause"; byId("play").setAttribute("aria-label", "Pause"); byId("play").setAttribute("aria-pressed", "true");
    const next = () => { this.timer = setTimeout(() => { this.go(this.at + 1); if (this.timer) next(); }, Number(byId("speed").value)); };
    next();
  },
  toggle() { if (this.timer) this.stop(); else this.start(); },
};

function legend() {
  const room = byId("legend");
  for (const [kind, name] of Object.entries(SHAPES)) {
    const entry = room.appendChild(make("span")), canvas = entry.appendChild(make("canvas")), zoom = window.devicePixelRatio || 1;
    canvas.width = canvas.height = 16 * zoom; canvas.style.width = canvas.style.height = "16px";
    const pen = canvas.getContext("2d");
    pen.scale(zoom, zoom); pen.fillStyle = colour(0.55); pen.fillRect(0, 0, 16, 16);
    shape(pen, name, 8, 8, 10);
    entry.append(WORDS[kind]);
  }
  const entry = room.appendChild(make("span", "", "confidence 0")), bar = entry.appendChild(make("canvas"));
  bar.width = 100; bar.height = 12;
  const pen = bar.getContext("2d");
  for (let x = 0; x < 100; x++) { pen.fillStyle = colour(x / 99); pen.fillRect(x, 0, 1, 12); }
  entry.append("1");
}

const panels = JSON.parse(byId("data").textContent).map((group) => new Panel(group));
byId("panels").classList.toggle("two", panels.length > 1);
byId("panels").append(...panels.map((panel) => panel.root));
byId("play").addEventListener("click", () => player.toggle());
byId("first").addEventListener("click", () => { player.stop(); player.go(0); });
byId("back").addEventListener("click", () => { player.stop(); player.go(player.at - 1); });
byId("on").addEventListener("click", () => { player.stop(); player.go(player.at + 1); });
byId("scrub").addEventListener("input", (event) => { player.stop(); player.go(Number(event.target.value)); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
  if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); player.toggle(); }
  if (event.key === "ArrowRight") { event.preventDefault(); player.stop(); player.go(player.at + 1); }
  if (event.key === "ArrowLeft") { event.preventDefault(); player.stop(); player.go(player.at - 1); }
});
window.addEventListener("resize", () => panels.forEach((panel) => panel.draw()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => panels.forEach((panel) => panel.draw()));
legend();
player.resize();
