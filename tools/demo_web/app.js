// The page: loads a dense file and a sparse one, and runs them on what the user chooses.

import {getJson, ModelFile, mostThreads, startRuntime} from './models.js';
import {decode, fit, invertIfLight, toGray, toTensor} from './pictures.js';
import {runInTurn, Times} from './timing.js';
import * as view from './view.js';

const KINDS = ['dense', 'sparse'];
const SHOWN = 3; // classes of each network

const page = {
  files: [], // a ModelFile of each kind
  times: KINDS.map(() => new Times()),
  tensors: [], // the present picture, as each file wants it
  images: {images: []}, // images/index.json
  picture: null, // {pixels, name, label?, isTest}
  stream: null, // of the camera
  measurement: null, // what stands for the one that is on
};
const byId = id => document.getElementById(id);

// The runtime does one thing at a time: whoever wants it waits for the one before.
let last = Promise.resolve();
const inTurn = work => {
  const mine = last.then(work);
  last = mine.catch(() => {});
  return mine;
};

// What a handler throws is said on the page.
const saying = work => async (...values) => {
  try {
    await work(...values);
  } catch (error) {
    console.error(error);
    view.showError(error);
  }
};

const run = async i => {
  const {logits, milliseconds} = await page.files[i].run(page.tensors[i]);
  return {top: page.files[i].top(logits, SHOWN), logits, milliseconds};
};

const prepare = picture => {
  const {gray, light_on_dark: isDark} = page.images;
  page.tensors = page.files.map(({facts: {preprocessing, input}}, i) => {
    const channels = preprocessing.mean.length;
    let {pixels} = picture;
    if (gray || channels === 1) pixels = toGray(pixels, channels);
    if (isDark && byId('invert').checked && !picture.isTest) pixels = invertIfLight(pixels);
    pixels = fit(pixels, preprocessing);
    if (i === 0) view.showSeen(pixels, `What the networks see of ${picture.name}`);
    return toTensor(pixels, preprocessing, input.normalized);
  });
};

const classify = picture => inTurn(async () => {
  page.picture = picture;
  prepare(picture);
  const results = [];
  for (const i of KINDS.keys()) {
    results.push(await run(i));
    view.showTop(KINDS[i], results[i].top);
  }
  const names = results.map(({top}) => top[0].name);
  view.showVerdict(...names, picture.label);
  page.last = results; // for tests, and the curious
  return results;
});

