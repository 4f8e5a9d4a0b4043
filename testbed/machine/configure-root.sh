#!/bin/sh
# Configures the root file system of a machine, ROOT: a stock Debian whose two machines are told apart by the addresses of
# their network cards alone, so that both boot from one image. Names and machine ids come by the kernel's command line.
#
#   sh configure-root.sh ROOT PUBLIC_KEY
#
# It may be run again on a root that it has configured.
set -eu
root=$1 key=$2

put() { # FILE, its content on stdin
  mkdir -p "$root${1%/*}"
  cat >"$root$1"
}

put /root/.ssh/authorized_keys <"$key"
chmod 700 "$root/root/.ssh"
put /etc/ssh/sshd_config.d/testbed.conf <<'X'
PermitRootLogin prohibit-password
UseDNS no
X
put /etc/fstab <<'X'
/dev/vda / ext4 defaults,noatime 0 0
X
put /etc/hosts <<'X'
127.0.0.1 localhost
10.99.0.1 a.example a
10.99.0.2 b.example b
X
# The name is the kernel's argument systemd.hostname; a file would win over it.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

# 98 is the way in for ssh, 99 the link between the two machines.
put /etc/systemd/network/10-way-in.network <<'X'
[Match]
MACAddress=52:54:00:98:00:01 52:54:00:98:00:02
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
IPv6AcceptRA=no
LinkLocalAddressing=no
X
for n in 1 2; do
  put "/etc/systemd/network/10-link-$n.network" <<X
[Match]
MACAddress=52:54:00:99:00:0$n
[Network]
Address=10.99.0.$n/24
IPv6AcceptRA=no
LinkLocalAddressing=no
X
done
chroot "$root" systemctl -q enable systemd-networkd

# The journal of the boot before is what the order of a shutdown is read from. Nothing may be dropped from it.
mkdir -p "$root/var/log/journal"
put /etc/systemd/journald.conf.d/testbed.conf <<'X'
[Journal]
Storage=persistent
RateLimitBurst=0
X

# What a machine under emulation has no time for.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer man-db.timer systemd-timesyncd.service systemd-networkd-wait-online.service; do
  chroot "$root" systemctl -q disable "$unit" 2>/dev/null || true
done

# The guest does not know of ACPI's power button: waiting for it longer shows nothing more.
put /etc/default/libvirt-guests <<'X'
ON_SHUTDOWN=shutdown
SHUTDOWN_TIMEOUT=10
X
