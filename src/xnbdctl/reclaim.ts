/**
 * `xnbdctl reclaim`: a disk that has moved away is taken back from a host that is lost. Everything that was
 * written there since is given up, so this tells what that is, asks that host, and does nothing while it is
 * alive or without --force.
 */
import { randomUUID } from 'node:crypto';
import { OriginConnection } from '../client/connection.ts';
import type { Config } from '../config/config.ts';
import { exportPaths } from '../config/export-paths.ts';
import { OriginRetired } from '../nbd/handshake/client-handshake.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import { hostParty } from '../pki/host-party.ts';
import { type ExportRecord, readRecord, writeRecord } from '../store/records/record.ts';
import { lockState } from '../store/records/state-lock.ts';
import { takenBack } from '../store/records/void-leases.ts';
import { connectIfRunning, type KnownExport, knownExport } from './known-exports.ts';

export interface ReclaimOptions {
  name: string;
  force: boolean;
  /** Takes what the administrator has to know, a line at a time. */
  tell: (line: string) => void;
}

/** @returns what is so now, in one line. @throws Error, one line: nothing has changed. */
export async function reclaim(config: Config, { name, force, tell }: ReclaimOptions): Promise<string> {
  const found = await knownExport(config.paths, name);
  if (found === undefined)
    throw new Error(`no disk ${name} on this host: 'xnbdctl list' shows those that are here`);
  if (found.state !== 'fenced' && found.state !== 'retired')
    throw new Error(`${name} is ${found.state} here: it has not moved away, and there is nothing to reclaim`);
  const holder = found.movedTo === null || found.movedTo === '' ? undefined : found.movedTo;
  const where = holder ?? `an unknown host (lease ${found.lease})`;
  tell(`${name} moved to ${where} at ${found.movedAt ?? 'an unknown time'} (${found.state} here).`);
  tell('What its guest has written since then is on that host alone: a reclaim gives it up.');
  const answer: Answer =
    holder === undefined
      ? { has: 'unknown', why: 'it gave no address, and cannot be asked' }
      : await ask(config, holder, name);
  if (answer.has === 'disk') {
    throw new Error(
      `${holder} serves ${name}: it is not lost. Start the guest there, or migrate it back; nothing was changed`,
    );
  }
  if (answer.has === 'moved on') {
    throw new Error(
      `${holder} is not lost: it moved ${name} on. 'xnbdctl status ${name}' on that host says where to, ` +
        'and the disk can be reclaimed from there; nothing was changed',
    );
  }
  tell(`${where}: ${answer.why}.`);
  tell(
    `If ${where} moved the disk on to a third host, the newest data is there. Check before you go on: ` +
      `that host keeps writing until ${where} is back.`,
  );
  if (!force) {
    throw new Error(
      `nothing was changed. If ${where} is lost for good: xnbdctl reclaim ${name} --force; if it may come back: wait for it`,
    );
  }
  await takeBack(config, found);
  return `${name}: reclaimed; this host owns the disk, as it was when it left`;
}

type Answer = { has: 'disk' } | { has: 'moved on' } | { has: 'unknown'; why: string };

/** Asks a host whether it serves the disk now. */
async function ask({ gateway, tls }: Config, holder: string, name: string): Promise<Answer> {
  const scheme = gateway.tls === 'off' ? 'nbd' : 'nbds';
  try {
    const address = parseNbdUri(`${scheme}://${holder}/${encodeURIComponent(name)}`);
    const party = gateway.tls === 'off' ? undefined : await hostParty('client', tls);
    try {
      (await OriginConnection.connect({ address, tls: party })).disconnect();
      return { has: 'disk' };
    } catch (error) {
      // No disk has this uuid, so nothing is lent; but one that has retired says so before it looks.
      const attach = { lease: randomUUID(), uuid: randomUUID(), generation: 0, name };
      const refusal = await OriginConnection.connect({ address, tls: party, attach }).then(
        (connection) => connection.disconnect(),
        (reason: unknown) => reason,
      );
      if (refusal instanceof OriginRetired) return { has: 'moved on' };
      throw error;
    }
  } catch (error) {
    return { has: 'unknown', why: (error as Error).message };
  }
}

async function takeBack({ paths }: Config, { name }: KnownExport): Promise<void> {
  const { ctl, stateDir } = exportPaths(paths, name);
  const running = await connectIfRunning(ctl);
  if (running !== undefined) {
    try {
      await running.call('reclaim');
      return;
    } finally {
      running.close();
    }
  }
  const lock = await lockState(stateDir);
  try {
    await writeRecord(stateDir, reclaimedAtRest(name, await readRecord(stateDir)));
  } finally {
    await lock.release();
  }
}

function reclaimedAtRest(name: string, record: ExportRecord | undefined): ExportRecord {
  if (record?.state !== 'fenced' && record?.state !== 'retired')
    throw new Error(`${name} is ${record?.state ?? 'gone'} by now: nothing was changed`);
  if (record.complete) return { ...record, ...takenBack(record, 'serving') };
  if (record.origin === null)
    throw new Error(
      `${name} never had every block here, and its own origin has been let go: it cannot be used`,
    );
  return { ...record, ...takenBack(record, 'relocating') };
}
