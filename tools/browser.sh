#!/usr/bin/env bash
# Chromium and its driver for the tests of the pages: nothing to do where they are, installed where apt can, left out where it cannot.
set -u
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "no chromium and chromedriver here, and they cannot be installed without apt and root: tests in a browser will be skipped"; exit 0
fi
echo "installing chromium for the tests of the pages (once)"
log=$(mktemp)
patient() { DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 "$@" >>"$log" 2>&1; }
patient update
patient install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core || { echo "chromium could not be installed; tests in a browser will be skipped. apt said:"; tail -n 3 "$log"; }
rm -f "$log"
