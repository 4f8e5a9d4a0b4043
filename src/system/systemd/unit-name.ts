/**
 * Names of disks as instances of a template unit (systemd.unit(5), systemd-escape(1)).
 *
 * Of what a disk's name may hold, only `+` is not allowed in a unit's name; systemd writes it `\x2b`, and so
 * does systemctl where an administrator types it. `-` stays as it is: the instance is no path, so `%i` is
 * used in the unit, never `%I`, which would make a `/` of it.
 */

/** `vm1-vda` stays so, `vm+1` becomes `vm\x2b1`. */
export function instanceOf(name: string): string {
  return name.replaceAll('+', '\\x2b');
}

/** The reverse of `instanceOf`. */
export function nameOfInstance(instance: string): string {
  return instance.replaceAll('\\x2b', '+');
}

/** The unit that serves a disk. */
export function exportUnit(name: string): string {
  return `xnbd-export@${instanceOf(name)}.service`;
}
