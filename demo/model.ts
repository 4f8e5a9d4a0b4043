/**
 * What every byte of the guest's disk must be: the image as it was in the beginning, and on it what the guest
 * wrote, sector by sector. What it wrote follows from the number of the sector and a version that grows with
 * each write, so the model keeps one number a sector, and a block that is old, misplaced or torn cannot pass
 * for the right one.
 */
import { readSync } from 'node:fs';

export const SECTOR = 512;
const BLOCK = 4096;
const STEP = 1024 * 1024;

const ORIGINAL = 0;
const ZEROS = 0xffffffff;

export class DiskModel {
  readonly size: number;
  readonly #original: number;
  readonly #versions: Uint32Array;
  #version = 0;

  /** @param original descriptor of the image as it was; it stays open. @param size bytes. */
  constructor(original: number, size: number, versions?: Uint32Array) {
    this.#original = original;
    this.size = size;
    this.#versions = versions ?? new Uint32Array(Math.ceil(size / SECTOR));
  }

  /** The disk as it must be now, whatever the guest does later. */
  snapshot(): DiskModel {
    return new DiskModel(this.#original, this.size, this.#versions.slice());
  }

  /** The guest writes: @returns what. Offset and length are whole sectors. */
  write(offset: number, length: number): Buffer {
    this.#version += 1;
    this.#versions.fill(this.#version, offset / SECTOR, (offset + length) / SECTOR);
    return this.expected(offset, length);
  }

  /** The guest writes zeros, or trims. */
  zero(offset: number, length: number): void {
    this.#versions.fill(ZEROS, offset / SECTOR, (offset + length) / SECTOR);
  }

  expected(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    const first = offset / SECTOR;
    const versions = this.#versions.subarray(first, first + length / SECTOR);
    if (versions.includes(ORIGINAL)) readSync(this.#original, bytes, 0, length, offset);
    versions.forEach((version, index) => {
      if (version === ORIGINAL) return;
      const at = index * SECTOR;
      if (version === ZEROS) bytes.fill(0, at, at + SECTOR);
      else bytes.fill(pattern(first + index, version), at, at + SECTOR);
    });
    return bytes;
  }

  /** The blocks of 4 KiB that are nothing but zeros now, by number. */
  zeroBlocks(): Set<number> {
    const zeros = new Set<number>();
    const none = Buffer.alloc(STEP);
    this.#eachStep((offset, expected) => {
      for (let at = 0; at < expected.length; at += BLOCK) {
        const end = Math.min(at + BLOCK, expected.length);
        if (expected.subarray(at, end).equals(none.subarray(at, end))) zeros.add((offset + at) / BLOCK);
      }
    });
    return zeros;
  }

  /** Compares an image with the model. @returns the 4 KiB blocks that differ, by number. */
  differences(image: number): number[] {
    const different: number[] = [];
    const bytes = Buffer.alloc(STEP);
    this.#eachStep((offset, expected) => {
      const { length } = expected;
      const read = readSync(image, bytes, 0, length, offset);
      if (read === length && bytes.subarray(0, length).equals(expected)) return;
      for (let at = 0; at < length; at += BLOCK) {
        const end = Math.min(at + BLOCK, length);
        if (!bytes.subarray(at, end).equals(expected.subarray(at, end)))
          different.push((offset + at) / BLOCK);
      }
    });
    return different;
  }

  #eachStep(visit: (offset: number, expected: Buffer) => void): void {
    for (let offset = 0; offset < this.size; offset += STEP) {
      visit(offset, this.expected(offset, Math.min(STEP, this.size - offset)));
    }
  }
}

function pattern(sector: number, version: number): Buffer {
  const bytes = Buffer.allocUnsafe(16);
  bytes.writeUInt32BE(sector, 0);
  bytes.writeUInt32BE(version, 4);
  bytes.writeUInt32BE(Math.imul(sector ^ (version << 7), 0x9e3779b1) >>> 0, 8);
  bytes.writeUInt32BE(~version >>> 0, 12);
  return bytes;
}
