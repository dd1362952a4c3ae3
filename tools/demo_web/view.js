// Everything that is written into the page.

const SVG_ONLY = {'aria-hidden': 'true'}; // what repeats in color what text says
const NUMBERS = new Intl.NumberFormat('en');
const byId = id => document.getElementById(id);

export const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

export const showError = error => {
  const place = byId('error');
  place.hidden = false;
  place.textContent = `${error.message ?? error}.`;
};

export const clearError = () => {
  byId('error').hidden = true;
  byId('error').textContent = '';
};

const percent = share => `${Math.round(100 * share)} %`;
export const decimal = (value, digits) => value.toLocaleString('en', {
  minimumFractionDigits: digits, maximumFractionDigits: digits,
});

export const timesText = (ratio, more, less) => ratio >= 1
  ? `${decimal(ratio, 1)} times ${more}` : `${decimal(1 / ratio, 1)} times ${less}`;

export const milliseconds = value => `${decimal(value, value < 10 ? 2 : 1)} ms`;

export const bytesText = bytes => bytes < 1e6
  ? `${decimal(bytes / 1e3, 0)} kB` : `${decimal(bytes / 1e6, 2)} MB`;

export const showTop = (kind, top) => {
  byId(`top-${kind}`).replaceChildren(...top.map(({name, share}) => {
    const fill = element('i', {style: `--share: ${share}`});
    return element('li', {},
      element('span', {class: 'name'}, name),
      element('span', {class: 'value'}, percent(share)),
      element('span', {class: 'track', ...SVG_ONLY}, fill));
  }));
};

// What both say in one sentence; `label` is the true class, if it is known.
export const showVerdict = (dense, sparse, label) => {
  const agree = dense === sparse;
  // A name with what follows it stays on one line where that is long enough.
  const word = (name, after) => element('span', {class: 'word'}, name + after);
  const known = label !== undefined, right = agree && dense === label;
  const end = !known ? '.' : right ? ',' : ';';
  const said = agree ? ['Both say ', word(dense, end)]
    : ['Dense says ', word(dense, ','), ' sparse says ', word(sparse, end)];
  if (known) said.push(...(right ? [' which is right.'] : [' it is ', word(label, '.')]));
  byId('verdict').replaceChildren(...said);
};

export const sayVerdict = text => {
  byId('verdict').textContent = text;
};

// A screen reader hears each prediction, but not those of each frame of the camera.
export const hushVerdict = hushed => {
  byId('verdict').setAttribute('aria-live', hushed ? 'off' : 'polite');
  byId('verdict').classList.toggle('hurried', hushed);
};

// Bars of dense and sparse: rows {share, text, note, low, high}, shares of the longest.
const showBars = (id, rows) => {
  const kinds = ['dense', 'sparse'];
  byId(id).replaceChildren(...rows.map(({share, text, note, low, high}, i) => {
    const track = element('span', {class: 'track', ...SVG_ONLY},
      element('i', {style: `--share: ${share}`}));
    if (low !== undefined) {
      track.append(element('b', {style: `--low: ${low}; --high: ${high}`}));
    }
    return element('p', {class: `bar ${kinds[i]}`},
      element('span', {class: 'name'}, i ? 'Sparse' : 'Dense'),
      element('span', {class: 'value'}, text),
      track,
      element('span', {class: 'note'}, note));
  }));
};

// Summaries of `Times` and how many runs they are of.
export const showTimes = (dense, sparse, count) => {
  // Beyond the longer bar a quarter more: lines that leave it on a busy machine are cut.
  const most = 1.25 * Math.max(dense.median, sparse.median);
  showBars('speed-bars', [dense, sparse].map(({low, median, high}) => ({
    share: median / most,
    low: Math.min(low / most, 1),
    high: Math.min(high / most, 1),
    text: milliseconds(median),
    note: `middle half ${milliseconds(low)} to ${milliseconds(high)}, ${count} runs`,
  })));
  const ratio = timesText(dense.median / sparse.median, 'faster', 'slower');
  byId('speed-headline').textContent = `Sparse is ${ratio}`;
  return ratio;
};

export const sayMeasured = text => {
  byId('measured').textContent = text;
};

