/** Every block of a disk against the model; and for a byte that is wrong, who has what there. */
import { createHash } from 'node:crypto';
import { link, open, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ByteModel } from '../../lab/model/byte-model.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { recordOf, type Stay } from '../moving/stay.ts';

const BLOCK = 4096;
const STEP = 1024 * 1024;

/**
 * Nobody writes meanwhile: the image, and what the export answers, must be what the guest wrote. @throws
 * Error naming the byte
 */
export async function compareEveryBlock(stay: Stay, model: ByteModel): Promise<void> {
  const image = await readFile(stay.image);
  model.read(0, model.size).done(image);
  const client = await connectClient(`nbd+unix:///${stay.name}?socket=${stay.socket}`);
  try {
    for (let from = 0; from < model.size; from += STEP) {
      const length = Math.min(STEP, model.size - from);
      const reading = model.read(from, length);
      reading.done(await client.read(from, length));
    }
  } finally {
    client.disconnect();
  }
}

/** Blocks of 512 bytes that an image takes on its host; 0 for one that does not exist. */
export async function heldBlocks(image: string): Promise<number> {
  return await stat(image).then(
    ({ blocks }) => blocks,
    () => 0,
  );
}

export interface RememberedImage {
  /** Does it hold anything else now? It can be asked once. */
  changed(): Promise<boolean>;
}

/**
 * Remembers what is in a stay's image now, by a name of ours, so that it can still be compared when the host
 * has deleted it.
 */
export async function rememberImage(stay: Stay, dir: string): Promise<RememberedImage | null> {
  const ours = join(dir, `left-${stay.host.name}-${stay.name}-${process.hrtime.bigint()}`);
  try {
    await link(stay.image, ours);
  } catch {
    // It was all over before anybody looked.
    return null;
  }
  const then = await sumOf(ours);
  return {
    async changed() {
      const now = await sumOf(ours);
      await rm(ours);
      return now !== then;
    },
  };
}

async function sumOf(path: string): Promise<string> {
  return createHash('sha1')
    .update(await readFile(path))
    .digest('hex');
}

/** Adds to a fault of the model what each host has in that block. */
export async function whoHasIt(error: Error, stays: readonly Stay[]): Promise<Error> {
  const at = /^byte (\d+) /.exec(error.message)?.[1];
  if (at === undefined) return error;
  const block = Math.floor(Number(at) / BLOCK);
  const lines: string[] = [];
  for (const stay of stays) {
    const file = await open(stay.image, 'r').catch(() => null);
    const where = `${stay.name} at ${stay.host.name} (${recordOf(stay)?.state ?? 'no record'})`;
    if (file === null) {
      lines.push(`${where}: no image`);
      continue;
    }
    const bytes = Buffer.alloc(BLOCK);
    await file.read(bytes, 0, BLOCK, block * BLOCK);
    await file.close();
    const sum = createHash('sha1').update(bytes).digest('hex').slice(0, 12);
    lines.push(
      `${where}: byte ${at} is ${bytes[Number(at) % BLOCK]}, block ${block} is ${bytes.every((byte) => byte === 0) ? 'zeros' : sum}`,
    );
  }
  return new Error(`WRONG BYTE: ${error.message}\n    ${lines.join('\n    ')}`);
}
