#!/bin/sh
# Installs xNBD from this clone on a host, as root: what a package would put there. Run `npm run build` first.
#
#   sh scripts/install.sh            (DESTDIR=/some/root installs below that, for a look)
#
# The programs go to /usr/lib/xnbd, with the Node and the native packages that they use; /usr/bin gets a script for each. Not a link: AppArmor
# lets libvirtd run what lies in /usr/bin, and counts the path where a link leads to. Nothing is started, and a configuration that exists is
# kept. Run it again after an update.
set -eu
cd "$(dirname "$0")/.."
root=${DESTDIR:-}

[ -x dist/bin/xnbdd ] || { echo 'install: dist/bin is empty: run `npm run build` first' >&2; exit 1; }

put() { # MODE SOURCE TARGET
  mkdir -p "$root${3%/*}"
  install -m "$1" "$2" "$root$3"
  echo "$root$3"
}

lib=/usr/lib/xnbd
rm -rf "$root$lib.new"
mkdir -p "$root$lib.new/dist/bin" "$root$lib.new/node_modules/@koromix" "$root/usr/bin"
cp package.json LICENSE "$root$lib.new/"
# Of each package what a program loads: no sources, no headers, and Node once (its package has a second one inside).
mkdir -p "$root$lib.new/node_modules/node/bin"
cp node_modules/node/bin/node "$root$lib.new/node_modules/node/bin/"
cp node_modules/node/node_modules/node-linux-*/LICENSE "$root$lib.new/node_modules/node/"
for package in node_modules/koffi node_modules/node-unix-socket* node_modules/@koromix/koffi-linux-*; do
  find "$package" -type f \( -name '*.js' -o -name '*.cjs' -o -name '*.node' -o -name package.json -o -iname 'license*' \) |
    while read -r file; do
      mkdir -p "$root$lib.new/${file%/*}"
      cp "$file" "$root$lib.new/$file"
    done
done
for program in xnbdd xnbd-export xnbd-gateway xnbdctl xnbd-hook; do
  cp "dist/bin/$program" "$root$lib.new/dist/bin/"
  rm -f "$root/usr/bin/$program"
  printf '#!/bin/sh\nexec %s/dist/bin/%s "$@"\n' "$lib" "$program" >"$root/usr/bin/$program"
  chmod 755 "$root/usr/bin/$program"
  echo "$root/usr/bin/$program"
done
# What runs keeps its files open; what starts from now on is new.
rm -rf "$root$lib.old"
[ ! -e "$root$lib" ] || mv "$root$lib" "$root$lib.old"
mv "$root$lib.new" "$root$lib"
rm -rf "$root$lib.old"
echo "$root$lib"
put 755 hooks/qemu /etc/libvirt/hooks/qemu.d/xnbd
put 755 hooks/qemu /etc/libvirt/hooks/libxl.d/xnbd
put 644 packaging/systemd/xnbdd.service /etc/systemd/system/xnbdd.service
put 644 packaging/systemd/xnbd-gateway.service /etc/systemd/system/xnbd-gateway.service
put 644 etc/org.xnbd1.conf /etc/dbus-1/system.d/org.xnbd1.conf
if [ -e "$root/etc/xnbd/xnbd.conf" ]; then
  echo "$root/etc/xnbd/xnbd.conf is kept"
else
  put 600 etc/xnbd.conf /etc/xnbd/xnbd.conf
fi
mkdir -p "$root/var/lib/xnbd/images" "$root/var/lib/xnbd/exports"
chmod 711 "$root/var/lib/xnbd" "$root/var/lib/xnbd/images" "$root/var/lib/xnbd/exports"

echo 'Next: edit /etc/xnbd/xnbd.conf; systemctl daemon-reload; systemctl enable --now xnbdd xnbd-gateway.'
echo 'If libvirt had no hook until now, restart it once (guests run on): it looks for hooks when it starts.'
