/**
 * The exports of this host as the gateway sees them: unix sockets `NAME.sock` in the run directory, each an
 * NBD server.
 */
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { askWhyAbsent } from '../control/absent-exports.ts';
import type { AttachRequest } from '../nbd/handshake/attach.ts';
import { decodeGreeting, GREETING_LENGTH } from '../nbd/handshake/option-framing.ts';
import { printable } from '../nbd/printable.ts';
import { whyAbsent } from '../store/records/absent.ts';
import { namesWith } from '../store/records/export-names.ts';
import { isExportName, olderName } from '../store/records/record.ts';
import { readExactly, StreamEnded } from './read-exactly.ts';

const SUFFIX = '.sock';
const GREETING_LIMIT_MS = 2000;

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
    throw await notRunning({ run, records }, name, asked);
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

/** The daemon knows; where none answers, and the records may be read here, they tell the same. */
async function notRunning(
  { run, records }: LocalExports,
  name: string,
  asked: AttachRequest | undefined,
): Promise<Error> {
  const { kind, text } = await askWhyAbsent(run, name, asked).catch(() => whyAbsent(records!, name, asked));
  const faults = {
    unknown: UnknownExport,
    sleeping: SleepingExport,
    retired: RetiredExport,
    void: VoidLease,
  } as const;
  return new faults[kind](text);
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
