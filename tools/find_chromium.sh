#!/bin/sh
# Prints the path of Chromium. Where there is none it is installed from Debian's packages, if we may.
find_it() { command -v chromium || command -v chromium-browser; }
find_it && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >&2
  find_it && exit 0
fi
echo "The browser tests need Chromium, and it could not be installed; run: apt-get install chromium" >&2
exit 2