const chooseTest = async i => {
  stopCamera();
  view.clearError();
  const {url, label} = page.images.images[i];
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is missing (${response.status})`);
  const pixels = await decode(await response.blob());
  const name = page.files[0].name(label);
  await classify({pixels, label: name, name: `test picture ${i + 1}`, isTest: true});
};

const chooseFile = async file => {
  if (!file) return;
  stopCamera();
  view.clearError();
  const pixels = await decode(file);
  view.chooseInGallery(-1);
  await classify({pixels, name: file.name || 'the picture', isTest: false});
};

// Timed runs: what the bars show.

const showTimes = () => {
  const [dense, sparse] = page.times.map(times => times.summary);
  return dense && sparse && view.showTimes(dense, sparse, page.times[0].count);
};

const measure = async () => {
  if (!page.picture) throw new Error('There is no picture yet: choose one');
  const mine = page.measurement = {};
  const isMine = () => page.measurement === mine;
  view.nameButton('measure', 'Stop');
  view.sayMeasured('Measuring …');
  page.times.forEach(times => times.clear());
  try {
    await runInTurn({
      times: page.times,
      run: async i => (await inTurn(() => run(i))).milliseconds,
      onRound: () => isMine() && showTimes(),
      isStopped: () => !isMine(),
    });
    const ratio = isMine() && showTimes();
    if (ratio) {
      const count = page.times[0].count;
      view.sayMeasured(`Measured ${count} runs of each: sparse is ${ratio} in the median.`);
    }
  } finally {
    if (isMine()) stopMeasuring();
  }
};

const stopMeasuring = () => {
  page.measurement = null;
  view.nameButton('measure', 'Measure again');
};

const toggleMeasuring = async () => {
  if (!page.measurement) return measure();
  stopMeasuring();
  view.sayMeasured('Stopped.');
};

// The camera: every frame is classified, and its runs move the bars.

const stopCamera = () => {
  if (!page.stream) return;
  page.stream.getTracks().forEach(track => track.stop());
  page.stream = null;
  view.nameButton('camera', 'Use the camera');
  view.hushVerdict(false);
};

const openCamera = async () => {
  if (!navigator.mediaDevices) {
    throw new Error('The camera is for pages from localhost or https alone');
  }
  try {
    return await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
  } catch (error) {
    const reasons = {NotAllowedError: 'it was not allowed', NotFoundError: 'there is none'};
    throw new Error(`The camera cannot be used: ${reasons[error.name] ?? error.message}`);
  }
};

const toggleCamera = async () => {
  if (page.stream) return stopCamera();
  view.clearError();
  const stream = page.stream = await openCamera();
  view.nameButton('camera', 'Stop the camera');
  view.chooseInGallery(-1);
  view.hushVerdict(true);
  const video = Object.assign(document.createElement('video'), {
    srcObject: stream, muted: true, playsInline: true,
  });
  try {
    await video.play();
    while (page.stream === stream) {
      const pixels = await decode(video);
      const results = await classify({pixels, name: 'the camera', isTest: false});
      if (!page.measurement) {
        results.forEach(({milliseconds}, i) => page.times[i].add(milliseconds));
        showTimes();
      }
      await new Promise(requestAnimationFrame);
    }
  } finally {
    if (page.stream === stream) stopCamera();
    stream.getTracks().forEach(track => track.stop());
  }
};

// Start, and again with other threads.

const startModels = threads => inTurn(async () => {
  const runtime = await startRuntime(threads);
  for (const file of page.files) await file.compile(threads);
  view.showRuntime(runtime);
});

const changeThreads = async () => {
  stopMeasuring();
  stopCamera();
  view.setBusy(true);
  try {
    await startModels(Number(byId('threads').value));
  } finally {
    view.setBusy(false);
    byId('threads').focus();
  }
  await classify(page.picture);
  await measure();
};

const loadImages = async () => {
  const index = await getJson('images/index.json');
  for (const image of index.images) image.url = `images/${image.file}`;
  page.images = index;
  view.showGallery(index.images, ({label}) => page.files[0].name(label), saying(chooseTest));
  const path = index.license_file && `images/${index.license_file}`;
  view.showLicense(index.dataset, index.license, path);
  if (index.light_on_dark) view.offerInversion();
};

const listen = () => {
  byId('file').addEventListener('change', saying(async event => {
    const [file] = event.target.files;
    event.target.value = ''; // the same file can be chosen again
    await chooseFile(file);
  }));
  byId('camera').addEventListener('click', saying(toggleCamera));
  byId('measure').addEventListener('click', saying(toggleMeasuring));
  byId('threads').addEventListener('change', saying(changeThreads));
  byId('invert').addEventListener('change', saying(() => classify(page.picture)));
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
    await chooseFile(event.dataTransfer.files[0]);
  }));
};

const start = async () => {
  try {
    page.files = await Promise.all(KINDS.map(kind => ModelFile.download(`models/${kind}`)));
    await loadImages();
    await startModels(1);
    view.showSizes(...page.files);
    view.showFacts(...page.files.map(({facts}) => facts));
    view.offerThreads(await mostThreads());
  } catch (error) {
    view.sayVerdict('The networks could not be loaded.');
    throw error;
  }
  view.setBusy(false);
  listen();
  if (page.images.images.length) {
    view.chooseInGallery(0);
    await chooseTest(0);
    await measure();
  } else {
    view.sayVerdict('Choose a picture.');
  }
};

window.page = page;
await saying(start)();
page.isReady = true;