export const showSizes = (dense, sparse) => {
  const most = Math.max(dense.bytes, sparse.bytes);
  showBars('size-bars', [dense, sparse].map(({bytes, gzipBytes}) => ({
    share: bytes / most,
    text: bytesText(bytes),
    note: gzipBytes === null ? '' : `${bytesText(gzipBytes)} to download (gzip)`,
  })));
  const ratio = timesText(dense.bytes / sparse.bytes, 'smaller', 'larger');
  byId('size-headline').textContent = `Sparse is ${ratio}`;
};

const accuracy = ({verified}) => verified?.top1 == null
  ? 'not known' : `${decimal(100 * verified.top1, 2)} %`;

const FACTS = [
  ['Weights', facts => NUMBERS.format(facts.params)],
  ['Not zero', facts => NUMBERS.format(facts.nonzeros)],
  ['Zeros', facts => `${decimal(100 * (1 - facts.nonzeros / facts.params), 1)} %`],
  ['Number format', facts => facts.weights],
  ['Zeros stored', facts => facts.sparse ? 'no' : 'yes'],
  ['Kernels in a browser', facts => facts.runs?.wasm ?? 'not known'],
];

export const showFacts = (dense, sparse) => {
  const on = dense.verified?.on ?? 'test pictures';
  const rows = [...FACTS, [`Right on ${on.replace('images', 'test pictures')}`, accuracy]];
  byId('facts').replaceChildren(...rows.map(([name, tell]) => element('tr', {},
    element('th', {scope: 'row'}, name),
    element('td', {}, tell(dense)),
    element('td', {}, tell(sparse)))));
  byId('lead').textContent = `Two networks of the same form, run in this browser. The dense
    one computes with all of its ${NUMBERS.format(dense.nonzeros)} weights, the sparse one
    with the ${NUMBERS.format(sparse.nonzeros)} that learning left it.`;
};

export const showRuntime = ({version, relaxedSimd, threads}) => {
  const simd = relaxedSimd ? 'WebAssembly with relaxed SIMD' : 'WebAssembly with SIMD';
  const how = threads === 1 ? 'one thread' : `${threads} threads`;
  byId('runtime').textContent = `LiteRT.js ${version}, ${simd}, ${how}`;
};

// The picture of the right size, as it goes into the networks.
export const showSeen = ({width, height, channels, values}, label) => {
  const canvas = byId('seen');
  Object.assign(canvas, {width, height});
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = values[channels * i + (channels === 3 ? c : 0)];
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  canvas.setAttribute('aria-label', label);
  byId('seen-caption').textContent = `What the networks see: ${width} × ${height} pixels`;
};

// Test pictures as radio buttons: one stop of the tabulator, arrows go from one to the next.
export const showGallery = (images, nameOf, onChoose) => {
  byId('thumbnails').replaceChildren(...images.map((image, i) => {
    const radio = element('input', {type: 'radio', name: 'test-picture', value: i});
    radio.addEventListener('change', () => onChoose(i));
    const alt = `${nameOf(image)}, test picture ${i + 1}`;
    const size = {width: 48, height: 48, alt, title: nameOf(image)};
    return element('label', {}, radio, element('img', {src: image.url, ...size}));
  }));
};

export const chooseInGallery = chosen => {
  for (const radio of document.querySelectorAll('#thumbnails input')) {
    radio.checked = Number(radio.value) === chosen;
  }
};

export const offerInversion = () => {
  byId('invert-row').hidden = false;
};

export const offerThreads = most => {
  byId('threads').replaceChildren(
    ...Array.from({length: most}, (_, i) => element('option', {}, i + 1)));
};

export const showLicense = (dataset, text, path) => {
  if (!text) return;
  byId('license').replaceChildren(`Test pictures of ${dataset}: ${text}`);
  if (path) byId('license').append(' (', element('a', {href: path}, 'license'), ')');
};

export const setBusy = busy => {
  for (const id of ['gallery', 'file', 'camera', 'measure', 'threads']) {
    byId(id).disabled = busy;
  }
};

export const nameButton = (id, text) => {
  byId(id).textContent = text;
};
