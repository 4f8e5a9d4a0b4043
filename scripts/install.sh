#!/bin/sh
# Installs xNBD from this clone on a host, as root: what the packages put there, by the same table
# (scripts/package/host-files.ts). A configuration that exists is kept, and nothing is started. Run it again after
# an update.
#
#   sh scripts/install.sh            (DESTDIR=/some/root installs below that, for a look)
set -eu
cd "$(dirname "$0")/.."
[ -x node_modules/.bin/node ] || { echo 'install: there is no node_modules: run `npm ci` first' >&2; exit 1; }
exec node_modules/.bin/node scripts/package/install.ts
