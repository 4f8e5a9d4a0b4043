#!/bin/sh
# Boots this machine's own system once more, with systemd as its process 1, beside the one that runs: in namespaces, on an overlay.
#
#   unshare --mount --propagation private -- sh boot.sh DIR NAME [PATH...]
#
# DIR/root lies over the machine's own files, and of /etc/systemd/system nothing else is seen: so nothing starts that the machine has
# enabled. What is written is gone after a shutdown, but for the directories PATH, which are those of DIR/bound. Prints the pid of
# process 1, and ends when that has ended, or its own standard input, a pipe that the test holds: then process 1 is killed, and with it
# the kernel takes down everything that it has started, mounts and links too.
set -eu
self=$(realpath "$0")

# What would reach beyond the namespaces: the kernel's settings, modules and devices; and what takes time and serves no test.
masked='systemd-udevd.service systemd-udev-trigger.service systemd-sysctl.service systemd-modules-load.service modprobe@.service
  systemd-binfmt.service systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-logind.service
  systemd-random-seed.service systemd-tmpfiles-clean.timer getty.target nbd-server.service apparmor.service
  sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount
  systemd-pcrphase.service systemd-pcrphase-sysinit.service'

if [ "${1:-}" = --inside ]; then
  new=$2
  hostname "$3"
  ip link set lo up
  mount -t proc -o nosuid,noexec,nodev proc "$new/proc"
  mount --bind "$new/proc/sys" "$new/proc/sys"
  mount -o remount,bind,ro "$new/proc/sys"
  mount -t sysfs -o nosuid,noexec,nodev sysfs "$new/sys"
  # Where the machine has control groups of the first kind they have all controllers; systemd needs the tree alone.
  mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
  mkdir -p "$new/mnt/old"
  cd "$new"
  pivot_root . mnt/old
  systemd=$(PATH=/usr/lib/systemd:/lib/systemd command -v systemd)
  exec chroot . sh -c "umount -l /mnt/old; exec env -i container=xnbd-lab $systemd --system --log-target=journal --show-status=no"
fi

dir=$1
name=$2
shift 2
mkdir -p "$dir/over" "$dir/root"
mount -t tmpfs -o mode=755 tmpfs "$dir/over"
mkdir "$dir/over/upper" "$dir/over/work" "$dir/over/new"
new=$dir/over/new
mount -t overlay -o "lowerdir=/,upperdir=$dir/over/upper,workdir=$dir/over/work" overlay "$new"
rm -rf "$new/etc/systemd/system" "$new/var/log/journal"
mkdir -p "$new/etc/systemd/system" "$new/etc/tmpfiles.d"
for unit in $masked; do ln -s /dev/null "$new/etc/systemd/system/$unit"; done
cp -a "$dir/root/." "$new/"
for path in "$@"; do
  mkdir -p "$dir/bound$path" "$new$path"
  mount --bind "$dir/bound$path" "$new$path"
done
# The clone may lie below /tmp.
ln -s /dev/null "$new/etc/tmpfiles.d/tmp.conf"
: >"$new/etc/fstab"
for path in run dev; do mount -t tmpfs -o mode=755 tmpfs "$new/$path"; done
mkdir "$new/dev/pts" "$new/dev/shm"
for node in null zero full random urandom tty; do
  : >"$new/dev/$node"
  mount --bind "/dev/$node" "$new/dev/$node"
done
ln -s /proc/self/fd "$new/dev/fd"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
: >>"$dir/console"
: >"$new/dev/console"
mount --bind "$dir/console" "$new/dev/console"

# A place of its own in the machine's tree of control groups, which its own namespace then shows as the root.
for tree in /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [ ! -e "$tree/cgroup.procs" ] || break
done
group=$tree/xnbd-lab-$$
mkdir "$group"

exec 3<&0
{
  echo 0 >"$group/cgroup.procs"
  exec unshare --cgroup --pid --fork --kill-child=KILL --uts --ipc --net --mount -- \
    sh "$self" --inside "$new" "$name" </dev/null >>"$dir/console" 2>&1 3<&-
} &
unshare=$!
first=
while [ -z "$first" ]; do
  kill -0 "$unshare"
  read -r first <"/proc/$unshare/task/$unshare/children" || true
done
echo "${first% }"
cat <&3 >/dev/null &
pipe=$!
{
  tail --pid="$pipe" -f /dev/null
  kill -9 "$unshare" 2>/dev/null || true
} &
wait "$unshare" 2>/dev/null || true
kill "$pipe" 2>/dev/null || true
tries=0
while [ -d "$group" ] && [ "$tries" -lt 100 ]; do
  find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
  tries=$((tries + 1))
done
