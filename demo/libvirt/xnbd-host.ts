/**
 * xNBD on a host of the lab (test/lab), as a package would install it: daemon, gateway, hook, configuration.
 */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import type { Lab } from '../../test/lab/libvirt/lab.ts';
import { createPatternImage } from '../../test/lab/libvirt/pattern.ts';
import { waitFor } from '../../test/lab/wait-for.ts';

type Host = Lab['a'];

const TOP = join(import.meta.dirname, '../..');
const GATEWAY_PORT = 10809;
/** Where the other host comes in: through an emulated WAN. */
const WAN_PORT = 10810;
const IMAGES = '/var/lib/xnbd/images';
const EXPORTS = '/var/lib/xnbd/exports';
/** On each host: one line for each call of the hook. */
export const log = '/run/lab/hooks.log';

export interface Wan {
  rttMs: number;
  rateMbit: number;
}

/** Makes, in `dir`, what libvirt is to run: the hook, which notes each call, and `xnbd-hook` for the PATH. */
export async function makeHook(dir: string): Promise<{ hook: string; path: string[] }> {
  const path = join(dir, 'bin');
  const hook = join(dir, 'qemu');
  await mkdir(path);
  await executable(join(path, 'xnbd-hook'), `exec ${process.execPath} ${TOP}/src/bin/xnbd-hook.ts "$@"`);
  await executable(hook, `echo "qemu $1 $2 $3" >>${log}\nexec sh ${TOP}/hooks/qemu "$@"`);
  return { hook, path: [path] };
}

async function executable(path: string, script: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
}

/** Starts the daemon and the gateway, the gateway behind a WAN of its own. */
export async function startXnbd(host: Host, { rttMs, rateMbit }: Wan): Promise<void> {
  await writeFile(
    host.outside('/etc/xnbd/xnbd.conf'),
    `[gateway]\nlisten = 127.0.0.1:${GATEWAY_PORT}\nadvertise = ${host.name}:${WAN_PORT}\ntls = off\n`,
  );
  await writeFile(host.outside(log), '');
  const node = (program: string, ...args: string[]) =>
    host.spawn([process.execPath, join(TOP, program), ...args]);
  await node('src/bin/xnbd-gateway.ts');
  await node('src/bin/xnbdd.ts');
  const wan = ['--rtt-ms', String(rttMs), '--rate-mbit', String(rateMbit)];
  await node(
    'test/lab/net/wan-relay.ts',
    '--listen',
    `0.0.0.0:${WAN_PORT}`,
    '--to',
    `127.0.0.1:${GATEWAY_PORT}`,
    ...wan,
  );
  await waitFor(`xnbdd on host ${host.name}`, () => host.hasBusName('org.xnbd1'));
}

/** Gives a host a disk that is at rest there. */
export async function makeDisk(host: Host, name: string, sizeBytes: number): Promise<void> {
  const image = join(IMAGES, `${name}.img`);
  await createPatternImage(host.outside(image), name, sizeBytes);
  await writeRecord(host.outside(join(EXPORTS, name)), newRecord(name, image, sizeBytes));
}

/** The image of a disk that arrived, seen from outside. */
export function imageOf(host: Host, name: string): string {
  return host.outside(join(IMAGES, `${name}.img`));
}
