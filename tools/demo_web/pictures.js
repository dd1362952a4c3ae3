// From a picture to a model's input, by the "preprocessing" that stk.export wrote beside
// the file: the same operations as str_keras/data/preprocessing.py, so that outputs equal
// Python's. Pictures are {width, height, channels, values}: Float32Array, rows of pixels,
// values 0 to 255.

const LONGEST_SIDE = 4096; // beyond it the browser scales down first
const LIGHT = 127; // mean of a border from which a background is a light one

// Pixels of an image file, or of a video's present frame. Transparent becomes white.
export const decode = async source => {
  const isFile = source instanceof Blob;
  const image = isFile ? await readImage(source) : source;
  const [fullWidth, fullHeight] = isFile
    ? [image.width, image.height] : [image.videoWidth, image.videoHeight];
  const scale = Math.min(1, LONGEST_SIDE / Math.max(fullWidth, fullHeight));
  const width = Math.max(1, Math.round(fullWidth * scale));
  const height = Math.max(1, Math.round(fullHeight * scale));
  const context = new OffscreenCanvas(width, height)
    .getContext('2d', {willReadFrequently: true});
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  if (isFile) image.close();
  return withoutAlpha(context.getImageData(0, 0, width, height));
};

const readImage = async file => {
  try {
    return await createImageBitmap(file, {colorSpaceConversion: 'none'});
  } catch {
    throw new Error(`${file.name || 'The file'} is no picture that this browser can read`);
  }
};

const withoutAlpha = ({width, height, data}) => {
  const values = new Float32Array(width * height * 3);
  for (let i = 0, j = 0; j < values.length; i += 4) {
    values[j++] = data[i];
    values[j++] = data[i + 1];
    values[j++] = data[i + 2];
  }
  return {width, height, channels: 3, values};
};

// One channel, rounded as tf.image.rgb_to_grayscale does; repeated where `channels` is 3.
export const toGray = ({width, height, values}, channels) => {
  const gray = new Float32Array(width * height * channels);
  for (let i = 0, j = 0; j < gray.length; i += 3) {
    const luma = 0.2989 * values[i] + 0.587 * values[i + 1] + 0.114 * values[i + 2];
    const level = Math.floor(luma / 255 * 255.5);
    for (let c = 0; c < channels; c++) gray[j++] = level;
  }
  return {width, height, channels, values: gray};
};

// The negative of a picture whose border is light; others as they are.
export const invertIfLight = picture => {
  const {width, height, channels, values} = picture;
  let sum = 0, count = 0;
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y === height - 1 ? 1 : Math.max(1, width - 1);
    for (let x = 0; x < width; x += step) {
      for (let c = 0; c < channels; c++) sum += values[(y * width + x) * channels + c];
      count += channels;
    }
  }
  if (sum / count <= LIGHT) return picture;
  return {...picture, values: values.map(value => 255 - value)};
};

// Half of a whole number, the nearest even number where it is odd.
const halfToEven = number => {
  const half = Math.floor(number / 2);
  return half + (number % 2) * (half % 2);
};

// Python's round: the nearest even number from halfway.
const round = number => {
  const low = Math.floor(number), rest = number - low;
  return rest === 0.5 ? low + (low % 2) : Math.round(number);
};

// Which old pixels make a new one, and with what weights: a triangle as wide as the
// scale where the image shrinks (antialiased bilinear, as TensorFlow's ScaleAndTranslate).
const spans = (from, to) => {
  const inverse = from / to;
  const radius = Math.max(inverse, 1);
  return Array.from({length: to}, (_, i) => {
    const center = (i + 0.5) * inverse;
    const clamp = place => Math.min(Math.max(place, 0), from - 1);
    const first = clamp(Math.ceil(center - radius - 0.5));
    const last = clamp(Math.floor(center + radius - 0.5));
    const weights = [];
    for (let place = first; place <= last; place++) {
      weights.push(Math.max(0, 1 - Math.abs(place + 0.5 - center) / radius));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return {first, weights: weights.map(weight => weight / sum)};
  });
};

const resizeTo = (picture, height, width) => {
  const {channels} = picture;
  if (height === picture.height && width === picture.width) return picture;
  const narrow = new Float32Array(picture.height * width * channels);
  const columns = spans(picture.width, width);
  for (let y = 0, out = 0; y < picture.height; y++) {
    for (const {first, weights} of columns) {
      for (let c = 0; c < channels; c++) {
        let at = (y * picture.width + first) * channels + c, sum = 0;
        for (const weight of weights) {
          sum += weight * picture.values[at];
          at += channels;
        }
        narrow[out++] = sum;
      }
    }
  }
  const values = new Float32Array(height * width * channels);
  const row = width * channels;
  for (const [y, {first, weights}] of spans(picture.height, height).entries()) {
    for (const [k, weight] of weights.entries()) {
      const from = (first + k) * row;
      for (let x = 0; x < row; x++) values[y * row + x] += weight * narrow[from + x];
    }
  }
  return {width, height, channels, values};
};

// A window of size x size whose corner is (top, left); black where it leaves the picture.
const cut = (picture, top, left, size) => {
  const {width, height, channels} = picture;
  if (top === 0 && left === 0 && width === size && height === size) return picture;
  const values = new Float32Array(size * size * channels);
  for (let y = Math.max(0, -top); y < Math.min(size, height - top); y++) {
    const x = Math.max(0, -left), end = Math.min(size, width - left);
    const from = ((y + top) * width + x + left) * channels;
    values.set(
      picture.values.subarray(from, from + (end - x) * channels), (y * size + x) * channels);
  }
  return {width: size, height: size, channels, values};
};

// Brings a picture to the size of the model's input.
export const fit = (picture, {image_size: size, resize_rule: rule, crop_fraction}) => {
  let {width, height} = picture;
  if (rule === 'pad') {
    const long = Math.max(height, width, size);
    height = Math.max(Math.floor(height * size / long), 1);
    width = Math.max(Math.floor(width * size / long), 1);
    const top = Math.floor((size - height) / 2), left = Math.floor((size - width) / 2);
    return cut(resizeTo(picture, height, width), -top, -left, size);
  }
  const target = round(size / crop_fraction), short = Math.min(height, width);
  height = Math.floor(height * target / short);
  width = Math.floor(width * target / short);
  const top = halfToEven(height - size), left = halfToEven(width - size);
  return cut(resizeTo(picture, height, width), top, left, size);
};

// The tensor of a picture of the right size, as the file's JSON describes it.
export const toTensor = ({values}, {mean, std}, normalized) => {
  if (!normalized) return Uint8Array.from(values, round);
  const channels = mean.length;
  return values.map(
    (value, i) => (value / 255 - mean[i % channels]) / std[i % channels]);
};
