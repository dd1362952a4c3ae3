// The page: takes files, runs them in turn, shows medians and ratios, gives JSON.

import {getJson, mostThreads} from '../demo_web/models.js';
import {KEPT} from '../demo_web/timing.js';
import {
  bytesText, clearError, decimal, element, milliseconds, nameButton, showError, timesText,
} from '../demo_web/view.js';
import {Candidate, measure, WARMUP} from './candidates.js';

const LEAST_RUNS = 5;
const OTHER = 0.05; // share of the largest output from which outputs are called others
const page = {files: [], rows: [], runtime: null, measurement: null};
const byId = id => document.getElementById(id);

const saying = work => async (...values) => {
  try {
    clearError();
    await work(...values);
  } catch (error) {
    console.error(error);
    showError(error);
  }
};

// Files

const add = (name, content) => {
  const file = Candidate.of(name, content);
  const same = page.files.findIndex(({path}) => path === name);
  page.files.splice(same < 0 ? page.files.length : same, 1, file);
};

const showFiles = () => {
  byId('list').replaceChildren(...page.files.map(({path, bytes}, i) => element('li', {},
    element('span', {class: 'name'}, path),
    element('span', {class: 'value'}, bytesText(bytes)),
    ...(i ? [] : [element('span', {class: 'note'}, 'the others are compared with it')]))));
  byId('clear').disabled = !page.files.length;
  byId('measure').disabled = page.files.length < 2;
};

const addAll = async given => {
  stop();
  try {
    for (const file of given) add(file.name, new Uint8Array(await file.arrayBuffer()));
  } finally {
    showFiles();
  }
};

const clear = () => {
  stop();
  page.files = [];
  showFiles();
  byId('file').focus();
};

