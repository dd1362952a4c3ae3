#!/usr/bin/env bash
# Sets up the runtimes that str_keras.export.runtimes runs .tflite files on:
#   x86_no_avx  Debian's qemu-user, and the Python environment that is there
#   arm64       qemu-user, Debian's arm64 Python unpacked into a folder, aarch64 wheels of
#               the environment's versions
#   wasm        Debian's Chromium, and LiteRT.js and playwright-core from npm
# Everything but Debian's packages qemu-user and chromium goes to one folder,
# $STR_KERAS_RUNTIMES or .runtimes in the checkout; what is there already is kept.
#
#   PYTHON=.venv/bin/python tools/setup_runtimes.sh
#   tools/setup_runtimes.sh web   # the npm packages alone, for the page of `make demo`
#
# PYTHON is the environment whose versions of ai-edge-litert and numpy are taken. Written
# for Debian 12 on x86-64; qemu-user, chromium and gcc are installed where they are
# missing, as root or by sudo, else the line to run is printed. Node 20 or newer has to be
# there (Debian 12's own is 18).
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
guests=$checkout/str_keras/export/runtimes/guests
home=${STR_KERAS_RUNTIMES:-$checkout/.runtimes}

fail() {
  echo "error: $*" >&2
  exit 1
}

python=${PYTHON:-$checkout/.venv/bin/python}
part=${*:-all}
[ "$part" = all ] || [ "$part" = web ] ||
  fail "the one part to set up alone is web. Received: $part"
[ "$part" = web ] || command -v "$python" >/dev/null ||
  fail "PYTHON names the environment that str_keras is in: there is no program $python"

# Whether the part $1 is there as $2 describes it.
is_there() { [ -f "$home/$1/.stamp" ] && [ "$(cat "$home/$1/.stamp")" = "$2" ]; }

# Puts the folder $2 in the place of part $1, with the stamp $3: whole or not at all.
put() {
  printf '%s\n' "$3" >"$2/.stamp"
  rm -rf "${home:?}/$1"
  mv "$2" "$home/$1"
}

