// What a user does on the page of tools/demo_web, in headless Chromium; told by a job's
// file, tells JSON lines {step: name, ...}, which tests/test_demo_page.py judges.
//
// Usage: node demo_page.mjs JOB.json WEB CHROMIUM
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const [jobFile, web, chromiumPath] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobFile, 'utf8'));
const load = createRequire(path.join(web, 'x.js'));
const {chromium} = load('playwright-core');
const axe = fs.readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8');

const tell = (step, facts) => process.stdout.write(JSON.stringify({step, ...facts}) + '\n');
const requests = [];

// A page of its own, after its start; `before` changes what it will meet.
const open = async (browser, {before, ...options} = {}) => {
  const context = await browser.newContext({viewport: {width: 1200, height: 900}, ...options});
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on('filechooser', () => {}); // choosers are caught from the start
  page.on('request', request => requests.push(request.url()));
  page.faults = [];
  page.on('pageerror', error => page.faults.push(String(error)));
  await before?.(page);
  await page.goto(job.url);
  await page.waitForFunction('window.page?.isReady');
  return page;
};
const close = page => page.context().close();

const text = (page, id) => page.locator(`#${id}`).innerText();
const logits = page => page.evaluate('window.page.last.map(({logits}) => logits)');
const error = async page => ({
  visible: await page.getByRole('alert').isVisible(),
  text: await page.locator('#error').textContent(),
});
// Runs `act` and waits for the prediction that comes of it.
const predicted = async (page, act) => {
  await page.evaluate('window.page.last = null');
  await act();
  await page.waitForFunction('window.page.last');
  return {logits: await logits(page), verdict: await text(page, 'verdict')};
};