const download = async () => {
  for (const {name, path} of (await getJson('files/index.json')).files) {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${name} is missing (${response.status})`);
    add(name, new Uint8Array(await response.arrayBuffer()));
  }
};

// Results

const SVG_ONLY = {'aria-hidden': 'true'}; // what repeats in color what text says

const told = ({trouble, faster, difference, seconds}) => {
  if (trouble) return `${trouble}.`;
  if (!seconds) return 'Warming up …';
  const said = [`Middle half ${milliseconds(1e3 * seconds.low)} to `
    + `${milliseconds(1e3 * seconds.high)}, ${seconds.number} runs`];
  if (faster) {
    said.push(`${timesText(faster.median, 'faster', 'slower')} than the first, `
      + `middle half of the ratio ${decimal(faster.low, 2)} to ${decimal(faster.high, 2)}`);
    said.push(difference === null ? 'outputs of another shape'
      : difference > OTHER ? 'other outputs: another network, or a wrong result'
        : `outputs differ by ${difference.toExponential(0)} of the largest`);
  }
  return `${said.join('; ')}.`;
};

const bar = (row, i, most) => {
  const {median, low, high} = row.seconds ?? {median: 0, low: 0, high: 0};
  const track = element('span', {class: 'track', ...SVG_ONLY},
    element('i', {style: `--share: ${median / most}`}),
    element('b', {style: `--low: ${Math.min(low / most, 1)}; --high: ${Math.min(high / most, 1)}`}));
  return element('li', {class: `bar ${i ? 'sparse' : 'dense'}`},
    element('span', {class: 'name'}, row.file),
    element('span', {class: 'value'}, row.seconds ? milliseconds(1e3 * median) : '–'),
    track,
    element('span', {class: 'note'}, told(row)));
};

const showRows = rows => {
  const most = 1.25 * Math.max(...rows.map(({seconds}) => seconds?.median ?? 0), 1e-9);
  const counts = [...new Set(rows.map(({threads}) => threads))];
  byId('results').replaceChildren(...counts.flatMap(count => [
    element('h3', {}, threadsText(count)),
    element('ol', {class: 'results'}, ...rows.filter(({threads}) => threads === count)
      .map((row, i) => bar(row, i, most))),
  ]));
};

const threadsText = count => count === 1 ? '1 thread' : `${count} threads`;

const report = () => ({
  baseline: page.files[0].path,
  bytes: Object.fromEntries(page.files.map(({path, bytes}) => [path, bytes])),
  rows: page.rows,
  warmup: WARMUP,
  machine: {
    user_agent: navigator.userAgent,
    cores: navigator.hardwareConcurrency,
    isolated: self.crossOriginIsolated,
    relaxed_simd: page.runtime.relaxedSimd,
  },
  versions: {'@litertjs/core': page.runtime.version},
  date: new Date().toISOString(),
});

const save = () => {
  const text = `${JSON.stringify(report(), null, 1)}\n`;
  const url = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  element('a', {href: url, download: 'times.json'}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
};

// The measurement

const chosenThreads = () => Array.from(
  document.querySelectorAll('#threads input:checked'), ({value}) => Number(value));

const chosenRuns = () => {
  const runs = Number(byId('runs').value);
  if (Number.isInteger(runs) && runs >= LEAST_RUNS && runs <= KEPT) return runs;
  throw new Error(`Runs are a whole number from ${LEAST_RUNS} to ${KEPT}`);
};

// The runtime does one thing at a time: a new measurement waits for the end of the last.
let last = Promise.resolve();

const measureAll = async () => {
  const counts = chosenThreads(), runs = chosenRuns();
  if (!counts.length) throw new Error('Choose a number of threads');
  const mine = page.measurement = {};
  const isStopped = () => page.measurement !== mine;
  nameButton('measure', 'Stop');
  byId('save').disabled = true;
  let done = [];
  try {
    await last;
    for (const threads of counts) {
      byId('status').textContent = `Measuring with ${threadsText(threads)} …`;
      const work = measure(page.files, {
        threads, runs, isStopped, onRows: rows => !isStopped() && showRows([...done, ...rows]),
      });
      last = work.catch(() => {});
      const found = await work;
      if (!found) return;
      page.runtime = found.runtime;
      done = [...done, ...found.rows];
      showRows(done);
    }
    page.rows = done;
    byId('save').disabled = false;
    byId('status').textContent = 'Measured.';
    const {version, relaxedSimd} = page.runtime;
    byId('runtime').textContent =
      `LiteRT.js ${version}, WebAssembly with ${relaxedSimd ? 'relaxed ' : ''}SIMD`;
  } finally {
    if (!isStopped()) stop();
  }
};

const stop = () => {
  if (page.measurement) nameButton('measure', 'Measure');
  page.measurement = null;
};

const toggle = () => {
  if (!page.measurement) return measureAll();
  stop();
  byId('status').textContent = 'Stopped.';
};

const listen = () => {
  byId('file').addEventListener('change', saying(async event => {
    const given = [...event.target.files];
    event.target.value = ''; // the same file can be chosen again
    await addAll(given);
  }));
  byId('clear').addEventListener('click', saying(clear));
  byId('measure').addEventListener('click', saying(toggle));
  byId('save').addEventListener('click', saying(save));
  const {classList} = document.body;
  document.addEventListener('dragover', event => {
    event.preventDefault();
    classList.add('dropping');
  });
  document.addEventListener('dragleave', event => {
    if (!event.relatedTarget) classList.remove('dropping');
  });
  document.addEventListener('drop', saying(async event => {
    event.preventDefault();
    classList.remove('dropping');
    await addAll(event.dataTransfer.files);
  }));
};

// Support is known once LiteRT.js is there; it needs no runtime that was started.
const offerThreads = most => {
  const numbers = Array.from({length: most}, (_, i) => i + 1);
  byId('threads').append(...numbers.map(number => element('label', {class: 'check'},
    element('input', {type: 'checkbox', value: number, ...(number === 1 ? {checked: ''} : {})}),
    String(number))));
  byId('one').hidden = most > 1;
};

window.page = page;
await saying(async () => {
  offerThreads(await mostThreads());
  listen();
  await download();
})();
showFiles();
byId('file').disabled = false;
page.isReady = true;
