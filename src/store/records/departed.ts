/**
 * Disks that were here and are deleted, because they have moved away or were void: a file for each, named by
 * the disk's uuid, in `departed` beside the records.
 *
 * A host that has a disk completely says so to the one that it came from, and asks again when the answer was
 * lost. There the disk may be deleted by then; that there is no such disk, it would have to take for a host
 * that has just started and does not know its disks yet. And the holder of a lease that
 * is void now must be told whenever it comes.
 */
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import * as v from 'valibot';
import { makeDirectory, replaceFile } from '../directory.ts';
import type { ExportRecord } from './record.ts';

/**
 * After that nothing is remembered: a host that asks later is told that there is no such disk, and gives up
 * after ten minutes (relocation/lease/retire-origin.ts).
 */
const KEPT_MS = 30 * 24 * 3600 * 1000;

const DepartedSchema = v.looseObject({
  /** The last generation that was here and has moved away; -1: none. */
  generation: v.pipe(v.number(), v.safeInteger(), v.minValue(-1)),
  voidLeases: v.array(v.string()),
});

type Departed = v.InferOutput<typeof DepartedSchema>;

const NOTHING: Departed = { generation: -1, voidLeases: [] };

const directoryFor = (exports: string): string => join(dirname(exports), 'departed');

/**
 * To be called before the record is deleted; durable when it resolves. @param exports directory of the
 * records
 */
export async function rememberDeparted(
  exports: string,
  { uuid, generation, state, lease, voidLeases }: ExportRecord,
): Promise<void> {
  const directory = directoryFor(exports);
  const before = await readDeparted(directory, uuid);
  const ended = state === 'reclaimed' && lease !== null ? [lease] : [];
  const departed: Departed = {
    ...before,
    generation: state === 'retired' ? Math.max(generation, before.generation) : before.generation,
    voidLeases: [...new Set([...before.voidLeases, ...voidLeases, ...ended])],
  };
  await makeDirectory(directory);
  await replaceFile(join(directory, uuid), JSON.stringify(departed));
}

/**
 * What became of a deleted disk that was lent, as far as is remembered. @returns undefined when nothing is
 */
export async function whatDeparted(
  exports: string,
  asked: { uuid: string; generation: number; lease: string },
): Promise<'moved away' | 'void' | undefined> {
  const { generation, voidLeases } = await readDeparted(directoryFor(exports), asked.uuid);
  if (voidLeases.includes(asked.lease)) return 'void';
  return asked.generation <= generation ? 'moved away' : undefined;
}

/** Forgets what no host will ask about any more. */
export async function sweepDeparted(exports: string, now = Date.now()): Promise<void> {
  const directory = directoryFor(exports);
  for (const name of await readdir(directory).catch(() => [])) {
    const path = join(directory, name);
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined && now - found.mtimeMs > KEPT_MS) await rm(path, { force: true });
  }
}

/** @param uuid in the form that a record has: it is a file's name */
async function readDeparted(directory: string, uuid: string): Promise<Departed> {
  try {
    return v.parse(DepartedSchema, JSON.parse(await readFile(join(directory, uuid), 'utf8')));
  } catch {
    // None, or a damaged one: it is asked for as long as it was before there were any.
    return NOTHING;
  }
}
