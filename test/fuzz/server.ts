/**
 * The server under fire: handshake, request parser and session on a disk in memory, with a client whose bytes
 * are given.
 */
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { Export } from '../../src/export/export.ts';
import { Session } from '../../src/export/session/session.ts';
import { newRecord } from '../../src/store/records/record.ts';
import { checkServerOutput } from './check-output.ts';
import { MemoryDisk } from './memory-disk.ts';

/** The other end of the session's socket: takes what it is sent, and remembers that it was closed. */
class Wire extends Duplex {
  readonly sent: Buffer[] = [];

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    // The session uses its buffers again.
    this.sent.push(Buffer.from(chunk));
    done();
  }

  destroySoon(): void {
    this.end(() => this.destroy());
  }
}

/**
 * @param pieces what the client sends, cut as it arrives. @returns what the server sent. @throws Error on
 * whatever should not happen.
 */
export async function runServer(pieces: readonly Buffer[]): Promise<Buffer> {
  let turns = 0;
  const record = newRecord('disk', '/nowhere', new MemoryDisk(() => false).size);
  const served = new Export({
    record,
    disk: new MemoryDisk(() => turns++ % 3 === 0),
    readOnly: false,
    lending: {
      persist: (changes) => {
        Object.assign(record, changes);
        return Promise.resolve();
      },
      baseState: () => 'serving',
      canLend: () => null,
      sourceGone: 'disconnect',
      onRetired: () => undefined,
    },
    changed: () => undefined,
  });
  const wire = new Wire();
  const session = new Session(served);
  session.start(wire as unknown as Socket);
  let sentToUs = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length && !wire.destroyed; ) {
      const space = session.space();
      if (space.length === 0) throw new Error('the session gives no room to receive into');
      const count = piece.copy(space, 0, at);
      at += count;
      sentToUs += count;
      // It stops reading a client that asks for too much, and goes on when the answers have left: they leave
      // at once here.
      if (!session.received(count)) for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    }
    if (sentToUs % 5 === 0) await new Promise(setImmediate);
  }
  for (let turn = 0; turn < 4; turn++) await new Promise(setImmediate);
  session.destroy();
  await new Promise(setImmediate);
  const sent = Buffer.concat(wire.sent);
  checkServerOutput(sent);
  return sent;
}
