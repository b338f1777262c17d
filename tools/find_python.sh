#!/bin/sh
# Prints the first working Python of the versions asked for, in that order; nothing when there is none.
for version in "$@"; do
  for candidate in "python$version" "$HOME/.pyenv/versions/$version".*/bin/python /opt/python/"$version"*/bin/python python3; do
    if "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
      command -v "$candidate"
      exit 0
    fi
  done
done
