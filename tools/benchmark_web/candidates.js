// .tflite files that are timed against each other, and what came of it.

import {ModelFile, startRuntime} from '../demo_web/models.js';
import {runInTurn, summarize, Times} from '../demo_web/timing.js';

export const WARMUP = 5;
const NOTHING = 1e-30; // what memory that no kernel wrote to may hold

// The same numbers each time: a linear congruential generator (Numerical Recipes).
const random = seed => () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
};

const INPUTS = {
  float32: (size, next) => Float32Array.from({length: size}, () => 2 * next() - 1),
  uint8: (size, next) => Uint8Array.from({length: size}, () => 256 * next()),
};

// One file: its content, its input, and the outputs of its first run.
export class Candidate extends ModelFile {
  static of(name, content) {
    const mark = String.fromCharCode(...content.subarray(4, 8));
    if (mark !== 'TFL3') throw new Error(`${name} is no .tflite file`);
    return Object.assign(new Candidate(), {path: name, content});
  }

  async compile(threads) {
    await super.compile(threads);
    const inputs = this.model.getInputDetails();
    if (inputs.length !== 1) throw new Error(`${this.path} has ${inputs.length} inputs`);
    const [{dtype}] = inputs, shape = Array.from(inputs[0].shape);
    if (shape[0] < 1) throw new Error(`${this.path} has a free batch: write it with a fixed one`);
    if (!(dtype in INPUTS)) throw new Error(`${this.path} takes ${dtype}, not float32 or uint8`);
    this.facts = {input: {shape}};
    const size = shape.reduce((product, length) => product * length, 1);
    this.tensor = INPUTS[dtype](size, random(1));
  }

  async time() {
    return (await this.run(this.tensor)).milliseconds;
  }
}

// Starts the runtime with every file that loads and runs; of the others the reasons.
const prepare = async (files, threads) => {
  const troubles = new Map(), outputs = new Map();
  const runtime = await startRuntime(threads);
  for (const file of files) {
    try {
      await file.compile(threads);
      outputs.set(file, (await file.run(file.tensor)).logits);
      const most = largest(outputs.get(file));
      if (!Number.isFinite(most)) {
        throw new Error(`${file.path} gives numbers that are not finite`);
      }
      if (most < NOTHING) {
        throw new Error(`${file.path} gives nothing but zeros`);
      }
    } catch (error) {
      troubles.set(file, error.message ?? String(error));
    }
  }
  return {runtime, troubles, outputs};
};

const largest = values => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

// max |difference| / max |output of the first file|; null where shapes differ.
const distance = (values, first) => values.length === first.length
  ? largest(values.map((value, i) => value - first[i])) / largest(first) : null;

const spread = (values, scale = 1) => {
  const {median, low, high} = summarize(values);
  return {median: median * scale, low: low * scale, high: high * scale, number: values.length};
};

const makeRows = (files, threads, {troubles, outputs}, times) => {
  const [first] = files;
  const base = times.get(first)?.values;
  return files.map(file => {
    const row = {runtime: 'browser', threads, file: file.path, trouble: troubles.get(file) ?? ''};
    const values = times.get(file)?.values;
    if (!values?.length) return {...row, seconds: null, faster: null, difference: null};
    const compared = file !== first && base?.length;
    return {
      ...row,
      seconds: spread(values, 1e-3),
      // Turn by turn: what slows the machine slows both.
      faster: compared ? spread(values.map((value, i) => base[i] / value)) : null,
      difference: compared ? distance(outputs.get(file), outputs.get(first)) : null,
      milliseconds: values,
    };
  });
};

// Runs all files in turn; `onRows(rows, done)` while it goes on.
//
// Gives {runtime, rows}; null if `isStopped()` ended it.
export const measure = async (files, {threads, runs, onRows, isStopped}) => {
  const made = await prepare(files, threads);
  const good = files.filter(file => !made.troubles.has(file));
  const times = new Map(good.map(file => [file, new Times()]));
  const rows = () => makeRows(files, threads, made, times);
  const isWhole = await runInTurn({
    run: i => good[i].time(),
    times: [...times.values()],
    warmup: WARMUP,
    rounds: good.length ? runs : 0,
    seconds: Infinity,
    isStopped,
    onRound: done => onRows(rows(), done),
  });
  return isWhole && !isStopped() ? {runtime: made.runtime, rows: rows()} : null;
};