const drop = (page, file) => page.evaluate(([content, name]) => {
  const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.body.dispatchEvent(
    new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
}, [fs.readFileSync(file).toString('base64'), path.basename(file)]);

// What the page says of an error that it meets at its start.
const meet = async (browser, name, before) => {
  const page = await open(browser, {before});
  const enabled = await page.locator('button:enabled, input:enabled:not(#invert)').count();
  tell('error', {name, ...await error(page), verdict: await text(page, 'verdict'), enabled});
  await close(page);
};

const steps = {
  async predictions(browser) {
    const page = await open(browser);
    const names = await page.locator('#thumbnails img').evaluateAll(
      images => images.map(image => image.alt));
    const found = [];
    for (const name of names) {
      const radio = page.getByRole('radio', {name, exact: true});
      // The first one is chosen from the start.
      const act = found.length ? () => radio.check() : () => radio.evaluate(
        node => node.dispatchEvent(new Event('change')));
      found.push({name, ...await predicted(page, act)});
    }
    tell('predictions', {
      found,
      top: [await text(page, 'top-dense'), await text(page, 'top-sparse')],
      facts: await text(page, 'facts'),
      license: await page.getByRole('link', {name: 'license'}).getAttribute('href'),
      faults: page.faults,
    });
    await close(page);
  },

  async speed(browser) {
    const page = await open(browser);
    const medians = [];
    for (let i = 0; i < 5; i++) {
      await page.getByRole('button', {name: 'Measure again'}).click();
      await page.getByRole('button', {name: 'Stop'}).waitFor();
      await page.getByRole('button', {name: 'Measure again'}).waitFor();
      medians.push(await page.evaluate(
        'window.page.times.map(({summary}) => [summary.low, summary.median, summary.high])'));
    }
    tell('speed', {
      medians,
      count: await page.evaluate('window.page.times[1].count'),
      headline: await text(page, 'speed-headline'),
      status: await page.getByRole('status').innerText(),
      runtime: await text(page, 'runtime'),
      size: await text(page, 'size'),
    });
    await close(page);
  },

  async threads(browser) {
    const page = await open(browser);
    const one = await logits(page);
    // Amid a measurement, which the new one replaces.
    await page.getByRole('button', {name: 'Measure again'}).click();
    await page.getByLabel('Threads').selectOption('2');
    await page.waitForFunction('document.querySelector("#runtime").textContent.includes("2 threads")');
    await page.getByRole('button', {name: 'Measure again'}).waitFor();
    tell('threads', {
      one, two: await logits(page), error: await error(page),
      counts: await page.evaluate('window.page.times.map(({count}) => count)'),
      status: await page.getByRole('status').innerText(),
    });
    await close(page);
  },

  // Pictures that come by the file chooser, or are dropped.
  async pictures(browser) {
    const page = await open(browser);
    const found = [];
    for (const [i, file] of job.pictures.entries()) {
      const act = i % 2 ? () => drop(page, file) : async () => {
        const choosing = page.waitForEvent('filechooser');
        await page.getByText('Choose a picture').click();
        await (await choosing).setFiles(file);
      };
      found.push({file, ...await predicted(page, act)});
    }
    const checked = await page.locator('#thumbnails input:checked').count();
    await page.getByRole('checkbox').isChecked();
    const kept = await predicted(page, () => page.getByRole('checkbox').uncheck());
    await drop(page, job.text);
    await page.getByRole('alert').waitFor();
    const said = await error(page);
    await drop(page, job.pictures[0]);
    await page.getByRole('alert').waitFor({state: 'hidden'});
    tell('pictures', {found, checked, kept, said});
    await close(page);
  },

  async camera(browser) {
    const page = await open(browser);
    const before = await text(page, 'verdict');
    const count = () => page.evaluate('window.page.times[0].count');
    await page.evaluate('window.page.times.forEach(times => times.clear())');
    await page.getByRole('button', {name: 'Use the camera'}).click();
    await page.waitForFunction('window.page.times[0].count > 5');
    const during = {label: await page.locator('#seen').getAttribute('aria-label'),
      live: await page.locator('#verdict').getAttribute('aria-live')};
    await page.getByRole('button', {name: 'Stop the camera'}).click();
    await page.getByRole('button', {name: 'Use the camera'}).waitFor();
    await page.waitForTimeout(300);
    const stopped = await count();
    await page.waitForTimeout(300);
    tell('camera', {before, during, live: await page.locator('#verdict').getAttribute('aria-live'),
      frames: [stopped, await count()], error: await error(page)});
    await close(page);

    const without = await open(browser, {before: page => page.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(
        new DOMException('Requested device not found', 'NotFoundError'));
    })});
    await without.getByRole('button', {name: 'Use the camera'}).click();
    await without.getByRole('alert').waitFor();
    tell('no camera', {error: await error(without)});
    await close(without);
  },

  // Nothing but the keyboard.
  async keyboard(browser) {
    const page = await open(browser);
    const press = key => page.keyboard.press(key);
    const focus = () => page.evaluate(() => {
      const at = document.activeElement;
      // Where the control itself is not seen, its picture or label shows the focus.
      const shown = getComputedStyle(at).opacity === '0' ? at.nextElementSibling : at;
      return {
        name: at.id || at.name || at.tagName,
        outline: getComputedStyle(shown).outlineStyle,
        width: parseFloat(getComputedStyle(shown).outlineWidth),
      };
    });
    const order = [];
    do {
      await press('Tab');
      order.push(await focus());
    } while (order.at(-1).name !== 'BODY' && order.length < 20);

    const go = async name => {
      do await press('Tab'); while ((await focus()).name !== name);
    };
    const done = {};
    await go('file');
    const choosing = page.waitForEvent('filechooser');
    await press('Space');
    done.chosen = await predicted(
      page, async () => (await choosing).setFiles(job.pictures[0]));
    await go('camera');
    await press('Enter');
    await page.getByRole('button', {name: 'Stop the camera'}).waitFor();
    await press('Enter');
    await page.getByRole('button', {name: 'Use the camera'}).waitFor();
    await go('invert');
    done.inverted = await predicted(page, () => press('Space'));
    await go('test-picture');
    done.first = await predicted(page, () => press('Space'));
    done.second = await predicted(page, () => press('ArrowRight'));
    await go('measure');
    await press('Space');
    await page.getByRole('button', {name: 'Stop'}).waitFor();
    await press('Space');
    await page.getByRole('button', {name: 'Measure again'}).waitFor();
    done.measured = await page.evaluate('window.page.times[0].count');
    await go('threads');
    await press('ArrowDown');
    await page.waitForFunction('document.querySelector("#runtime").textContent.includes("2 threads")');
    await page.getByRole('button', {name: 'Measure again'}).waitFor();
    done.focus = (await focus()).name;
    tell('keyboard', {order, ...done});
    await close(page);
  },

  async accessibility(browser) {
    const small = {viewport: {width: 360, height: 780}};
    const broken = page => page.route('**/models/sparse.tflite', route => route.abort());
    const views = {
      light: {}, dark: {colorScheme: 'dark'}, phone: small,
      'phone, dark': {...small, colorScheme: 'dark'}, error: {before: broken},
      'error, dark': {before: broken, colorScheme: 'dark'},
    };
    for (const [name, options] of Object.entries(views)) {
      const page = await open(browser, options);
      await page.evaluate(axe);
      const {violations, passes} = await page.evaluate('axe.run()');
      tell('accessibility', {
        name, passes: passes.length,
        violations: violations.map(({id, nodes}) => `${id}: ${nodes.map(n => n.html)}`),
      });
      await close(page);
    }
  },

  async phone(browser) {
    const page = await open(browser, {viewport: {width: job.width, height: 780}, hasTouch: true});
    tell('phone', await page.evaluate(width => ({
      scroll: document.documentElement.scrollWidth,
      beyond: [...document.querySelectorAll('body *')]
        .filter(node => node.getBoundingClientRect().right > width + 0.5)
        .map(node => node.outerHTML),
      clipped: [...document.querySelectorAll('p, h1, h2, h3, td, th, button, .button, legend')]
        .filter(node => node.scrollWidth > node.clientWidth + 1 && node.clientWidth)
        .map(node => node.outerHTML),
    }), job.width));
    await close(page);
  },

  async errors(browser) {
    const damaged = async route => {
      const response = await route.fetch();
      const body = Buffer.from(await response.body());
      body[body.length >> 1] ^= 0xff;
      await route.fulfill({response, body});
    };
    const cases = [
      ['no model', '**/models/sparse.tflite', route => route.fulfill({status: 404})],
      ['no json', '**/models/dense.json', route => route.fulfill({status: 404})],
      ['no server', '**/models/dense.tflite', route => route.abort()],
      ['damaged model', '**/models/dense.tflite', damaged],
      ['damaged json', '**/models/sparse.json', route => route.fulfill({body: '{"file":'})],
      ['no images', '**/images/index.json', route => route.fulfill({status: 404})],
      ['no runtime', '**/wasm/*.wasm', route => route.fulfill({status: 404})],
    ];
    for (const [name, pattern, handler] of cases) {
      await meet(browser, name, page => page.route(pattern, handler));
    }
    // A damaged file whose digest is right: LiteRT itself refuses it.
    await meet(browser, 'no tflite', page => Promise.all([
      page.route('**/models/sparse.tflite', route => route.fulfill({body: 'no model'})),
      page.route('**/models/sparse.json', async route => {
        const response = await route.fetch();
        await route.fulfill({json: {...await response.json(), sha256: job.digest}});
      }),
    ]));
  },

  // As a server without the two headers sends it.
  async plain(browser) {
    const page = await open(browser, {before: page => page.route('**/*', async route => {
      const response = await route.fetch();
      const headers = response.headers();
      delete headers['cross-origin-opener-policy'];
      delete headers['cross-origin-embedder-policy'];
      await route.fulfill({response, headers});
    })});
    tell('plain', {
      isolated: await page.evaluate('self.crossOriginIsolated'), logits: await logits(page),
      threads: await page.locator('#threads option').count(), error: await error(page)});
    await close(page);
  },
};

const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: [
    '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    // There is no other machine.
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  ],
});
try {
  await steps[job.step](browser);
  tell('requests', {urls: [...new Set(requests)]});
} finally {
  await browser.close();
}
