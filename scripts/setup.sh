#!/bin/sh
# Makes a fresh clone able to run: the packages of npm, and from Debian what tests and demo need: the programs of real NBD peers, libvirt,
# QEMU, D-Bus and a compiler.
#
#   sh scripts/setup.sh [--quiet] [packages | demo | testbed | list]
#
# Installs what is missing from Debian when it may (root, apt); otherwise prints the line to run and ends well: tests that need
# the missing programs then skip, and say so. `--quiet` says nothing when nothing is missing; `packages` asks for npm's packages only, `demo`
# also for what the demo without libvirt needs, `testbed` for the two machines;
# `list` prints Debian's packages, one a line, and does nothing. No service is started.
set -u

# program (or file), the package that brings it
needs='
nbdkit nbdkit
nbdinfo libnbd-bin
/usr/lib/python3/dist-packages/nbd.py python3-libnbd
nbd-server nbd-server
qemu-img qemu-utils
qemu-system-x86_64 qemu-system-x86
libvirtd libvirt-daemon-system
virsh libvirt-clients
libvirt-dbus libvirt-dbus
fio fio
dbus-daemon dbus
dbus-send dbus-bin
ip iproute2
unshare util-linux
strace strace
gcc gcc
/usr/include/stdlib.h libc6-dev
xz xz-utils
mkfs.ext4 e2fsprogs
'

# what builds and checks our own packages, on this machine: no other release's root needs it
packaging_needs='
x86_64-linux-gnu-strip binutils
rpmbuild rpm
lintian lintian
rpmlint rpmlint
apparmor_parser apparmor
secilc secilc
checkpolicy checkpolicy
busybox busybox-static
man man-db
zsh zsh
'

# What the two machines of `npm run testbed` need of this one.
needs_of_testbed='
mmdebstrap mmdebstrap
qemu-system-x86_64 qemu-system-x86
qemu-img qemu-utils
mkfs.ext4 e2fsprogs
ssh openssh-client
x86_64-linux-gnu-strip binutils
gcc gcc
/usr/include/stdlib.h libc6-dev
xz xz-utils
'

if [ "${1:-}" = list ]; then
  echo "$needs" | sed -n 's/^[^ ]* //p'
  exit 0
fi

needs=$needs$packaging_needs
cd "$(dirname "$0")/.." || exit 1
if [ ! -x node_modules/.bin/node ]; then
  echo 'setup: installing the packages of package-lock.json'
  npm ci --loglevel=error || exit 1
fi

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
quiet=no
for word in "$@"; do
  case $word in
    --quiet) quiet=yes ;;
    packages) needs= ;;
    demo) needs='mkfs.ext4 e2fsprogs' ;;
    testbed) needs=$needs_of_testbed ;;
  esac
done

missing=$(echo "$needs" | while read -r program package; do
  [ -z "$program" ] || [ -e "$program" ] || command -v "$program" >/dev/null 2>&1 || printf ' %s' "$package"
done)

if [ -z "$missing" ]; then
  [ "$quiet" = yes ] || echo 'setup: every program that tests and demo need is installed'
  exit 0
fi

by_hand() {
  echo "setup: $1. Tests that need these programs are skipped. To have them, run:"
  echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$missing"
  exit 0
}

command -v apt-get >/dev/null 2>&1 || by_hand "there is no apt-get here to install$missing"
[ "$(id -u)" = 0 ] || by_hand "not root, and not installed:$missing"

echo "setup: installing$missing"
log=$(mktemp)
deny=
trap 'rm -f "$log" "$deny"' EXIT
trap 'exit 1' HUP INT TERM

# The lab starts its own daemons. While packages are installed, those of the machine stay as they are.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  deny=/usr/sbin/policy-rc.d
  printf '#!/bin/sh\nexit 101\n' >"$deny"
  chmod 755 "$deny"
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get -q -y install --no-install-recommends "$@"; }
# One that this machine's sources do not have keeps the others from nobody.
# shellcheck disable=SC2086 # a list of packages
if ! { apt-get -q update && install $missing; } >"$log" 2>&1 </dev/null; then
  lacking=
  for package in $missing; do install "$package" >"$log.one" 2>&1 </dev/null || lacking="$lacking $package"; done
  rm -f "$log.one"
  [ -z "$lacking" ] && exit 0
  tail -n 15 "$log"
  missing=$lacking
  by_hand 'apt-get failed (its last lines are above)'
fi
