// Times files on the page of tools/benchmark_web in headless Chromium; one line of JSON
// for tests/test_benchmark_page.py.
//
// Usage: node benchmark_page.mjs JOB.json WEB CHROMIUM
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const [jobFile, web, chromiumPath] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(jobFile, 'utf8'));
const load = createRequire(path.join(web, 'x.js'));
const {chromium} = load('playwright-core');
const axe = fs.readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8');

const browser = await chromium.launch({
  executablePath: chromiumPath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
try {
  const page = await browser.newPage({viewport: {width: 360, height: 800}});
  page.setDefaultTimeout(60_000);
  const faults = [];
  page.on('pageerror', error => faults.push(String(error)));
  await page.goto(job.url);
  await page.waitForFunction('window.page?.isReady');
  const measure = page.getByRole('button', {name: 'Measure'});
  const text = id => page.locator(`#${id}`).innerText();
  const told = {listed: await text('list'), enabled: [await measure.isEnabled()]};

  await page.setInputFiles('#file', job.wrong);
  await page.waitForFunction('!document.querySelector("#error").hidden');
  told.error = await page.getByRole('alert').innerText();
  await page.setInputFiles('#file', job.added);
  await page.waitForFunction(`window.page.files.length === ${1 + job.added.length}`);
  told.enabled.push(await measure.isEnabled(), await page.getByRole('alert').isVisible());

  await page.getByLabel('2', {exact: true}).check();
  await page.getByLabel('Runs of each file').fill('3');
  await measure.click();
  told.refused = await page.getByRole('alert').innerText();
  await page.getByLabel('Runs of each file').fill(String(job.runs));
  await measure.click();
  await page.waitForFunction('window.page.rows.length');
  told.status = await page.getByRole('status').innerText();
  told.results = await text('results');
  told.width = await page.evaluate('document.documentElement.scrollWidth');

  const [saved] = await Promise.all([
    page.waitForEvent('download'), page.getByRole('button', {name: 'Save as JSON'}).click(),
  ]);
  told.name = saved.suggestedFilename();
  told.report = JSON.parse(fs.readFileSync(await saved.path(), 'utf8'));

  await page.evaluate(axe);
  const checked = await page.evaluate('axe.run()');
  told.passes = checked.passes.length;
  told.violations = checked.violations.map(({id, nodes}) => [id, nodes[0].html]);
  process.stdout.write(JSON.stringify({...told, faults}));
} finally {
  await browser.close();
}
