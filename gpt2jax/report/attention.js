'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const [LAYERS, HEADS, L] = data.shape;
const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
const element = (id) => document.getElementById(id);
const state = { layer: 0, head: 0, token: L - 1, held: false, readers: false, key: null };

// A byte is 255 times the root of a weight.
const root = (layer, head, query, key) => bytes[((layer * HEADS + head) * L + query) * L + key] / 255;
const weight = (...at) => root(...at) ** 2;
const percent = (w) => (w >= 0.0995 ? (100 * w).toFixed(0) : (100 * w).toFixed(1)) + ' %';
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const quoted = (token) => '\u201c' + data.tokens[token] + '\u201d';

function make(tag, parent, properties = {}) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  parent.append(made);
  return made;
}

// One head as pixels, a pixel a pair of tokens.
function paint(canvas, layer, head) {
  canvas.width = canvas.height = L;
  const context = canvas.getContext('2d'), image = context.createImageData(L, L);
  const [r, g, b] = color('--reads').split(',').map(Number);
  const start = (layer * HEADS + head) * L * L;
  for (let i = 0; i < L * L; i++) image.data.set([r, g, b, bytes[start + i]], 4 * i);
  context.putImageData(image, 0, 0);
}

function drawGrid() {
  const grid = element('grid');
  grid.replaceChildren();
  grid.style.gridTemplateColumns = 'auto repeat(' + HEADS + ', minmax(1.1rem, 1fr))';
  make('span', grid);
  for (let head = 0; head < HEADS; head++) make('span', grid, { className: 'top', textContent: head + 1 });
  for (let layer = 0; layer < LAYERS; layer++) {
    make('span', grid, { textContent: layer + 1 });
    for (let head = 0; head < HEADS; head++) {
      const button = make('button', grid, { title: 'layer ' + (layer + 1) + ', head ' + (head + 1) });
      button.dataset.at = layer + ',' + head;
      button.setAttribute('aria-label', button.title);
      button.addEventListener('click', () => choose(layer, head));
      paint(make('canvas', button), layer, head);
    }
  }
}

function choose(layer, head) {
  Object.assign(state, { layer: (layer + LAYERS) % LAYERS, head: (head + HEADS) % HEADS });
  const at = state.layer + ',' + state.head;
  for (const button of element('grid').querySelectorAll('button')) {
    const chosen = button.dataset.at === at;
    button.setAttribute('aria-pressed', chosen);
    if (chosen) button.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }
  element('title').textContent = 'Layer ' + (state.layer + 1) + ', head ' + (state.head + 1);
  const facts = element('facts');
  facts.replaceChildren();
  for (const [name, values] of Object.entries(data.statistics)) {
    const value = values[state.layer][state.head], row = make('div', facts);
    make('dt', row, { textContent: name });
    const shown = name === 'entropy' ? value.toFixed(2) + ' bits' : name === 'distance' ? value.toFixed(1) : percent(value);
    make('dd', row, { textContent: shown });
  }
  paint(pixels, state.layer, state.head);
  update();
}

function drawText() {
  const text = element('text');
  data.tokens.forEach((token, index) => {
    const span = make('span', text, { textContent: token });
    if (data.special[index]) span.classList.add('special');
    span.addEventListener('pointerenter', () => { if (!state.held) show(index); });
    span.addEventListener('click', () => {
      state.held = !(state.held && state.token === index);
      show(index);
    });
    if (token.endsWith('\u21b5')) text.append('\n');
  });
}

function show(token, key = null) {
  Object.assign(state, { token, key });
  update();
}

function list(id, roots) {
  const top = roots.map((r, index) => [r * r, index]).sort((a, b) => b[0] - a[0]).slice(0, 6);
  element(id).replaceChildren();
  for (const [w, index] of top.filter(([w]) => w > 0.0005)) {
    const row = make('li', element(id));
    make('i', row).style.width = 100 * w + '%';
    make('span', row, { textContent: data.tokens[index] + (index === state.token ? '  (itself)' : '') });
    make('b', row, { textContent: percent(w) });
  }
}

