/**
 * A note in the run directory by which the unit of a disk that arrives learns of its origin: there is no
 * record yet that could tell. The daemon removes it once the export has its record, or is given up.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { makeDirectory, replaceFile } from '../../store/directory.ts';
import type { ArrivingOrigin } from './arguments.ts';

const Note = v.object({
  version: v.literal(1),
  uri: v.string(),
  expected: v.optional(v.object({ uuid: v.string(), generation: v.number() })),
  mustBeAllowed: v.boolean(),
});

function directory(run: string): string {
  return join(run, 'arriving');
}

function notePath(run: string, name: string): string {
  return join(directory(run), `${name}.json`);
}

export async function writeArrivalNote(run: string, name: string, origin: ArrivingOrigin): Promise<void> {
  await makeDirectory(directory(run));
  await replaceFile(notePath(run, name), `${JSON.stringify({ version: 1, ...origin })}\n`);
}

/** undefined when the disk does not arrive. @throws Error of one line when the note cannot be read. */
export async function readArrivalNote(run: string, name: string): Promise<ArrivingOrigin | undefined> {
  const path = notePath(run, name);
  try {
    return v.parse(Note, JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new Error(`${path} does not tell where disk ${name} comes from: ${(error as Error).message}`);
  }
}

export async function removeArrivalNote(run: string, name: string): Promise<void> {
  await rm(notePath(run, name), { force: true });
}

/** Those of an earlier daemon, which gave up what it was starting. */
export async function removeArrivalNotes(run: string): Promise<void> {
  await rm(directory(run), { recursive: true, force: true });
}
