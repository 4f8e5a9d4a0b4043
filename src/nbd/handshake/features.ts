/**
 * The private option by which two xNBD ends agree what else they understand (docs/protocol.md): a set of bits
 * that a proxy names once it is attached, answered with those of them that the origin knows, too. An origin
 * that does not know the option has none of them.
 */

export const Feature = {
  /**
   * READs that no client waits for carry CommandFlag.XNBD_BACKGROUND, and are answered when nothing else is
   * to be sent.
   */
  BACKGROUND: 1 << 0,
} as const;

/** All that we know. */
export const FEATURES: number = Feature.BACKGROUND;

const LENGTH = 4;

export function encodeFeatures(features: number): Buffer {
  const data = Buffer.alloc(LENGTH);
  data.writeUInt32BE(features);
  return data;
}

/** @returns those that we know. @throws Error when the bytes are no set of features */
export function decodeFeatures(data: Buffer): number {
  if (data.length !== LENGTH) throw new Error(`a set of features has ${data.length} bytes, not ${LENGTH}`);
  return data.readUInt32BE(0) & FEATURES;
}
