/** Bytes that follow from a number, quickly made. */
import { Random } from './random.ts';

/** Numbers of 32 bits: no two calls with different seeds have much in common. */
export function bytesOf(seed: number, length: number): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) | 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  return Buffer.from(words.buffer, 0, length);
}

/** A disk of data, and of holes (a third of it) that begin and end anywhere. */
export function diskContent(seed: number, size: number): Buffer {
  const content = bytesOf(seed, size);
  const random = new Random(seed);
  for (let holes = 12; holes > 0; holes--) {
    const from = random.below(size);
    content.fill(0, from, Math.min(size, from + random.below(size / 12)));
  }
  return content;
}
