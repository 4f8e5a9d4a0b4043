/** The guest's disk as the guest sees it: NBD over a unix socket, each request a promise. */

import { OriginConnection } from '../src/client/connection.ts';
import { Command } from '../src/nbd/constants.ts';
import type { Completion } from '../src/store/completion.ts';

export class GuestDisk {
  readonly #connection: OriginConnection;
  readonly #pending = new Set<(error: Error) => void>();

  private constructor(connection: OriginConnection) {
    this.#connection = connection;
    connection.onClosed = (reason) => {
      for (const reject of this.#pending) reject(new Error(`the guest's disk is gone: ${reason.message}`));
    };
  }

  static async open(socket: string, name: string): Promise<GuestDisk> {
    return new GuestDisk(await OriginConnection.connect({ address: { kind: 'unix', path: socket, name } }));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length);
    await this.#done(`read of ${length} bytes at ${offset}`, (done) =>
      this.#connection.read(bytes, offset, done),
    );
    return bytes;
  }

  write(data: Buffer, offset: number): Promise<void> {
    return this.#done(`write of ${data.length} bytes at ${offset}`, (done) =>
      this.#connection.write(data, offset, 0, done),
    );
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#done(`zeroing of ${length} bytes at ${offset}`, (done) =>
      this.#connection.command(Command.WRITE_ZEROES, offset, length, 0, done),
    );
  }

  flush(): Promise<void> {
    return this.#done('flush', (done) => this.#connection.command(Command.FLUSH, 0, 0, 0, done));
  }

  /** The orderly end, as QEMU's when its guest has moved away. */
  close(): void {
    this.#connection.onClosed = null;
    this.#connection.disconnect();
  }

  #done(what: string, begin: (done: Completion) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.add(reject);
      begin({
        complete: (errno) => {
          this.#pending.delete(reject);
          if (errno === 0) resolve();
          else reject(new Error(`the guest's ${what} failed with error ${errno}`));
        },
      });
    });
  }
}