function update() {
  const { layer, head, token, readers } = state, all = [...Array(L).keys()];
  const out = all.map((key) => root(layer, head, token, key)), into = all.map((query) => root(layer, head, query, token));
  element('text').classList.toggle('readers', readers);
  element('reads').setAttribute('aria-pressed', !readers);
  element('readers').setAttribute('aria-pressed', readers);
  element('text').querySelectorAll('span').forEach((span, index) => {
    const r = (readers ? into : out)[index];
    span.style.setProperty('--w', r.toFixed(3));
    span.classList.toggle('strong', r > 0.62);
    span.classList.toggle('held', index === token);
  });
  list('out', out);
  list('in', into);
  drawMap();
  const { key } = state;
  element('pair').textContent = key === null
    ? 'A row is a token that reads, a column one that is read.'
    : quoted(token) + ' reads ' + quoted(key) + ': ' + percent(weight(layer, head, token, key));
}

const pixels = document.createElement('canvas');
const frame = { label: 0, cell: 1, size: 0 };

// The chosen head, with labels where there is room for them.
function drawMap() {
  const canvas = element('map'), ratio = window.devicePixelRatio || 1, size = canvas.clientWidth;
  if (!size) return;
  canvas.width = canvas.height = Math.round(size * ratio);
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  context.clearRect(0, 0, size, size);
  const labelled = size / L > 9.5;
  frame.label = labelled ? Math.min(100, size / 5) : 0;
  frame.cell = (size - frame.label - 2) / L;
  frame.size = frame.cell * L;
  const { label, cell } = frame;
  context.fillStyle = color('--card');
  context.fillRect(label, label, frame.size, frame.size);
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels, label, label, frame.size, frame.size);
  context.strokeStyle = color('--line');
  context.strokeRect(label, label, frame.size, frame.size);
  context.strokeStyle = 'rgb(' + color(state.readers ? '--readers' : '--reads') + ')';
  context.lineWidth = 1.5;
  if (state.readers) context.strokeRect(label + state.token * cell, label, cell, frame.size);
  else context.strokeRect(label, label + state.token * cell, frame.size, cell);
  if (state.key !== null) context.strokeRect(label + state.key * cell, label + state.token * cell, cell, cell);
  if (!labelled) return;
  context.font = Math.min(12, 0.8 * cell) + 'px system-ui, sans-serif';
  context.textBaseline = 'middle';
  for (let i = 0; i < L; i++) {
    const strong = i === state.token || i === state.key;
    context.fillStyle = color(strong ? '--ink' : '--muted');
    context.textAlign = 'right';
    context.fillText(shorten(context, data.tokens[i].trim(), label - 8), label - 6, label + (i + 0.5) * cell);
    context.save();
    context.translate(label + (i + 0.5) * cell, label - 6);
    context.rotate(-Math.PI / 2);
    context.textAlign = 'left';
    context.fillText(shorten(context, data.tokens[i].trim(), label - 8), 0, 0);
    context.restore();
  }
}

function shorten(context, text, room) {
  while (text.length > 1 && context.measureText(text).width > room) text = text.replace(/.\u2026?$/u, '\u2026');
  return text;
}

element('map').addEventListener('pointermove', (event) => {
  const place = (offset) => Math.floor((offset - frame.label) / frame.cell);
  const [key, query] = [place(event.offsetX), place(event.offsetY)];
  if (key >= 0 && key < L && query >= 0 && query < L) show(query, key);
});
element('map').addEventListener('pointerleave', () => show(state.token));
element('reads').addEventListener('click', () => { state.readers = false; update(); });
element('readers').addEventListener('click', () => { state.readers = true; update(); });
document.addEventListener('keydown', (event) => {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
  if (!(down || right) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  choose(state.layer + down, state.head + right);
});
const redraw = () => { drawGrid(); choose(state.layer, state.head); };
window.addEventListener('resize', drawMap);
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
element('app').hidden = false;
drawText();
redraw();
