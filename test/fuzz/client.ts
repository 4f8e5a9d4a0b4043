/**
 * The client under fire: its handshake, then its reply parser and request table, with a server whose bytes
 * are given.
 */

import { RequestTable } from '../../src/client/request-table.ts';
import { ByteDriver } from '../../src/nbd/byte-coroutine.ts';
import {
  clientHandshake,
  HandshakeError,
  type ServerOffer,
} from '../../src/nbd/handshake/client-handshake.ts';
import { parseReplies, ReplyError } from '../../src/nbd/transmission/reply-parser.ts';

/** The reads and questions that are under way once the handshake is done: cookies 1 to 6. */
export const underWay = [
  { offset: 0, length: 4096 },
  { offset: 4096, length: 3000 },
  { offset: 2 ** 40, length: 512 },
  { offset: 8192, length: null },
  { offset: 0, length: null },
  { offset: 0, length: 0 },
] as const;

const lease = '11111111-2222-4333-8444-555555555555';

/**
 * @param pieces what the server sends, cut as it arrives. @returns how many requests were answered. @throws
 * Error on whatever should not happen.
 */
export function runClient(pieces: readonly Buffer[], allowOldstyle: boolean): number {
  let answered = 0;
  const attach = { lease, uuid: null, generation: 0, name: 'disk' };
  let sent = 0;
  const handshake = new ByteDriver(
    clientHandshake({ exportName: 'disk', attach, allowOldstyle }, (bytes) => {
      sent += bytes.length;
    }),
  );
  let replies: ByteDriver<never> | null = null;
  try {
    for (const piece of pieces) {
      // The driver hands out parts of the chunk that it is given; the next one overwrites it, as a socket's
      // buffer would be.
      const chunk = Buffer.from(piece);
      let used = 0;
      if (replies === null) {
        used = handshake.feed(chunk);
        if (handshake.result !== null) replies = transmission(handshake.result.value, () => (answered += 1));
      }
      if (replies !== null) replies.feed(chunk.subarray(used));
      chunk.fill(0xdd);
    }
  } catch (error) {
    if (!(error instanceof HandshakeError) && !(error instanceof ReplyError)) throw error;
  }
  if (sent > 10_000) throw new Error(`the client said ${sent} bytes in its handshake`);
  return answered;
}

function transmission(offer: ServerOffer, answered: () => void): ByteDriver<never> {
  if (!Number.isSafeInteger(offer.size) || offer.size < 0) throw new Error(`the size is ${offer.size}`);
  const table = new RequestTable(offer.allocationContext);
  for (const { offset, length } of underWay) {
    let answers = 0;
    const once = () => {
      answers += 1;
      answered();
      if (answers > 1) throw new Error('a request was answered twice');
    };
    if (length === null) {
      table.add(offset, {
        extentsDone: {
          complete: (errno, extents) => {
            once();
            if (errno === 0 && extents.some((extent) => extent.length <= 0 || extent.flags > 3))
              throw new Error('an extent is empty, or has an unknown flag');
          },
        },
      });
    } else if (length === 0) table.add(offset, { done: { complete: once } });
    else table.add(offset, { into: Buffer.alloc(length), done: { complete: once } });
  }
  return new ByteDriver(parseReplies(offer, table));
}