install_packages() {
  local missing=()
  command -v qemu-x86_64 >/dev/null && command -v qemu-aarch64 >/dev/null ||
    missing+=(qemu-user)
  command -v chromium >/dev/null || missing+=(chromium)
  gcc -E - <<<'#include <stdio.h>' >/dev/null 2>&1 || missing+=(gcc libc6-dev)
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null ||
      fail "packages are missing and this is not root: apt-get install ${missing[*]}"
    sudo=(sudo -n)
  fi
  command -v apt-get >/dev/null ||
    fail "packages are missing and there is no apt-get: install ${missing[*]}"
  echo "installing ${missing[*]} (once only)"
  "${sudo[@]}" apt-get -qq update
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The requirement NAME==VERSION of the environment for each name.
pinned() {
  "$python" - "$@" <<'END'
import importlib.metadata, sys
try:
    print(*(f"{name}=={importlib.metadata.version(name)}" for name in sys.argv[1:]))
except importlib.metadata.PackageNotFoundError as error:
    sys.exit(f"error: {error}: install str_keras into {sys.executable} first")
END
}

# Debian's packages for arm64, without a word to the machine's own package manager: its
# lists and its state lie in a folder of their own, and nothing is installed.
unpack_arm64_python() {
  local into=$1 apt=$work/apt
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
  : >"$apt/status"
  local get=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status"
    -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=$(id -un)")
  "${get[@]}" update
  (cd "$apt/debs" && "${get[@]}" download python3.11-minimal libpython3.11-minimal \
    libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 \
    libbz2-1.0 liblzma5 libuuid1) ||
    fail "no arm64 packages of Python 3.11: Debian 12's package sources are needed"
  local deb
  for deb in "$apt/debs"/*.deb; do dpkg -x "$deb" "$into"; done
}

# What XNNPACK reads to learn the processor; without it the process dies of signal 11.
describe_arm64_processor() {
  local into=$1 i
  mkdir -p "$into/proc" "$into/sys/devices/system/cpu"
  for i in 0 1; do
    printf '%-16s: %s\n' processor $i BogoMIPS 108.00 \
      Features "fp asimd evtstrm crc32 cpuid" "CPU implementer" 0x41 \
      "CPU architecture" 8 "CPU variant" 0x0 "CPU part" 0xd08 "CPU revision" 3
    echo
  done >"$into/proc/cpuinfo"
  echo 0-1 >"$into/sys/devices/system/cpu/possible"
  echo 0-1 >"$into/sys/devices/system/cpu/present"
}

# Imports what the guest program does: proves that it runs, and leaves the bytecode
# there, without which each start takes 4 seconds instead of half a second.
try_arm64_python() {
  PYTHONHOME=$1/usr PYTHONPATH=$1/site PYTHONDONTWRITEBYTECODE='' \
    qemu-aarch64 -cpu cortex-a72 -L "$1" "$1/usr/bin/python3.11" -c '
import ctypes, importlib.metadata, json, statistics
import ai_edge_litert.interpreter' || fail "arm64 Python does not run under qemu-aarch64"
}

set_up_arm64() {
  local wheels stamp into=$work/arm64 glibc platforms=()
  wheels=$(pinned ai-edge-litert numpy ml_dtypes protobuf flatbuffers tqdm \
    typing_extensions backports.strenum)
  stamp="python3.11 $wheels"
  is_there arm64 "$stamp" && return
  echo "setting up arm64: Python 3.11 and $wheels"
  mkdir -p "$into/site"
  unpack_arm64_python "$into"
  for glibc in 17 27 28 31 34 35; do
    platforms+=(--platform "manylinux_2_${glibc}_aarch64")
  done
  # shellcheck disable=SC2086
  "$python" -m pip install -qq --disable-pip-version-check --no-deps \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
    --abi abi3 --abi none --platform manylinux2014_aarch64 "${platforms[@]}" \
    --no-compile --root-user-action=ignore --target "$into/site" $wheels
  describe_arm64_processor "$into"
  try_arm64_python "$into"
  put arm64 "$into" "$stamp"
}

set_up_web() {
  local stamp into=$work/web
  node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null ||
    fail "node 20 or newer is needed for LiteRT.js, with npm: install it from nodejs.org"
  stamp=$(sha256sum <"$guests/package-lock.json")
  is_there web "$stamp" && return
  command -v npm >/dev/null || fail "npm is needed for LiteRT.js: it comes with node"
  echo "setting up LiteRT.js and what drives and checks it in a browser"
  mkdir -p "$into"
  cp "$guests/package.json" "$guests/package-lock.json" "$into"
  (cd "$into" && npm ci --loglevel=error --ignore-scripts --no-audit --no-fund \
    >/dev/null) || fail "npm did not get LiteRT.js: see above"
  put web "$into" "$stamp"
}

# The plugin that counts instructions: a newer qemu may refuse it, all else works then.
set_up_counting() {
  local stamp into=$work/plugin library=libcount_instructions.so
  stamp=$(cat "$guests/count_instructions.c" <(qemu-x86_64 --version) | sha256sum)
  is_there plugin "$stamp" && return
  echo "compiling the plugin that counts instructions"
  mkdir -p "$into"
  gcc -O2 -Wall -shared -fPIC -o "$into/$library" "$guests/count_instructions.c"
  # Both emulators: that of the machine's own kind can run a program of it.
  if ! qemu-x86_64 -plugin "$into/$library" -d plugin -D "$work/log" /bin/true; then
    echo "this qemu does not take the plugin: no instruction counts here"
    rm "$into/$library"
  fi
  put plugin "$into" "$stamp"
}

mkdir -p "$home"
home=$(cd "$home" && pwd)
# One at a time: another that waits here finds everything set up.
exec 9>"$home/.lock"
flock 9
rm -rf "$home"/.work.* # of one that was killed
work=$(mktemp -d "$home/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
if [ "$part" = web ]; then
  set_up_web
  exit
fi
install_packages
set_up_arm64
set_up_counting
set_up_web # the last: what it needs is not installed here
echo "the runtimes are set up in $home"
