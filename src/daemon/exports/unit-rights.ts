/**
 * What a unit may use besides what its template gives all of them: the image of its disk, where that lies
 * elsewhere than below /var/lib/xnbd, and the directories of xnbd.conf. It is told in a drop-in for that one
 * unit, until the next boot.
 */
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostPaths } from '../../config/export-paths.ts';
import { exportUnit } from '../../system/systemd/unit-name.ts';

/** `ReadWritePaths` of the template unit (packaging/systemd). */
const GRANTED = ['/var/lib/xnbd', '/run/xnbd'];
const UNITS = '/run/systemd/system';

/** Writes what the unit needs. @returns true: systemd has to read unit files again */
export async function grantImage(paths: HostPaths, name: string, image: string): Promise<boolean> {
  const directory = join(UNITS, `${exportUnit(name)}.d`);
  const file = join(directory, 'image.conf');
  const text = await rights(paths, image);
  const before = await readFile(file, 'utf8').catch(() => '');
  if (text === before) return false;
  if (text === '') {
    await rm(file);
  } else {
    await mkdir(directory, { recursive: true });
    await writeFile(file, text);
  }
  return true;
}

async function rights(paths: HostPaths, image: string): Promise<string> {
  const found = await stat(image).catch(() => undefined);
  const isDevice = found?.isBlockDevice() === true;
  const written = [paths.images, paths.exports, paths.run, ...(isDevice ? [] : [image])].filter(
    (path) => !GRANTED.some((granted) => path === granted || path.startsWith(`${granted}/`)),
  );
  const lines = [
    // What is not there is the export's to complain of.
    ...written.map((path) => `ReadWritePaths=${quoted(`-${path}`)}`),
    ...(isDevice ? ['PrivateDevices=no', `DeviceAllow=${quoted(image)} rw`] : []),
  ];
  return lines.length === 0 ? '' : `[Service]\n${lines.join('\n')}\n`;
}

/** As a word of a unit file. */
function quoted(text: string): string {
  return `"${text.replaceAll('%', '%%').replaceAll(/["\\]/g, '\\$&')}"`;
}
