/**
 * An NBD client with promises, for tests: the proxy's own connection to an origin, turned on whatever is
 * tested.
 */

import { OriginConnection } from '../../../src/client/connection.ts';
import { Command, Errno } from '../../../src/nbd/constants.ts';
import { parseNbdUri } from '../../../src/nbd/uri.ts';

export interface Client {
  readonly connection: OriginConnection;
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, data: Buffer): Promise<void>;
  change(kind: 'trim' | 'zero', offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** The orderly end, NBD_CMD_DISC. */
  disconnect(): void;
}

export async function connectClient(uri: string): Promise<Client> {
  const connection = await OriginConnection.connect({ address: parseNbdUri(uri) });
  const lost = new Promise<never>((_, reject) => {
    connection.onClosed = reject;
  });
  lost.catch(() => undefined);
  const settle = (start: (done: { complete(errno: number): void }) => void): Promise<void> =>
    Promise.race([
      lost,
      new Promise<void>((resolve, reject) => {
        start({ complete: (errno) => (errno === 0 ? resolve() : reject(new NbdError(errno))) });
      }),
    ]);
  return {
    connection,
    read: async (offset, length) => {
      const into = Buffer.alloc(length);
      await settle((done) => connection.read(into, offset, done));
      return into;
    },
    write: (offset, data) => settle((done) => connection.write(data, offset, 0, done)),
    change: (kind, offset, length) =>
      settle((done) =>
        connection.command(kind === 'trim' ? Command.TRIM : Command.WRITE_ZEROES, offset, length, 0, done),
      ),
    flush: () => settle((done) => connection.command(Command.FLUSH, 0, 0, 0, done)),
    disconnect: () => connection.disconnect(),
  };
}

/** The server answered with this errno. */
export class NbdError extends Error {
  readonly errno: number;
  constructor(errno: number) {
    const name = Object.entries(Errno).find(([, number]) => number === errno)?.[0];
    super(`NBD error ${name ?? errno}`);
    this.errno = errno;
  }
}
