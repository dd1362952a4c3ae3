#!/usr/bin/env bash
# Builds what would be released and tries it as a user does: sdist and wheel of what git
# tracks, their metadata, the wheel in an empty environment, a quickstart from it in an
# empty folder. Nothing is uploaded, and nothing is left but the files in dist/.
#
#   PYTHON=python3.11 TOOLS=.venv-tools/bin/python tools/check_release.sh
#
# PYTHON makes the empty environment, TOOLS has build and twine (requirements-tools.lock).
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3.11}
tools=${TOOLS:-$checkout/.venv-tools/bin/python}
dist=${DIST:-$checkout/dist}
case $tools in */*) tools=$(cd "$(dirname "$tools")" && pwd)/$(basename "$tools") ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$tools" -c "import build, twine" 2>/dev/null || {
  echo "error: TOOLS names no Python with build and twine: run make release-check." \
    "Received: TOOLS=$tools" >&2
  exit 1
}

echo "building from the files that git tracks"
mkdir "$work/source"
git -C "$checkout" ls-files -z |
  (cd "$checkout" && xargs -0 cp --parents --target-directory "$work/source")
"$tools" -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1 || {
  tail -n 30 "$work/build.log" >&2
  exit 1
}
"$tools" -m twine check --strict "$work"/dist/*

echo "installing the wheel into an empty environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$checkout/requirements.lock" "$work"/dist/*.whl
"$work/venv/bin/python" -m pip check --disable-pip-version-check

echo "running it outside of the checkout"
mkdir "$work/away"
cd "$work/away"
unset PYTHONPATH
export TF_CPP_MIN_LOG_LEVEL=2
"$work/venv/bin/python" - <<'END'
import pathlib, sys

import keras, numpy as np
import str_keras as stk

package = pathlib.Path(stk.__file__)
assert package.is_relative_to(sys.prefix), package
images = stk.data.load("fashion_mnist_5k")
dense = stk.models.MobileNetV1(
    alpha=0.25, input_shape=images.info.image_shape, classes=10, stem="small"
)
sparse = stk.sparsify(dense, target_sparsity=0.9)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
sparse.compile(stk.optimizers.SGD(0.05, momentum=0.875), loss)
sparse.fit(images.train(epoch=0, batch_size=128).take(4), shuffle=False, verbose=0)
plain = stk.strip(sparse)
pixels, labels = images.raw("test", 64)
np.testing.assert_array_equal(sparse.predict(pixels, verbose=0),
                              plain.predict(pixels, verbose=0))
total = stk.summary(plain).kernels
assert abs(total.nonzeros / total.params - 0.1) < 0.001, total
assert len(stk.budget.published()) == 16
stk.export.tflite(plain, "model.tflite", sparse=True, images=pixels, labels=labels,
                  preprocessing=images.preprocessing)
print(f"trained, stripped and exported: {total.nonzeros} of {total.params} weights, "
      f"{pathlib.Path('model.tflite').stat().st_size} bytes")
END
for program in train evaluate report; do
  # absl's programs end with status 1 after their help.
  "$work/venv/bin/python" -m "str_keras.$program" --help >help.txt || true
  grep -q -- "--run_dir\|--model" help.txt
done
"$work/venv/bin/python" -m str_keras.train --dataset=fashion_mnist_5k \
  --architecture=mobilenetv1 --alpha=0.25 --epochs=1 --batch_size=500 --lr=0.05 \
  --warmup_epochs=0 --target_sparsity=0.8 --run_dir=run >train.txt
"$work/venv/bin/python" -m str_keras.evaluate --model=run/last.keras \
  --dataset=fashion_mnist_5k >evaluate.txt
tail -n 3 train.txt
test -f run/last.keras

mkdir -p "$dist"
cp "$work"/dist/* "$dist"
echo "release check passed: $(cd "$work/dist" && echo *)"
