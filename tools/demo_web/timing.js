// Times of models that run in turn, and what is said of them.

export const KEPT = 400; // the last so many runs of a model count; so many are measured

// The value below which a share of sorted numbers lies, linear between two of them.
const quantile = (sorted, share) => {
  const place = share * (sorted.length - 1), low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
};

// {median, low, high} of numbers in any order: the quartiles; null of none.
export const summarize = values => {
  if (!values.length) return null;
  const sorted = Float64Array.from(values).sort();
  const [low, median, high] = [0.25, 0.5, 0.75].map(share => quantile(sorted, share));
  return {low, median, high};
};

// The last runs of one model, in milliseconds.
export class Times {
  #values = [];

  add(milliseconds) {
    this.#values.push(milliseconds);
    if (this.#values.length > KEPT) this.#values.shift();
  }

  clear() {
    this.#values.length = 0;
  }

  get count() {
    return this.#values.length;
  }

  get values() {
    return [...this.#values];
  }

  get summary() {
    return summarize(this.#values);
  }
}

// The screen gets its turn.
const nextFrame = () => new Promise(done => {
  // Frames stop in a page that is not seen; the measurement should not.
  const timer = setTimeout(done, 100);
  requestAnimationFrame(() => {
    clearTimeout(timer);
    setTimeout(done);
  });
});

// Runs models in turn, one run of each a round: a busy machine slows all alike.
//
// `run(i)` gives the milliseconds of one run of model i. Ends after `rounds`, or after
// `seconds` once `leastRounds` are done, or when `isStopped()`; returns whether it was not
// stopped. `onRound(done, of)` is called once a frame.
export const runInTurn = async ({
  run, times, warmup = 5, rounds = KEPT, leastRounds = 20, seconds = 10,
  isStopped, onRound,
}) => {
  const end = performance.now() + 1000 * seconds;
  let drawn = performance.now();
  for (let round = -warmup; round < rounds; round++) {
    if (round >= leastRounds && performance.now() > end) return true;
    for (const [i, kept] of times.entries()) {
      const spent = await run(i);
      if (isStopped()) return false;
      if (round >= 0) kept.add(spent);
    }
    if (performance.now() - drawn > 30) {
      onRound(Math.max(0, round + 1), rounds);
      await nextFrame();
      drawn = performance.now();
    }
  }
  return true;
};
