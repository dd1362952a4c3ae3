// LiteRT.js, and model files with the JSON that stk.export wrote beside them.

import {
  loadAndCompile, loadLiteRt, supportsFeature, Tensor, unloadLiteRt,
} from '@litertjs/core';

const LITERT = 'vendor/@litertjs/core/';
const REPAIR = 'make it again with “make demo”';
let isLoaded = false;

const at = path => new URL(path, document.baseURI).href;

const get = async path => {
  let response;
  try {
    response = await fetch(at(path));
  } catch {
    throw new Error(`${path} cannot be loaded: the server does not answer`);
  }
  if (!response.ok) {
    throw new Error(`${path} is missing (${response.status}): ${REPAIR}`);
  }
  return response;
};

export const getJson = async path => {
  const response = await get(path);
  try {
    return await response.json();
  } catch {
    throw new Error(`${path} is damaged, it is no JSON: ${REPAIR}`);
  }
};

// Starts LiteRT.js anew; says what it runs on.
export const startRuntime = async threads => {
  if (isLoaded) unloadLiteRt();
  isLoaded = false;
  const {version} = await getJson(`${LITERT}package.json`);
  try {
    await loadLiteRt(at(`${LITERT}wasm/`), {threads: threads > 1});
  } catch (error) {
    throw new Error(`LiteRT.js does not start in this browser: ${error.message ?? error}`);
  }
  isLoaded = true;
  return {version, threads, relaxedSimd: await supportsFeature('relaxedSimd')};
};

// How many threads may be asked for: memory that they share needs an isolated page.
export const mostThreads = async () => {
  const can = self.crossOriginIsolated && await supportsFeature('relaxedSimd')
    && await supportsFeature('threads');
  return can ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
};

const gzipBytes = async content => {
  if (!('CompressionStream' in self)) return null;
  const packed = new Blob([content]).stream().pipeThrough(new CompressionStream('gzip'));
  return (await new Response(packed).arrayBuffer()).byteLength;
};

const sha256 = async content => {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', content));
  return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('');
};

// One .tflite file and its JSON.
export class ModelFile {
  // `path` without .tflite.
  static async download(path) {
    const self = new ModelFile();
    self.path = `${path}.tflite`;
    self.facts = await getJson(`${path}.json`);
    self.content = new Uint8Array(await (await get(self.path)).arrayBuffer());
    if (!self.facts.preprocessing || !self.facts.input) {
      throw new Error(`${path}.json tells no preprocessing: export with a data set`);
    }
    // Browsers give the digest to pages from localhost or https alone.
    if (crypto.subtle && await sha256(self.content) !== self.facts.sha256) {
      throw new Error(
        `${self.path} is damaged, its SHA-256 is not that of ${path}.json: ${REPAIR}`);
    }
    self.gzipBytes = await gzipBytes(self.content);
    return self;
  }

  get bytes() {
    return this.content.byteLength;
  }

  // Loads the file into the runtime that was started last.
  async compile(threads) {
    const options = {accelerator: 'wasm', cpuOptions: {numThreads: threads}};
    try {
      // A copy: the runtime may keep or move what it is given.
      this.model = await loadAndCompile(this.content.slice(), options);
    } catch (error) {
      throw new Error(`${this.path} does not load: ${error.message ?? error}`);
    }
  }

  // Logits of a tensor, and the milliseconds that the run took.
  async run(tensor) {
    const input = new Tensor(tensor, this.facts.input.shape);
    try {
      const start = performance.now();
      const outputs = await this.model.run(input);
      const milliseconds = performance.now() - start;
      const logits = Array.from(outputs[0].toTypedArray());
      outputs.forEach(output => output.delete());
      if (!logits.every(Number.isFinite)) throw new Error('outputs are not finite');
      return {logits, milliseconds};
    } catch (error) {
      throw new Error(`${this.path} does not run: ${error.message ?? error}`);
    } finally {
      input.delete();
    }
  }

  name(i) {
    return this.facts.labels?.[i] ?? `class ${i}`;
  }

  // The likeliest classes of logits: [{index, name, share}].
  top(logits, count) {
    const largest = Math.max(...logits);
    const powers = logits.map(logit => Math.exp(logit - largest));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers
      .map((power, index) => ({index, name: this.name(index), share: power / sum}))
      .sort((a, b) => b.share - a.share)
      .slice(0, count);
  }
}
