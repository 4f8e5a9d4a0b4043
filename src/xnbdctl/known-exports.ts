/**
 * Every export of this host: those that run say for themselves how they are, on their control sockets; of
 * those that do not, the record on disk tells. No daemon is needed for either.
 */
import { exportPaths, type HostPaths } from '../config/export-paths.ts';
import { type ControlClient, connectControl, DoesNotAnswer, NobodyAnswers } from '../control/client.ts';
import { type ExportStatus, emptyStatus } from '../control/status.ts';
import { exportNames } from '../store/records/export-names.ts';
import { leaseTag } from '../store/records/lease-tag.ts';
import {
  type ExportRecord,
  readRecord,
  secondsSinceTakeover,
  UnreadableRecord,
} from '../store/records/record.ts';

/** Each export is asked at once with the others: what one has not said by then, its record has to say. */
export const ANSWER_LIMIT_MS = 2000;

const DOES_NOT_ANSWER = 'does not answer';

/**
 * As `ExportStatus`; `pid` is null where no process has answered. `problem` says, in a line, why this is all
 * that can be told of it; null where an export has answered, or none runs.
 */
export type KnownExport = Omit<ExportStatus, 'pid'> & { pid: number | null; problem: string | null };

/**
 * In the order of their names; one that cannot be told of has its reason in `problem`.
 * @throws Error when a directory or a control socket may not be read.
 */
export async function knownExports(paths: HostPaths): Promise<KnownExport[]> {
  const names = await exportNames(paths);
  const found = await Promise.all(
    names.map((name) =>
      knownExport(paths, name).catch((error: unknown) => {
        if (!(error instanceof UnreadableRecord)) throw error;
        return { ...emptyStatus, name, pid: null, problem: error.message };
      }),
    ),
  );
  return found.filter((each) => each !== undefined);
}

/** A guest here or elsewhere depends on this host for the disk, whether a process serves it now or not. */
const ties: readonly string[] = ['standby', 'relocating', 'lent', 'fencing', 'fenced'];

/** Names, one a line, of disks in use: those, and what has a client. One that does not answer counts. */
export function namesInUse(exports: readonly KnownExport[]): string {
  return exports
    .filter(
      ({ problem, clients, state }) => clients > 0 || ties.includes(state) || problem === DOES_NOT_ANSWER,
    )
    .map(({ name }) => `${name}\n`)
    .join('');
}

/** undefined where this host knows no such export. @throws UnreadableRecord; Error as above */
export async function knownExport(paths: HostPaths, name: string): Promise<KnownExport | undefined> {
  const { ctl, stateDir, socket } = exportPaths(paths, name);
  const status = await statusIfRunning(ctl);
  if (status !== undefined && status !== DOES_NOT_ANSWER) return { ...status, problem: null };
  const record = await readRecord(stateDir);
  if (record !== undefined) return { ...atRest(record, socket), problem: status ?? null };
  return status === undefined ? undefined : { ...emptyStatus, name, pid: null, socket, problem: status };
}

/** undefined when no process listens. @throws Error for anything else, such as a missing permission. */
async function statusIfRunning(ctl: string): Promise<ExportStatus | typeof DOES_NOT_ANSWER | undefined> {
  try {
    const client = await connectIfRunning(ctl);
    try {
      return await client?.status(ANSWER_LIMIT_MS);
    } finally {
      client?.close();
    }
  } catch (error) {
    if (error instanceof DoesNotAnswer) return DOES_NOT_ANSWER;
    throw error;
  }
}

/** @throws NobodyAnswers, DoesNotAnswer; Error for anything else, such as a missing permission */
export async function connectRunning(
  path: string,
  onStatus?: (status: ExportStatus) => void,
): Promise<ControlClient> {
  try {
    return await connectControl(path, onStatus);
  } catch (error) {
    if (error instanceof NobodyAnswers || error instanceof DoesNotAnswer) throw error;
    throw new Error(`control socket ${path}: ${(error as Error).message}; run as root`);
  }
}

/** undefined when no process listens. @throws Error as above */
export async function connectIfRunning(
  path: string,
  onStatus?: (status: ExportStatus) => void,
): Promise<ControlClient | undefined> {
  try {
    return await connectRunning(path, onStatus);
  } catch (error) {
    if (error instanceof NobodyAnswers) return undefined;
    throw error;
  }
}

/** What a record says about an export that no process serves now. */
function atRest(record: ExportRecord, socket: string): Omit<KnownExport, 'problem'> {
  const { onDemandBytes, backgroundBytes, skippedBytes, sizeBytes } = record;
  // Blocks that the guest wrote whole are not counted in the record: it is this much at least.
  const fetched = Math.min(onDemandBytes + backgroundBytes + skippedBytes, sizeBytes);
  return {
    ...emptyStatus,
    name: record.name,
    uuid: record.uuid,
    generation: record.generation,
    state: record.state,
    pid: null,
    sizeBytes,
    presentBytes: record.complete ? sizeBytes : fetched,
    onDemandBytes,
    backgroundBytes,
    skippedBytes,
    secondsSinceTakeover: secondsSinceTakeover(record),
    origin: record.complete ? null : (record.origin?.uri ?? null),
    originReachable: record.complete,
    image: record.image,
    socket,
    lease: leaseTag(record.lease),
    movedTo: record.movedTo?.host ?? null,
    movedAt: record.movedTo?.at ?? null,
    error: record.reclaimed,
  };
}
