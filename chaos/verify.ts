/** Every block of a disk against the model; and for a byte that is wrong, who has what there. */
import { createHash } from 'node:crypto';
import { open, readFile, stat } from 'node:fs/promises';
import type { ByteModel } from '../test/relocation/support/byte-model.ts';
import { connectClient } from '../test/support/client.ts';
import { recordOf, type Stay } from './stay.ts';

const BLOCK = 4096;
const STEP = 1024 * 1024;

/** Nobody writes meanwhile: the image, and what the export answers, must be what the guest wrote. @throws Error naming the byte */
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

export async function imageSum(image: string): Promise<string> {
  return createHash('sha1')
    .update(await readFile(image))
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
