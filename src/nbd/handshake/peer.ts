/**
 * The private option by which a gateway says which peer it brings to an export (docs/protocol.md), both
 * directions. It only takes rights away: a connection that is a peer's writes nothing, and its lease is bound
 * to it.
 */

const VERSION = 1;
const MAX_LENGTH = 255;

/** A host on the network, as the gateway knows it. */
export interface Peer {
  /** What its certificate calls it: the common name, else the fingerprint; empty where TLS is off. */
  identity: string;
  /** For the log: address, port and certificate. */
  who: string;
}

export function encodePeer({ identity, who }: Peer): Buffer {
  const version = Buffer.alloc(4);
  version.writeUInt32BE(VERSION);
  return Buffer.concat([version, encodeText(identity), encodeText(who)]);
}

/** @throws Error when the bytes are not of a version that we know, or the texts not fit for one line. */
export function decodePeer(data: Buffer): Peer {
  const version = data.length < 4 ? 0 : data.readUInt32BE(0);
  if (version !== VERSION) throw new Error(`peer version ${version} is not ${VERSION}`);
  const [identity, after] = decodeText(data, 4);
  const [who, end] = decodeText(data, after);
  if (end !== data.length) throw new Error(`peer option of ${data.length} bytes ends at ${end}`);
  return { identity, who };
}

function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text).subarray(0, MAX_LENGTH);
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function decodeText(data: Buffer, at: number): [string, number] {
  const length = data[at] ?? Number.POSITIVE_INFINITY;
  const end = at + 1 + length;
  if (end > data.length) throw new Error(`peer option of ${data.length} bytes has a text of ${length}`);
  const text = data.toString('utf8', at + 1, end);
  if (/\p{Cc}/u.test(text)) throw new Error('peer option has a text with control characters');
  return [text, end];
}
