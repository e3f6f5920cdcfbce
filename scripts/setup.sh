#!/usr/bin/env bash
# Make a virtual environment with the project in it, and install system libraries that are missing.
# Usage: scripts/setup.sh [VENV]      PYTHON=python3.12 chooses the interpreter, SASNET_BROWSER=1 brings chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
lock_seconds=300

fail() { echo "setup: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo "$@"
    else return 1
    fi
}

# A fresh machine upgrades itself in the background and holds apt's locks for some minutes: wait that long for them.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get -qq -o "DPkg::Lock::Timeout=$lock_seconds" -o Acquire::Retries=3 "$@"
}

update_lists() {
    local message deadline=$((SECONDS + lock_seconds)) # of the lists' lock, apt's own timeout knows nothing
    until message=$(apt_get update 2>&1); do
        [[ "$message" == *"Could not get lock"* ]] && [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 3
    done
}

install_packages() {
    command -v apt-get >/dev/null 2>&1 || fail "please install the equivalent of the Debian packages: $*"
    echo "setup: installing system packages: $*"
    update_lists && apt_get install -y --no-install-recommends "$@" >/dev/null \
        || fail "please run: sudo apt-get install $*"
}

command -v "$python" >/dev/null 2>&1 || fail "no '$python' here; install Python 3.10 to 3.12 or set PYTHON=/path/to/python."
"$python" -c 'import sys; sys.exit(not ((3, 10) <= sys.version_info[:2] < (3, 13)))' \
    || fail "nerfstudio needs Python 3.10 to 3.12, '$python' is $("$python" -V 2>&1); set PYTHON=/path/to/python."

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    "$python" -m venv "$venv"
fi
echo "setup: installing into $venv (a first time downloads about 3 GB, needs 12 GB of disk and takes some minutes)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[nerfstudio,fast,dev]' \
    || fail "the packages did not install; the lines above say why ($(df -Ph "$venv" | awk 'NR == 2 { print $4 }') are free on the disk of $venv)."

# nerfstudio's geometry library loads these; a bare machine lacks them.
if ! "$venv/bin/python" -c 'import open3d' 2>/dev/null; then
    install_packages libusb-1.0-0 libgl1 libgomp1 libegl1 libx11-6
    "$venv/bin/python" -c 'import open3d' || fail "open3d still does not load; see the line above for the library it misses."
fi
if ! command -v ffmpeg >/dev/null 2>&1; then
    echo "setup: no ffmpeg here; only ns-render's videos need it (sudo apt-get install ffmpeg)"
fi
if [ "${SASNET_BROWSER:-0}" = 1 ] && ! command -v chromium google-chrome >/dev/null 2>&1; then
    install_packages chromium # for the tests of the viewer in a browser
fi
# Else the first run would, in the middle of its work.
"$venv/bin/python" -m sasnet_ns.commands compile || echo "setup: the first run will compile its kernels itself"
echo "setup: done"
