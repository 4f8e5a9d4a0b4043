/*
 * Why a guest stands still: by its emulation's fault, or because it waits for a disk of ours.
 *
 * The lab's guests run under TCG, QEMU's emulation of a processor. On a busy machine TCG now and then loses a page of a guest's memory while
 * it migrates over a slow link. Then the guest's virtual CPU runs no more, or its kernel crashes, or a process of it waits for
 * an interrupt that came long ago. None of this can be a disk's doing: all that the guest runs lies in its memory, its heartbeat touches
 * no disk, and a disk's content is never more to it than bytes to compare.
 *
 * A guest that waits for a disk looks alike from outside, and is our fault. What tells them apart is asked where no mistake of ours reaches: its
 * QEMU counts the requests that the guest has handed to a disk and that are not yet answered. It is the emulation's fault only if, for ten
 * seconds, QEMU says that the guest runs and that nothing stands still for want of an answer; one request under way, a guest that is paused, a
 * QEMU that does not answer, and it is taken for ours. So is everything, once the guest has read other bytes than it wrote.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';

const LOOKS = 5;
const LOOK_EVERY_MS = 2000;

export type Verdict = { faultOf: 'TCG' | 'a disk'; what: string };

/**
 * Why a guest stands still. Takes ten seconds, unless it is seen at once.
 * @returns undefined where it does not stand still, or where it cannot be told why
 */
export async function whyItStands(
  guest: Guest,
  lookEveryMs: number = LOOK_EVERY_MS,
): Promise<Verdict | undefined> {
  const { name, spec } = guest;
  await guest.console.look();
  if (guest.errors.some((line) => /^(verify error|fatal)/.test(line))) return undefined;
  if (guest.crash !== undefined) return { faultOf: 'TCG', what: `${name} has crashed: ${guest.crash}` };

  // What it did until now is in its next heartbeat.
  await sleep(lookEveryMs);
  await guest.console.look();
  const [beat, counts] = [guest.beat, new Map(guest.counts)];
  const asked = await askedMeanwhile(guest, lookEveryMs);
  if (asked === undefined) return undefined;
  const still = spec.disks
    .map(({ target }) => target)
    .filter((target) => sum(counts.get(target)) === sum(guest.counts.get(target)));
  const waiting = still.filter((target) => asked.has(target));
  if (waiting.length > 0)
    return { faultOf: 'a disk', what: `${name} waits for ${waiting.join()}: a request is under way` };
  if (guest.beat === beat)
    return {
      faultOf: 'TCG',
      what: `the heartbeat of ${name} stands still at ${beat}, and no request is under way`,
    };
  const working = spec.disks.filter(({ mode }) => mode !== 'idle' && !guest.resting);
  const lost = working.map(({ target }) => target).filter((target) => still.includes(target));
  if (lost.length === 0) return undefined;
  return { faultOf: 'TCG', what: `${name} waits for ${lost.join()}, and every request there is answered` };
}

const sum = (counts: { writes: number; reads: number } | undefined): number =>
  counts === undefined ? 0 : counts.writes + counts.reads;

/** The disks of which a request was under way at any look; undefined where the guest did not run, in one place, at every look. */
async function askedMeanwhile(guest: Guest, lookEveryMs: number): Promise<Set<string> | undefined> {
  const asked = new Set<string>();
  for (let look = 1; look <= LOOKS; look++) {
    const views = await Promise.all(guest.hosts.map((host) => seenByQemu(host, guest.name)));
    const here = views.filter((view) => view !== 'not here');
    const [view] = here;
    if (here.length !== 1 || view === undefined || view === 'no answer' || view.status !== 'running')
      return undefined;
    for (const target of view.underWay) asked.add(target);
    if (look < LOOKS) await sleep(lookEveryMs);
    await guest.console.look();
  }
  return asked;
}

/** What a guest's QEMU says of it on a host: how it is, and the disks that owe it an answer. */
async function seenByQemu(
  host: Host,
  name: string,
): Promise<{ status: string; underWay: string[] } | 'not here' | 'no answer'> {
  try {
    const { stdout } = await host.exec([...VIRSH, 'list', '--name'], { timeoutMs: ANSWER_MS });
    if (!stdout.split('\n').includes(name)) return 'not here';
    const { status } = await monitor<{ status: string }>(host, name, 'query-status');
    const underWay: string[] = [];
    for (const { path } of await monitor<{ path: string }[]>(host, name, 'x-query-virtio')) {
      const disk = /\/virtio-disk(\d+)\//.exec(path)?.[1];
      if (disk === undefined) continue;
      const queue = { path, queue: 0 };
      const { inuse } = await monitor<{ inuse: number }>(host, name, 'x-query-virtio-queue-status', queue);
      if (inuse > 0) underWay.push(`vd${'abcdefgh'[Number(disk)]}`);
    }
    return { status, underWay };
  } catch {
    return 'no answer';
  }
}

const VIRSH = ['virsh', '--quiet', '--connect', 'qemu:///system'];
const ANSWER_MS = 10_000;

/** A command to a guest's QEMU; what it returned. */
export async function monitor<T>(host: Host, guest: string, execute: string, args: object = {}): Promise<T> {
  const command = JSON.stringify({ execute, arguments: args });
  const { stdout } = await host.exec([...VIRSH, 'qemu-monitor-command', guest, command], {
    timeoutMs: ANSWER_MS,
  });
  return (JSON.parse(stdout) as { return: T }).return;
}
