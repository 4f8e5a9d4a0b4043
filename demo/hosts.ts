/**
 * Two hosts and the network between them, all on this machine: directories for hosts, real programs, an
 * emulated WAN.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort } from '../test/lab/net/free-port.ts';
import { startWan, type Wan } from '../test/lab/net/wan.ts';
import type { Programs } from './programs.ts';

export const DISK = 'guest-vda';

export interface Host {
  /** NBD, for the guest. */
  socket: string;
  ctl: string;
  image: string;
  state: string;
  export: ChildProcess;
}

interface Link {
  rttMs: number;
  rateMbit: number;
}

function placesOf(dir: string): Omit<Host, 'export'> {
  return {
    socket: join(dir, 'run', `${DISK}.sock`),
    ctl: join(dir, 'run', `${DISK}.ctl`),
    image: join(dir, `${DISK}.img`),
    state: join(dir, 'exports', DISK),
  };
}

const exportArguments = ({ image, socket, ctl, state }: Omit<Host, 'export'>): string[] => [
  ...['--image', image, '--socket', socket, '--ctl', ctl, '--state', state],
];

/** Host A: an export that has every block, and the gateway before it. @returns the gateway's address, too. */
export async function startOrigin(
  programs: Programs,
  dir: string,
  image: string,
): Promise<Host & { gateway: string }> {
  const places = { ...placesOf(dir), image };
  await mkdir(join(dir, 'run'), { recursive: true });
  const child = await programs.start(
    'xnbd-export',
    ['target', DISK, ...exportArguments(places)],
    `ready ${DISK}`,
  );
  const gateway = `127.0.0.1:${await freePort()}`;
  const config = join(dir, 'xnbd.conf');
  await writeFile(
    config,
    `[paths]\nrun = ${join(dir, 'run')}\n\n[gateway]\nlisten = ${gateway}\ntls = off\n`,
  );
  await programs.start('xnbd-gateway', ['--config', config], 'listening on');
  return { ...places, export: child, gateway };
}

/** Host B, at the other end of the link: an export without a block. */
export async function startDestination(
  programs: Programs,
  dir: string,
  origin: { gateway: string },
  link: Link,
): Promise<{ host: Host; wan: Wan }> {
  const places = placesOf(dir);
  await mkdir(join(dir, 'run'), { recursive: true });
  const wan = await startWan({ to: origin.gateway, ...link });
  try {
    const uri = `nbd://${wan.address}/${DISK}`;
    const args = ['proxy', DISK, '--origin', uri, ...exportArguments(places)];
    return { host: { ...places, export: await programs.start('xnbd-export', args, `ready ${DISK}`) }, wan };
  } catch (error) {
    await wan.stop();
    throw error;
  }
}
