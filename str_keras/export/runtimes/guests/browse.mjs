// Runs .tflite files on LiteRT.js in Chromium; told by a job's file, tells JSON lines.
//
// Usage: node browse.mjs JOB.json WEB CHROMIUM
//
// WEB is the folder with node_modules, CHROMIUM the browser's program. The job and the
// lines are described in str_keras/export/runtimes/guest.py, which starts it.
import fs from 'node:fs';
import http from 'node:http';
import {createRequire} from 'node:module';
import path from 'node:path';
import {fileURLToPath} from 'node:url';

const [jobFile, web, chromiumPath] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobFile, 'utf8'));
const {chromium} = createRequire(path.join(web, 'x.js'))('playwright-core');

const tell = line => process.stdout.write(JSON.stringify(line) + '\n');
const at = (i, stage) => tell({at: i, stage});

const TYPES = {'.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm'};
const outputPath = (i, position) => path.join(job.folder, `outputs-${i}-${position}`);

// The file behind a path of the page's, null for what it has no business with.
const find = name => {
  const [, kind, number] = name.split('/');
  if (name === '/') return fileURLToPath(new URL('page.html', import.meta.url));
  if (kind === 'file') return job.files[number]?.path ?? null;
  if (kind === 'samples') return job.files[number]?.samples ?? null;
  const inside = path.join(web, path.normalize(name));
  return kind === 'node_modules' && fs.existsSync(inside) ? inside : null;
};

const answer = (request, response) => {
  const name = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
  const output = /^\/outputs\/(\d+)\/(\d+)$/.exec(name);
  if (request.method === 'POST' && output) {
    const file = fs.createWriteStream(outputPath(output[1], output[2]), {flags: 'a'});
    return request.pipe(file).on('finish', () => response.end());
  }
  const file = find(name);
  if (!file) return response.writeHead(404).end();
  response.writeHead(200, {
    'Content-Type': TYPES[path.extname(file)] ?? 'application/octet-stream',
    // Threads need memory that workers share, which only an isolated page may have.
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
  });
  fs.createReadStream(file).pipe(response);
};

const serve = () => new Promise(done => {
  const server = http.createServer(answer).listen(0, '127.0.0.1', () => done(server));
});

// A page of its own: after an abort the wasm module of the old one is of no more use.
class Page {
  static async open(browser, url) {
    const self = new Page();
    self.page = await browser.newPage();
    // How long is too long, who started this program knows.
    self.page.setDefaultTimeout(0);
    self.log = [];
    self.page.on('console', message => self.log.push(message.text()));
    await self.page.goto(url);
    await self.page.waitForFunction('window.isReady');
    await self.call('start', job.threads);
    return self;
  }

  call(name, ...values) {
    return this.page.evaluate(([name, values]) => window[name](...values), [name, values]);
  }

  // What went wrong, with what LiteRT said on the console about it, but for its notes:
  // there is no GPU and no NPU here.
  explain(error) {
    const told = this.log.filter(line =>
      /error|abort/i.test(line) && !/^(INFO|WARNING):|WebGPU/.test(line)).slice(-2);
    this.log.length = 0;
    const [said] = String(error.message).split(/\n\s*at /);
    return [said.replace(/^page\.evaluate: (Error: )?/, ''), ...told].join(' | ');
  }

  close() {
    return this.page.close().catch(() => {});
  }
}

const runFile = async (page, i) => {
  const batches = await page.call('load', i, job.files[i], job.threads);
  let outputs;
  for (let b = 0; b < batches; b++) {
    at(i, 'run');
    outputs = await page.call('run', i, b);
  }
  return outputs.map(({name, dtype, batch, shape}, position) => ({
    name, dtype, shape: [batches * batch, ...shape.slice(1)], path: outputPath(i, position),
  }));
};

const timeFiles = async (page, files) => {
  const seconds = new Map(files.map(i => [i, []]));
  for (const i of files) {
    at(i, 'load');
    await page.call('load', i, job.files[i], job.threads);
  }
  // One run of each file in turn, so that a busy machine slows all alike.
  for (let turn = -job.warmup; turn < job.repeats; turn++) {
    for (const i of files) {
      at(i, 'time');
      const spent = await page.call('time', i);
      if (turn >= 0) seconds.get(i).push(spent);
    }
  }
  for (const [i, spent] of seconds) tell({file: i, seconds: spent});
};

const work = async (browser, url) => {
  const good = [];
  let page = await Page.open(browser, url);
  for (const i of job.files.keys()) {
    at(i, 'load');
    try {
      tell({file: i, outputs: await runFile(page, i)});
      good.push(i);
    } catch (error) {
      tell({file: i, error: page.explain(error)});
      await page.close();
      page = await Page.open(browser, url);
    }
  }
  await page.close();
  if (job.repeats) {
    page = await Page.open(browser, url);
    await timeFiles(page, good);
  }
};

const server = await serve();
const browser = await chromium.launch({
  executablePath: chromiumPath,
  headless: true,
  timeout: 0,
  // Nothing but the page itself is asked for.
  args: [
    '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
try {
  await work(browser, `http://127.0.0.1:${server.address().port}/`);
  tell({done: true});
} finally {
  await browser.close();
  server.close();
}
