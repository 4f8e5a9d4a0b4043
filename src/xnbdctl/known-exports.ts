/**
 * Every export of this host: those that run say for themselves how they are, on their control sockets; of
 * those that do not, the record on disk tells. No daemon is needed for either.
 */
import { exportPaths, type HostPaths } from '../config/export-paths.ts';
import { type ControlClient, connectControl, NobodyAnswers } from '../control/client.ts';
import { type ExportStatus, emptyStatus } from '../control/status.ts';
import { exportNames } from '../store/records/export-names.ts';
import { leaseTag } from '../store/records/lease-tag.ts';
import { type ExportRecord, readRecord, secondsSinceTakeover } from '../store/records/record.ts';

/** As `ExportStatus`; `pid` is null where no process serves the export now. */
export type KnownExport = Omit<ExportStatus, 'pid'> & { pid: number | null };

/** In the order of their names. @throws Error when a control socket or a record cannot be read. */
export async function knownExports(paths: HostPaths): Promise<KnownExport[]> {
  const names = await exportNames(paths);
  const found = await Promise.all(names.map((name) => knownExport(paths, name)));
  return found.filter((each) => each !== undefined);
}

/** undefined where this host knows no such export. */
export async function knownExport(paths: HostPaths, name: string): Promise<KnownExport | undefined> {
  const { ctl, stateDir, socket } = exportPaths(paths, name);
  const client = await connectIfRunning(ctl);
  if (client !== undefined) {
    try {
      return await client.status();
    } finally {
      client.close();
    }
  }
  const record = await readRecord(stateDir);
  return record === undefined ? undefined : atRest(record, socket);
}

/** @throws NobodyAnswers; Error for anything else, such as a missing permission */
export async function connectRunning(
  path: string,
  onStatus?: (status: ExportStatus) => void,
): Promise<ControlClient> {
  try {
    return await connectControl(path, onStatus);
  } catch (error) {
    if (error instanceof NobodyAnswers) throw error;
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
function atRest(record: ExportRecord, socket: string): KnownExport {
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
