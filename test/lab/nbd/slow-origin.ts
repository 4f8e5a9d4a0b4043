/**
 * An origin in this process: a disk in memory behind a real export (sockets, lender, record), whose answers
 * come late and in any order, or not before they are let go.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Disk, ZeroHow } from '../../../src/export/disk.ts';
import { type RunningExport, serve } from '../../../src/export/serve.ts';
import { AllocationFlag } from '../../../src/nbd/constants.ts';
import type { Completion, ExtentsCompletion } from '../../../src/store/completion.ts';
import { newRecord } from '../../../src/store/records/record.ts';
import { RecordKeeper } from '../../../src/store/records/record-keeper.ts';

export interface SlowOriginOptions {
  directory: string;
  content: Buffer;
  /** Milliseconds that the next answer takes. Default: none. */
  delay?: () => number;
  /** Whether the disk tells its holes. Default: yes. */
  tellsHoles?: boolean;
}

/** A read that has been asked for. */
export interface SeenRead {
  offset: number;
  length: number;
}

export class SlowDisk implements Disk {
  readonly size: number;
  readonly content: Buffer;
  /** Every read so far, in order. */
  readonly reads: SeenRead[] = [];
  /** Set: the next reads fail with it. */
  failWith: ((offset: number, length: number) => number) | null = null;
  readonly #delay: () => number;
  readonly #tellsHoles: boolean;
  #held: (() => void)[] | null = null;
  #holdsAll = true;

  constructor(options: SlowOriginOptions) {
    this.content = options.content;
    this.size = options.content.length;
    this.#delay = options.delay ?? (() => 0);
    this.#tellsHoles = options.tellsHoles ?? true;
  }

  /** From now on no answer goes out, or none to a read. */
  hold(what: 'all' | 'reads' = 'all'): void {
    this.#held ??= [];
    this.#holdsAll = what === 'all';
  }

  /** Answers what was held back, in the order that `shuffle` makes of it. */
  release(shuffle: (answers: (() => void)[]) => void = () => undefined): void {
    const answers = this.#held ?? [];
    this.#held = null;
    shuffle(answers);
    for (const answer of answers) answer();
  }

  /** How many answers are held back. */
  get held(): number {
    return this.#held?.length ?? 0;
  }

  read(into: Buffer, offset: number, done: Completion): void {
    this.reads.push({ offset, length: into.length });
    this.#later(() => {
      const errno = this.failWith?.(offset, into.length) ?? 0;
      if (errno === 0) this.content.copy(into, 0, offset, offset + into.length);
      done.complete(errno);
    }, true);
  }

  write(data: Buffer, offset: number, _fua: boolean, done: Completion): void {
    const owned = Buffer.from(data);
    this.#later(() => {
      owned.copy(this.content, offset);
      done.complete(0);
    });
  }

  flush(done: Completion): void {
    this.#later(() => done.complete(0));
  }

  trim(offset: number, length: number, _fua: boolean, done: Completion): void {
    this.#later(() => {
      this.content.fill(0, offset, offset + length);
      done.complete(0);
    });
  }

  zero(offset: number, length: number, how: ZeroHow, done: Completion): void {
    this.trim(offset, length, how.fua, done);
  }

  cache(_offset: number, _length: number, done: Completion): void {
    this.#later(() => done.complete(0));
  }

  /** Runs of 512-byte sectors: zeros are holes. */
  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void {
    this.#later(() => {
      if (!this.#tellsHoles) {
        done.complete(0, [{ length, flags: 0 }]);
        return;
      }
      const extents: { length: number; flags: number }[] = [];
      const end = offset + length;
      for (let at = offset; at < end; ) {
        const next = Math.min(end, (Math.floor(at / 512) + 1) * 512);
        const flags = isZero(this.content.subarray(at, next)) ? AllocationFlag.HOLE | AllocationFlag.ZERO : 0;
        const last = extents.at(-1);
        if (last?.flags === flags) last.length += next - at;
        else extents.push({ length: next - at, flags });
        at = next;
      }
      done.complete(0, one ? extents.slice(0, 1) : extents);
    });
  }

  #later(answer: () => void, isRead = false): void {
    const go = () => {
      if (this.#held !== null && (isRead || this.#holdsAll)) this.#held.push(answer);
      else answer();
    };
    const delay = this.#delay();
    if (delay <= 0) setImmediate(go);
    else setTimeout(go, delay);
  }
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

export interface SlowOrigin {
  readonly disk: SlowDisk;
  readonly uri: string;
  readonly keeper: RecordKeeper;
  readonly running: RunningExport;
  /** Ends it and starts it again on the same socket. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export async function startSlowOrigin(options: SlowOriginOptions): Promise<SlowOrigin> {
  const disk = new SlowDisk(options);
  const name = 'disk';
  const socket = join(options.directory, `o-${randomUUID().slice(0, 8)}`);
  const stateDir = join(options.directory, 'origin-state');
  const keeper = new RecordKeeper(stateDir, newRecord(name, join(options.directory, 'none'), disk.size));
  await keeper.update({});
  const start = () =>
    serve(
      { socket, ctl: `${socket}.ctl`, readOnly: false, sourceGone: 'disconnect' },
      {
        keeper,
        disk,
        baseState: () => 'serving',
        canLend: () => null,
        onRetired: () => undefined,
        describe: () => ({}),
        takeover: () => Promise.resolve(),
        abandon: () => Promise.resolve(),
        handOver: {
          refuses: () => 'it is a test',
          close: () => Promise.resolve({ state: null, descriptors: [] }),
        },
        close: () => Promise.resolve(),
      },
    );
  let running = await start();
  return {
    disk,
    keeper,
    uri: `nbd+unix:///${name}?socket=${socket}`,
    get running() {
      return running;
    },
    restart: async () => {
      await running.stop();
      running = await start();
    },
    stop: async () => {
      disk.release();
      await running.stop();
    },
  };
}
