/*
 * What a block of a lab disk holds, and what an image must hold after a guest has written to it.
 *
 * The content of a block follows from the tag of its disk, its number and a sequence number: 0 as the host made it, growing with
 * every write of the guest. So neither side keeps copies: guest and host compute what they expect. guest/block.c has the same
 * functions in C.
 */
import { open } from 'node:fs/promises';

export const BLOCK_SIZE = 4096;
const HEADER_WORDS = 8;
const WORDS = BLOCK_SIZE / 4;
const MAGIC = Buffer.from('xNBDblk\0');

function mix(x: number): number {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  x ^= x >>> 16;
  return x;
}

/** One round of FNV-1a over a 32-bit word. */
export const fnv = (sum: number, word: number): number => Math.imul(sum ^ word, 0x01000193);
export const FNV_START = 0x811c9dc5;

/** The tag of a disk, 32 bits, from its export name. */
export function diskTag(exportName: string): number {
  return Buffer.from(exportName).reduce((sum, byte) => fnv(sum, byte), FNV_START) >>> 0;
}

/** The 4096 bytes of block `block` of disk `tag` after the write with number `seq`. */
export function blockContent(tag: number, block: number, seq: number): Buffer {
  const content = Buffer.alloc(BLOCK_SIZE);
  const words = new Int32Array(content.buffer, content.byteOffset, WORDS);
  let x = mix(tag ^ mix(block ^ mix(seq)));
  if (x === 0) x = 1;
  let sum = FNV_START;
  for (let i = HEADER_WORDS; i < WORDS; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
    sum = fnv(sum, x);
  }
  MAGIC.copy(content);
  words.set([tag, block, seq, sum], MAGIC.length / 4);
  return content;
}

/** The last quarter of every MiB of a new image is a hole. */
export const isHole = (block: number): boolean => ((block >> 6) & 3) === 3;

const ZEROS = Buffer.alloc(BLOCK_SIZE);
const initialContent = (tag: number, block: number): Buffer =>
  isHole(block) ? ZEROS : blockContent(tag, block, 0);

/** Creates the image of a new disk, `sizeBytes` (a multiple of 4096) long, with real holes. */
export async function createPatternImage(path: string, exportName: string, sizeBytes: number): Promise<void> {
  const tag = diskTag(exportName);
  const file = await open(path, 'wx');
  try {
    await file.truncate(sizeBytes);
    const run: Buffer[] = [];
    for (let block = 0; block <= sizeBytes / BLOCK_SIZE; block++) {
      const inside = block < sizeBytes / BLOCK_SIZE && !isHole(block);
      if (inside) run.push(initialContent(tag, block));
      if (run.length > 0 && (!inside || run.length === 256)) {
        const first = inside ? block + 1 - run.length : block - run.length;
        await file.writev(run.splice(0), first * BLOCK_SIZE);
      }
    }
  } finally {
    await file.close();
  }
}

/** What a guest says it has written to a disk: block number to the sequence number of the last write. */
export type Writes = ReadonlyMap<number, number>;

export type Expectation = {
  exportName: string;
  sizeBytes: number;
  writes: Writes;
  /** A copy of the image before the guest began; without it, the image came from `createPatternImage`. */
  initialImage?: string;
};

/**
 * Compares an image byte by byte with the model: its initial content, and over it the guest's last write of each block.
 * @returns one line for each of the first ten blocks that differ; empty when the image is as it must be
 */
export async function differences(image: string, expectation: Expectation): Promise<string[]> {
  const { exportName, sizeBytes, writes, initialImage } = expectation;
  const tag = diskTag(exportName);
  const file = await open(image, 'r');
  const initial = initialImage === undefined ? undefined : await open(initialImage, 'r');
  try {
    const { size } = await file.stat();
    if (size !== sizeBytes) return [`${image}: ${size} bytes long instead of ${sizeBytes}`];
    const found = Buffer.alloc(BLOCK_SIZE);
    const before = Buffer.alloc(BLOCK_SIZE);
    const different: string[] = [];
    for (let block = 0; block < sizeBytes / BLOCK_SIZE && different.length < 10; block++) {
      await file.read(found, 0, BLOCK_SIZE, block * BLOCK_SIZE);
      const seq = writes.get(block);
      if (seq === undefined && initial) await initial.read(before, 0, BLOCK_SIZE, block * BLOCK_SIZE);
      const wanted =
        seq !== undefined ? blockContent(tag, block, seq) : initial ? before : initialContent(tag, block);
      if (!found.equals(wanted))
        different.push(`${image}: block ${block} ${describe(found)} instead of ${describe(wanted)}`);
    }
    return different;
  } finally {
    await file.close();
    await initial?.close();
  }
}

function describe(content: Buffer): string {
  if (content.equals(ZEROS)) return 'is zeros';
  if (!content.subarray(0, MAGIC.length).equals(MAGIC)) return 'holds other data';
  const [tag, block, seq] = [8, 12, 16].map((offset) => content.readUInt32LE(offset)) as [
    number,
    number,
    number,
  ];
  const whole = content.equals(blockContent(tag, block, seq)) ? '' : ', torn';
  return `holds tag ${tag.toString(16).padStart(8, '0')} block ${block} seq ${seq}${whole}`;
}
