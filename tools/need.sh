#!/usr/bin/env bash
# Sees to what pip cannot bring: a Python with venv, and Chromium for the browser tests.
# On Debian as root what is missing is installed; elsewhere it says what to install.
# Prints the path of the Chromium it found.
set -eu

debian_root() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

install() { # install WHAT PACKAGE…
    what=$1
    shift
    if ! debian_root; then
        echo "$what is missing: install it (on Debian or Ubuntu: sudo apt-get install $*)" >&2
        exit 1
    fi
    echo "installing $* for $what" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_chromium() { # prints where it is
    for name in chromium chromium-browser google-chrome \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        command -v "$name" && return
    done
    return 1
}

case "$1" in
python)
    python=$2
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is wanted and $python is not: give PYTHON=… to make" >&2
        exit 1
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install "Python's venv module" python3-venv
    ;;
chromium)
    find_chromium && exit 0
    install Chromium chromium fonts-dejavu-core
    find_chromium
    ;;
esac
