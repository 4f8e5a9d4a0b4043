/** The demo with two real libvirtd and a real guest: `virsh migrate`, and what it sets in motion. */
import { formatBytes, formatSeconds } from '../../src/log/numbers.ts';
import { defineGuest } from '../../test/lab/libvirt/guest.ts';
import { createLab, type Lab, labUnavailable } from '../../test/lab/libvirt/lab.ts';
import { differences } from '../../test/lab/libvirt/pattern.ts';
import { waitFor } from '../../test/lab/wait-for.ts';
import { bad, bold, faint, good, step, table, title } from '../screen.ts';
import { startTimeline, type Timeline } from './timeline.ts';
import { imageOf, makeDisk, makeHook, startXnbd, type Wan } from './xnbd-host.ts';

const MIB = 1024 * 1024;
const GUEST = 'vm1';
const DISKS = [
  { target: 'vda', export: 'vm1-vda', mode: 'rewrite' },
  { target: 'vdb', export: 'vm1-vdb', mode: 'write-only' },
] as const;
const STATES_LIMIT_MS = 300_000;

export interface LibvirtOptions extends Wan {
  dir: string;
  sizeMib: number;
}

/**
 * @returns false when something differs. @throws Error when the lab cannot be made, or the migration fails.
 */
export async function tellWithLibvirt(options: LibvirtOptions): Promise<boolean> {
  title('xNBD under libvirt: virsh migrate, and the disks follow');
  const missing = await labUnavailable();
  if (missing !== undefined) throw new Error(`two libvirt hosts cannot be made here: ${missing}`);
  const lab = await createLab(await makeHook(options.dir));
  try {
    return await migrate(lab, options);
  } finally {
    await lab.destroy();
  }
}

async function migrate(lab: Lab, { rttMs, rateMbit, sizeMib }: LibvirtOptions): Promise<boolean> {
  const { a, b } = lab;
  const sizeBytes = sizeMib * MIB;
  await Promise.all([a, b].map((host) => startXnbd(host, { rttMs, rateMbit })));
  for (const disk of DISKS) await makeDisk(a, disk.export, sizeBytes);
  step(
    'hosts',
    `a and b: libvirtd, xnbdd, xnbd-gateway; ${rttMs} ms and ${rateMbit} Mbit/s between them for disks`,
  );
  step(
    'guest',
    `${GUEST} with ${DISKS.length} disks of ${formatBytes(sizeBytes)}; it writes and verifies all the while`,
  );
  process.stdout.write('\n');

  const names = DISKS.map((disk) => disk.export);
  const timeline = startTimeline([a, b], names, (seconds, host, kind, text) => {
    const word = host === '' ? bold(text) : `${bold(host)}  ${faint(kind.padEnd(8))}${text}`;
    process.stdout.write(`  ${seconds.toFixed(1).padStart(6)} s  ${word}\n`);
  });
  try {
    const guest = await defineGuest(lab, a, { name: GUEST, disks: DISKS });
    timeline.say(`virsh start ${GUEST}`);
    await guest.start(a);
    await guest.progress();
    timeline.say(`virsh migrate --live ${GUEST} qemu+tcp://b/system`);
    await guest.migrate(a, b);
    timeline.say('virsh migrate has returned: the guest runs at b');
    await waitFor('RelocationCompleted', () => isComplete(timeline), STATES_LIMIT_MS);
    await guest.progress();
    const reports = await guest.stop();

    let same = true;
    process.stdout.write('\n');
    for (const disk of DISKS) {
      const { writes } = reports.get(disk.target)!;
      const lines = await differences(imageOf(b, disk.export), {
        exportName: disk.export,
        sizeBytes,
        writes,
      });
      if (lines.length === 0)
        good('compared', `${disk.export}: every block at b is as it must be (${writes.size} written)`);
      else bad('compared', lines.join('\n'));
      same &&= lines.length === 0;
    }
    if (guest.errors.length === 0) good('verified', 'the guest has read nothing that it did not write');
    else bad('verified', guest.errors.join('\n'));
    summarize(timeline);
    return same && guest.errors.length === 0;
  } finally {
    await timeline.close();
  }
}

function isComplete({ signals }: Timeline): boolean {
  const failed = signals.find(({ member }) => member === 'RelocationFailed');
  if (failed !== undefined) throw new Error(`RelocationFailed: ${String(failed.body[3])}`);
  return signals.some(({ member, host }) => member === 'RelocationCompleted' && host === 'b');
}

/** The figures are those of the signal. */
function summarize({ signals }: Timeline): void {
  const completed = signals.find(({ member }) => member === 'RelocationCompleted')!;
  const disks = completed.body[3] as [string, bigint, bigint, bigint, number][];
  table(
    disks.map(([name, onDemand, background, skipped, seconds]) => [
      name,
      `${formatBytes(Number(onDemand))} on demand, ${formatBytes(Number(background))} background, ` +
        `${formatBytes(Number(skipped))} skipped, complete after ${formatSeconds(seconds)}`,
    ]),
  );
}
