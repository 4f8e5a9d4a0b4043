/**
 * `xnbdctl limit`, `pause` and `resume` of a whole host: what an administrator chooses goes into a file
 * (src/store/records/choices.ts), which the daemon looks at several times a second.
 */
import { join } from 'node:path';
import { type CapNow, type Choices, capsNow, formatCap, peerAt, someCapHolds } from '../config/caps.ts';
import type { Config } from '../config/config.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import { type Choice, choicesPath, choose, readChoices } from '../store/records/choices.ts';
import { answers } from '../system/unix-socket.ts';
import type { KnownExport } from './known-exports.ts';

/** @returns what holds now, a line. @throws Error of one line */
export async function setHostLimit(config: Config, rate: number | null | undefined): Promise<string> {
  const { choices, note } = await carryOut(config, { of: 'host', rate });
  return `this host: ${told(capsNow(config, choices, new Date()).host)}${note}`;
}

/** @param known disks of this host, whose origins are peers too. @throws Error of one line */
export async function setPeerLimit(
  config: Config,
  known: readonly KnownExport[],
  peer: string,
  rate: number | null | undefined,
): Promise<string> {
  const before = await readChoices(choicesPath(config.paths));
  const peers = new Set([
    ...config.peers.map(({ name }) => name),
    ...known.flatMap((each) => peerOf(config, each) ?? []),
    ...before.peers.keys(),
  ]);
  if (!peers.has(peer))
    throw new Error(
      `${peer} is neither a disk of this host nor a peer: ${listed(
        known.map(({ name }) => name),
        [...peers],
      )}`,
    );
  const { choices, note } = await carryOut(config, { of: 'peer', peer, rate });
  const cap = capsNow(config, choices, new Date()).peers.get(peer) ?? { rate: null, said: 'xnbd.conf' };
  return `what comes from ${peer}: ${told(cap)}${note}`;
}

/** @returns what is so now, a line. @throws Error of one line */
export async function pauseAll(config: Config, paused: boolean): Promise<string> {
  const { note } = await carryOut(config, { of: 'all', paused });
  return `all disks of this host: ${paused ? 'paused, those that arrive later too' : 'no longer paused all together'}${note}`;
}

/** What is set and what holds now, a line each. */
export async function limitLines(config: Config, known: readonly KnownExport[]): Promise<string[]> {
  const choices = await readChoices(choicesPath(config.paths));
  const { host, peers } = capsNow(config, choices, new Date());
  const most = config.relocation['max-arriving'];
  return [
    ...(choices.paused ? ['all disks of this host: paused (xnbdctl resume --all)'] : []),
    `this host: ${told(host)}`,
    ...(most === null ? [] : [`disks that are copied at a time: ${most} (max-arriving)`]),
    ...[...peers].map(([name, cap]) => `what comes from ${name}: ${told(cap)}`),
    ...known.flatMap(({ name, origin, settings }) => {
      const { 'copy-rate': rate, weight, paused } = settings;
      if (origin === null || rate === undefined) return [];
      const words = [
        ...(rate === 'none' ? [] : [rate]),
        ...(weight === '100' ? [] : [`weight ${weight}`]),
        ...(paused === 'on' ? ['paused'] : []),
      ];
      return words.length === 0 ? [] : [`disk ${name}: ${words.join(', ')}`];
    }),
  ];
}

/** Something is set that an administrator who looks at all disks should see. */
export async function hasLimits(config: Config): Promise<boolean> {
  return someCapHolds(config, await readChoices(choicesPath(config.paths)), new Date());
}

async function carryOut(config: Config, choice: Choice): Promise<{ choices: Choices; note: string }> {
  const path = choicesPath(config.paths);
  await choose(path, choice);
  const runs = await answers(join(config.paths.run, 'hook.sock'));
  const note = runs ? '' : '; kept, and in force as soon as xnbdd runs';
  return { choices: await readChoices(path), note };
}

function told({ rate, said }: CapNow): string {
  return `${rate === null ? 'no limit' : formatCap(rate)} (${said})`;
}

function peerOf({ peers }: Config, { origin }: KnownExport): string | null {
  if (origin === null) return null;
  const address = parseNbdUri(origin);
  return address.kind === 'unix' ? null : peerAt(peers, address);
}

function listed(disks: readonly string[], peers: readonly string[]): string {
  const words = (what: string, names: readonly string[]): string =>
    names.length === 0 ? `no ${what} is known` : `${what}s are ${names.join(', ')}`;
  return `${words('disk', disks)}; ${words('peer', peers)}`;
}
