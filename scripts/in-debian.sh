#!/bin/sh
# Runs a command of this clone with the programs of another Debian release: its libvirt, QEMU, libnbd, nbdkit and D-Bus, under this
# machine's kernel and with this clone's own Node.
#
#   sh scripts/in-debian.sh 13                                   makes its root, if it is missing, and says where it is
#   sh scripts/in-debian.sh 13 node scripts/test.ts interop      any command
#
# Needs root and mmdebstrap. The root is made once, in two to ten minutes, and holds 0.6 GB. It is .cache/debian-RELEASE, or lies in the
# directory XNBD_DEBIAN_ROOTS, so that clones can share it. What a command changes in it is gone with the command: an overlay lies over
# it. /tmp and the clone are the machine's own, at their own paths; .cache is the release's own, because what tests keep there (a guest's
# kernel, what QEMU can do) is made by its programs.
set -eu
self=$(realpath "$0")
clone=${self%/scripts/*}

fail() {
  echo "in-debian: $1" >&2
  exit 2
}

# In a mount namespace of its own: builds the tree, and makes it the root. Not by chroot: `nsenter --mount`, by which the lab's hosts are
# entered, leaves a chroot, and goes to what pivot_root has made the root of the namespace.
enter() {
  root=$1 cache=$2
  shift 2
  mount -t tmpfs -o mode=755 tmpfs "$root.over"
  mkdir "$root.over/upper" "$root.over/work" "$root.over/new"
  new=$root.over/new
  mount -t overlay -o "lowerdir=$root,upperdir=$root.over/upper,workdir=$root.over/work" overlay "$new"
  for path in dev proc sys tmp; do mount --rbind "/$path" "$new/$path"; done
  mount -t tmpfs -o mode=755 tmpfs "$new/run"
  mkdir -p "$new$clone" "$new/run/lock"
  mount --bind "$clone" "$new$clone"
  mount --bind "$cache" "$new$clone/.cache"
  cat /etc/resolv.conf >"$new/etc/resolv.conf"
  cat /etc/hosts >"$new/etc/hosts"
  cd "$new"
  pivot_root . mnt
  export PATH="$clone/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LC_ALL=C.UTF-8
  # shellcheck disable=SC2016 # the inner shell's words
  exec chroot . sh -c 'umount -l /mnt && cd "$1" && shift && exec "$@"' sh "$clone" "$@"
}

if [ "${1:-}" = --inside ]; then
  shift
  enter "$@"
fi

release=${1:-}
case $release in
  12) suite=bookworm ;;
  13) suite=trixie ;;
  *) fail 'which release? sh scripts/in-debian.sh 12|13 [COMMAND...]' ;;
esac
shift
[ "$(id -u)" = 0 ] || fail 'it takes root: it mounts, and makes namespaces'

roots=${XNBD_DEBIAN_ROOTS:-$clone/.cache}
cache=$clone/.cache/of-debian-$release
mkdir -p "$roots" "$cache"
root=$(realpath "$roots")/debian-$release
mkdir -p "$root.over"
(
  flock 9
  [ ! -e "$root" ] || exit 0
  command -v mmdebstrap >/dev/null 2>&1 || fail 'mmdebstrap is not installed (Debian package mmdebstrap)'
  echo "in-debian: making $root, which takes some minutes" >&2
  rm -rf "$root.draft"
  mmdebstrap --quiet --variant=apt --include="$(sh "$clone/scripts/setup.sh" list | tr '\n' ,)" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$root.draft"
  mv "$root.draft" "$root"
) 9>"$root.lock"

if [ $# = 0 ]; then
  echo "$root"
  exit 0
fi
exec unshare --mount --propagation private -- sh "$self" --inside "$root" "$cache" "$@"
