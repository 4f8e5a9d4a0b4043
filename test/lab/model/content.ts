/** Bytes that follow from a number, quickly made. */

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
  let state = seed >>> 0;
  const below = (end: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * end);
  };
  for (let holes = 12; holes > 0; holes--) {
    const from = below(size);
    content.fill(0, from, Math.min(size, from + below(size / 12)));
  }
  return content;
}
