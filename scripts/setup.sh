#!/usr/bin/env bash
# Makes .venv with everything the project needs. Safe to run again: it does only what is missing.
# Usage: scripts/setup.sh [path of the virtual environment]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
stamp="$venv/.installed"

# Installs Debian packages when root, else says which ones are missing and stops.
need_packages() {
  if [ "$(id -u)" = 0 ]; then
    echo "Installing system packages: $*"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  else
    echo "Missing system packages. Please run:  sudo apt-get install $*" >&2
    exit 1
  fi
}

# LIBERO's pinned stack is tested on 3.11.
for python in "${PYTHON:-}" python3.11 python3; do
  if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    break
  fi
  python=""
done
if [ -z "$python" ]; then
  echo "Python 3.11 is needed and was not found. Install it, or name it: make train PYTHON=/path/to/python3.11" >&2
  exit 1
fi

# Headless rendering: EGL and Mesa's software renderer (a GPU driver's own EGL serves as well).
ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
libraries=$("$ldconfig" -p)
if ! grep -q 'libEGL\.so\.1' <<<"$libraries"; then
  need_packages libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0
elif ! grep -qE 'libOpenGL\.so\.0|libGL\.so\.1' <<<"$libraries"; then  # EGL alone makes contexts, but draws nothing
  need_packages libopengl0
fi

# The folder and the requirements together: a moved or outdated environment is installed again.
wanted=$(cat requirements*.txt pyproject.toml | sha256sum; pwd)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    need_packages python3.11-venv
  fi
  echo "Setting up $venv (2 to 3 minutes with a warm package cache; downloads about 1 GB without)"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-libero.txt
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-robotwin.txt
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  echo "$wanted" >"$stamp"
fi
