/**
 * Whether an image is what the guest's disk must be, block by block, where the guest has booted more than once.
 *
 * What it wrote since its last boot is known to the number (`exactly`). Of what it wrote before, a report is known, and it went on
 * writing after that (`atLeast`): a block holds a whole write of the guest that is no older than the report, or, where there was
 * none, what the disk held at the beginning.
 */
import { open } from 'node:fs/promises';
import { BLOCK_SIZE, blockContent, diskTag, isHole, type Writes } from '../../test/lab/libvirt/pattern.ts';

/** Of a block of the guest: where its sequence number is. */
const SEQ_OFFSET = 16;

/** @returns a line for each of the first ten blocks that are wrong */
export async function wrongBlocks(
  image: string,
  disk: { exportName: string; sizeBytes: number; exactly: Writes; atLeast?: Writes },
): Promise<string[]> {
  const { exportName, sizeBytes, exactly, atLeast = new Map<number, number>() } = disk;
  const tag = diskTag(exportName);
  const file = await open(image, 'r');
  try {
    const { size } = await file.stat();
    if (size !== sizeBytes) return [`${image} has ${size} bytes instead of ${sizeBytes}`];
    const wrong: string[] = [];
    const found = Buffer.alloc(BLOCK_SIZE);
    for (let block = 0; block < sizeBytes / BLOCK_SIZE && wrong.length < 10; block++) {
      await file.read(found, 0, BLOCK_SIZE, block * BLOCK_SIZE);
      const seq = found.readUInt32LE(SEQ_OFFSET);
      const isBlank = isHole(block) && found.every((byte) => byte === 0);
      const isWhole = isBlank || found.equals(blockContent(tag, block, seq));
      const [told, least] = [exactly.get(block), atLeast.get(block) ?? 0];
      if (!isWhole || (isBlank ? (told ?? least) > 0 : told !== undefined ? seq !== told : seq < least))
        wrong.push(
          `block ${block} holds ${isBlank ? 'nothing' : `write ${seq}${isWhole ? '' : ', not whole'}`}, ` +
            `not write ${told ?? `${least} or a later one`}`,
        );
    }
    return wrong;
  } finally {
    await file.close();
  }
}
