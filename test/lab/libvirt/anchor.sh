#!/bin/sh
# Holds the namespaces of one lab host, from their birth to their end.
#
#   unshare --mount --uts --net -- sh anchor.sh DIR NAME
#
# DIR holds what this host sees at /run, /etc/libvirt and so on; those are bind-mounted from DIR/PATH. Mount points that the
# machine lacks come from an overlay whose upper half is a tmpfs, so that nothing is written to the real /etc or /var/lib
# (only where there are no overlays, empty /etc/xnbd and /var/lib/xnbd are made, and stay).
#
# Prints `ready` and then waits for the end of its standard input, a pipe that the test holds. However the test ends, by
# destroy() or by SIGKILL, the pipe ends too; then every process of this mount namespace is killed and DIR removed.
# With the last process the kernel takes down mounts, links and names by itself.
set -eu
dir=$1
name=$2
here=$(readlink /proc/self/ns/mnt)

overlay() {
  mkdir -p "$dir/overlay$1/upper" "$dir/overlay$1/work"
  mount -t overlay -o "lowerdir=$1,upperdir=$dir/overlay$1/upper,workdir=$dir/overlay$1/work" overlay "$1" 2>/dev/null || true
}

others() {
  for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    [ "$pid" = $$ ] && continue
    [ "$(readlink "$process/ns/mnt" 2>/dev/null)" = "$here" ] && echo "$pid"
  done
  return 0
}

mkdir -p "$dir/overlay"
mount -t tmpfs -o size=16m,mode=755 tmpfs "$dir/overlay"
overlay /etc
overlay /var/lib
mount -t sysfs sysfs /sys
for path in run etc/libvirt etc/xnbd var/lib/libvirt var/lib/xnbd var/log/libvirt var/cache/libvirt; do
  mkdir -p "/$path"
  mount --bind "$dir/$path" "/$path"
done
for path in etc/hosts etc/machine-id; do
  [ -e "/$path" ] || : >"/$path"
  mount --bind "$dir/$path" "/$path"
done
hostname "$name"
ip link set lo up
echo ready

cat >/dev/null || true

# `others` runs in a subshell that is gone again when its result is read: its own pid may be in the list, harmlessly.
tries=0
while [ "$tries" -lt 100 ]; do
  left=$(others)
  killed=no
  for pid in $left; do
    [ -d "/proc/$pid" ] || continue
    [ "$(readlink "/proc/$pid/ns/mnt" 2>/dev/null)" = "$here" ] || continue
    kill -9 "$pid" 2>/dev/null && killed=yes
  done
  [ "$killed" = no ] && break
  tries=$((tries + 1))
  sleep 0.05
done
umount -l "$dir/overlay" 2>/dev/null || true
rm -rf "$dir"
rmdir "$(dirname "$dir")" 2>/dev/null || true
