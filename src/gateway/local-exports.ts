/**
 * The exports of this host as the gateway sees them: unix sockets `NAME.sock` in the run directory, each an
 * NBD server.
 */
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { Recurring } from '../log/recurring.ts';
import type { AttachRequest } from '../nbd/handshake/attach.ts';
import { decodeGreeting, GREETING_LENGTH } from '../nbd/handshake/option-framing.ts';
import { printable } from '../nbd/printable.ts';
import { whatDeparted } from '../store/records/departed.ts';
import { namesWith } from '../store/records/export-names.ts';
import { isExportName, olderName, readRecord } from '../store/records/record.ts';
import { isVoid } from '../store/records/void-leases.ts';
import { readExactly, StreamEnded } from './read-exactly.ts';

const SUFFIX = '.sock';
const GREETING_LIMIT_MS = 2000;

const unreadable = new Recurring('warning');

/** There is no such export here. */
export class UnknownExport extends Error {}

/** The export is known here and does not run now: a client that asks again later may find it. */
export class SleepingExport extends Error {}

/** The export has retired, and will never serve again. */
export class RetiredExport extends Error {}

/** The client's lease on the export is void for good. */
export class VoidLease extends Error {}

/** Where the exports of a host are. */
export interface LocalExports {
  /** Directory of the sockets `NAME.sock`. */
  run: string;
  /** Directory of the records; null: nothing is known of exports that do not run. */
  records: string | null;
}

/**
 * The name under which this host has what a lease holder wants: an older generation than the one that it
 * serves may lie beside that.
 */
export function nameFor({ run }: LocalExports, { name, generation }: AttachRequest): string {
  const older = olderName(name, generation);
  return isExportName(older) && existsSync(join(run, older + SUFFIX)) ? older : name;
}

/**
 * Connects to an export, its greeting read.
 * @param asked what the client's lease names, if it has one.
 * @throws UnknownExport, SleepingExport, RetiredExport or VoidLease when no export answers to that name;
 * Error when what answers is no NBD server or silent.
 */
export async function dialExport(
  { run, records }: LocalExports,
  name: string,
  asked?: AttachRequest,
): Promise<Socket> {
  if (!isExportName(name)) throw new UnknownExport(`no export is called '${printable(name)}'`);
  const socket = await connected(join(run, name + SUFFIX), name).catch(async (error: unknown) => {
    if (records === null || !(error instanceof UnknownExport)) throw error;
    throw await notRunning(records, name, asked, error);
  });
  const timer = setTimeout(() => socket.destroy(), GREETING_LIMIT_MS);
  try {
    decodeGreeting(await readExactly(socket, GREETING_LENGTH));
    return socket;
  } catch (error) {
    socket.destroy();
    if (!(error instanceof StreamEnded)) throw error;
    throw new Error(`export ${name} does not greet: see its log`);
  } finally {
    clearTimeout(timer);
  }
}

/** Names that a client could connect to now, in order. */
export async function listExports(run: string): Promise<string[]> {
  const names = await namesWith(SUFFIX, run);
  const live = await Promise.all(names.map((name) => answers(run, name)));
  return names.filter((_, index) => live[index]).sort();
}

async function answers(run: string, name: string): Promise<boolean> {
  try {
    (await dialExport({ run, records: null }, name)).destroy();
    return true;
  } catch {
    return false;
  }
}

/** Why an export does not run, as far as its record tells. */
async function notRunning(
  records: string,
  name: string,
  asked: AttachRequest | undefined,
  unknown: UnknownExport,
): Promise<Error> {
  try {
    const record = await readRecord(join(records, name));
    if (record === undefined) return (await deleted(records, name, asked)) ?? unknown;
    // The holder of a void lease may still be writing to its copy: tell it now, although the export does not
    // run.
    if (asked !== undefined && isVoid(record, asked.lease))
      return new VoidLease(
        `export '${name}' was reclaimed by an administrator, and what was written elsewhere is void`,
      );
    if (record.state === 'retired' && record.origin === null)
      return new RetiredExport(`export '${name}' is retired: its disk has moved to another host`);
    return new SleepingExport(`export '${name}' does not run now; it is ${record.state}`);
  } catch (error) {
    unreadable.met(`the record of export ${name} cannot be read: ${(error as Error).message}`);
    return new SleepingExport(`export '${name}' does not run now`);
  }
}

/** Why an export is not known here any more. */
async function deleted(
  records: string,
  name: string,
  asked: AttachRequest | undefined,
): Promise<Error | undefined> {
  if (asked === undefined || asked.uuid === null) return undefined;
  switch (await whatDeparted(records, { ...asked, uuid: asked.uuid })) {
    case 'void':
      return new VoidLease(`export '${name}' was void, and is deleted`);
    case 'moved away':
      return new RetiredExport(`export '${name}' is deleted: its disk has moved to another host`);
    default:
      return undefined;
  }
}

function connected(path: string, name: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    socket.on('connect', () => resolve(socket));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const nobody = error.code === 'ENOENT' || error.code === 'ECONNREFUSED';
      reject(
        nobody
          ? new UnknownExport(`no export '${name}' runs here`)
          : new Error(`export ${name}: ${error.message}`),
      );
    });
  });
}
