// Opens the page of `make demo` in headless Chromium, measures there, and takes its
// picture; told by a job's file, tells one JSON object. experiments/demo_record.py starts it.
//
// Usage: node demo_picture.mjs JOB.json WEB CHROMIUM
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const [jobFile, web, chromiumPath] = process.argv.slice(2);
const {url, picture, measurements, width} = JSON.parse(fs.readFileSync(jobFile, 'utf8'));
const {chromium} = createRequire(path.join(web, 'x.js'))('playwright-core');

const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: [
    '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
try {
  const page = await browser.newPage({viewport: {width, height: 900}});
  await page.goto(url);
  await page.waitForFunction('window.page?.isReady');
  const alert = page.getByRole('alert');
  if (await alert.isVisible()) throw new Error(await alert.textContent());
  const button = name => page.getByRole('button', {name, exact: true});
  const milliseconds = [];
  for (let i = 0; i < measurements; i++) {
    if (i > 0) await button('Measure again').click();
    await button('Measure again').waitFor();
    milliseconds.push(await page.evaluate('window.page.times.map(({summary}) => summary)'));
  }
  await page.screenshot({path: picture, fullPage: true});
  process.stdout.write(JSON.stringify({
    milliseconds,
    runs: await page.evaluate('window.page.times[0].count'),
    gzip_bytes: await page.evaluate('window.page.files.map(({gzipBytes}) => gzipBytes)'),
    runtime: await page.locator('#runtime').innerText(),
  }));
} finally {
  await browser.close();
}
