/**
 * The gateway is no root, and a host's private key is often root's alone (libvirt wants it so). Then it works
 * with copies in a directory of its own on /run, which systemd makes (RuntimeDirectory=), and which only its
 * user reads. They are put there before it starts, and renewed by the daemon.
 */
import { chown, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findCertificates, type NamedFiles } from './certificate-files.ts';

/** Of packaging/systemd/xnbd-gateway.service. */
const HANDED = '/run/xnbd-gateway';

/**
 * Makes the copies what the originals are. Needs root. Nothing happens where there is no such directory.
 * @throws Error when an original is there and cannot be read, or a copy not be written
 */
export async function handCertificates(tls: NamedFiles, directory = HANDED): Promise<void> {
  const owner = await stat(directory).catch(() => undefined);
  if (owner === undefined) return;
  const { ca, crl, cert, key } = await findCertificates('server', tls);
  const copies = [
    [ca, 'ca-cert.pem'],
    [crl, 'ca-crl.pem'],
    [key, 'server-key.pem'],
    // What comes last makes the others count.
    [cert, 'server-cert.pem'],
  ] as const;
  for (const [original, name] of copies) await hand(original, join(directory, name), owner);
}

async function hand(original: string | null, copy: string, { uid, gid }: { uid: number; gid: number }) {
  const text = original === null ? undefined : await read(original);
  if (text === undefined) {
    await rm(copy, { force: true });
    return;
  }
  if ((await read(copy))?.equals(text) === true) return;
  const draft = `${copy}.new`;
  await rm(draft, { force: true });
  await writeFile(draft, text, { mode: 0o400, flag: 'wx' });
  await chown(draft, uid, gid);
  await rename(draft, copy);
}

async function read(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
