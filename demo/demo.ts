/**
 * The main job in one command: a guest's disk moves over a slow network while the guest writes to it.
 *
 *     npm run demo [-- --rtt MS] [--rate MBIT/S] [--size MIB] [--keep]    without a hypervisor
 *     npm run demo -- --libvirt [...]                                     with two libvirtd and a guest of QEMU
 *
 * Host A has the disk (xnbd-export target) and a gateway; between A and B lies an emulated network; host B
 * has a proxy (xnbd-export proxy). In the guest's place is a client that writes, reads back and verifies
 * (guest.ts), first at A, then at B. With libvirt both hosts have a libvirtd, a bus and a daemon, too, and
 * the guest is real (test/lab).
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { configureLog } from '../src/log/log.ts';
import { tellWithLibvirt } from './libvirt/story.ts';
import { Programs } from './programs.ts';
import { bad, step } from './screen.ts';
import { tell } from './story.ts';

const USAGE = 'usage: npm run demo [-- [--rtt MS] [--rate MBIT/S] [--size MIB] [--keep] [--libvirt]]';

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        rtt: { type: 'string', default: '20' },
        rate: { type: 'string', default: '100' },
        size: { type: 'string' },
        keep: { type: 'boolean', default: false },
        libvirt: { type: 'boolean', default: false },
      },
    });
    return {
      rttMs: inRange('rtt', values.rtt, 0, 2000),
      rateMbit: inRange('rate', values.rate, 1, 10_000),
      sizeMib: inRange('size', values.size ?? (values.libvirt ? '64' : '256'), 32, 16_384),
      keep: values.keep,
      libvirt: values.libvirt,
    };
  } catch (error) {
    process.stderr.write(`demo: ${(error as Error).message}\n${USAGE}\n`);
    process.exit(2);
  }
}

function inRange(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= least && value <= most)) {
    throw new Error(`--${name} ${text}: it is a number from ${least} to ${most}`);
  }
  return Math.round(value);
}

const { keep, libvirt, ...options } = readArguments();
const dir = await mkdtemp(join(tmpdir(), 'xnbd-demo-'));
const programs = new Programs(dir);

async function cleanUp(): Promise<void> {
  await programs.endAll();
  if (keep) step('kept', dir);
  else await rm(dir, { recursive: true, force: true });
}

configureLog({ level: 'error' });
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void cleanUp().finally(() => process.exit(130)));
}
try {
  process.exitCode = (
    libvirt
      ? await tellWithLibvirt({ dir, ...options })
      : await tell({ dir, ...options }, programs)
  )
    ? 0
    : 1;
} catch (error) {
  bad('failed', (error as Error).message);
  process.exitCode = 1;
} finally {
  await cleanUp();
}
process.exit();
