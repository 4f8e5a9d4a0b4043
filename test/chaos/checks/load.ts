/**
 * Clients of one export that read, write, trim, zero and flush, several requests at a time, on several
 * connections; every answer is held against the model. A connection that breaks is made again, as QEMU does;
 * what was under way then may or may not have happened.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { OriginConnection } from '../../../src/client/connection.ts';
import { Command, CommandFlag } from '../../../src/nbd/constants.ts';
import type { ByteModel } from '../../lab/model/byte-model.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { Random } from '../../lab/model/random.ts';

/** A request that is older than this hangs: nothing stays broken for so long. */
const HANG_MS = 50_000;
const CONNECT_AGAIN_MS = 20;
/** A guest does not leave its disk because it is slow. */
const PATIENCE = 100;
const BLOCK = 4096;
/** Written over and over, as a journal is. */
const HOT = 256 * 1024;

export interface Place {
  socket: string;
  name: string;
}

export interface LoadOptions {
  model: ByteModel;
  seed: number;
  connections: number;
  /** Requests under way on each connection. */
  depth: number;
  mix: 'guest' | 'reads' | 'writes';
  /** Milliseconds that a task rests between two requests, at most. */
  rest: number;
  /** May the connection break now? */
  mayBreak: () => boolean;
  /** The answer to a change that the rules allow to refuse; the client tries again. */
  mayRefuse?: (errno: number) => boolean;
  /** Where the next read may be tried first; null: anywhere. */
  where?: () => Range | null;
  /** A change was acknowledged that was asked for at this time (performance.now()). */
  onChanged?: (asked: number) => void;
}

/** Bytes of the disk. */
export interface Range {
  from: number;
  length: number;
}

/** What became of a request: an errno, or the connection broke. */
type Outcome = number | 'lost';

interface Line {
  connection: OriginConnection | null;
  connecting: Promise<boolean> | null;
  waiting: Set<(outcome: Outcome) => void>;
}

export class Load {
  answered = 0;
  refused = 0;
  readonly #place: Place;
  readonly #options: LoadOptions;
  readonly #lines: Line[];
  readonly #tasks: Promise<void>[] = [];
  readonly #underWay = new Map<object, { what: string; since: number }>();
  readonly #changing = new Set<Range>();
  readonly #watchdog: NodeJS.Timeout;
  #stopped = false;
  #fail: (error: Error) => void = () => undefined;
  /** Rejects with the first fault; never resolves. */
  readonly failed: Promise<never>;

  constructor(place: Place, options: LoadOptions) {
    this.#place = place;
    this.#options = options;
    this.failed = new Promise((_, reject) => (this.#fail = reject));
    this.failed.catch(() => undefined);
    this.#lines = Array.from({ length: options.connections }, () => ({
      connection: null,
      connecting: null,
      waiting: new Set(),
    }));
    const random = new Random(options.seed);
    for (const line of this.#lines) {
      for (let count = 0; count < options.depth; count++)
        this.#tasks.push(
          this.#task(line, new Random(random.next())).catch((error: unknown) => this.#fail(error as Error)),
        );
    }
    this.#watchdog = setInterval(() => this.#look(), 1000);
  }

  /** The change that has waited longest for its answer. */
  get oldestChange(): Range | null {
    const [oldest = null] = this.#changing;
    return oldest;
  }

  /** Lets every request be answered, then flushes (a guest does), and leaves in an orderly way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.race([Promise.all(this.#tasks), this.failed]);
    if (this.#options.mix === 'guest') await Promise.race([this.#flushAtTheEnd(), this.failed]);
    this.destroy('disconnect');
  }

  /** At once, whatever is under way. */
  destroy(how: 'disconnect' | 'destroy' = 'destroy'): void {
    this.#stopped = true;
    clearInterval(this.#watchdog);
    for (const { connection } of this.#lines) {
      if (connection === null) continue;
      connection.onClosed = null;
      connection[how]();
    }
  }

  async #flushAtTheEnd(): Promise<void> {
    const line = this.#lines[0]!;
    while (true) {
      const outcome = await this.#request(line, 'the last flush', (connection, done) =>
        connection.command(Command.FLUSH, 0, 0, 0, done),
      );
      if (outcome === 0) return;
      if (outcome !== 'lost') throw new Error(`the last flush failed with error ${outcome}`);
    }
  }

  async #task(line: Line, random: Random): Promise<void> {
    const { mix, rest } = this.#options;
    while (!this.#stopped) {
      const dice = mix === 'reads' ? 0 : mix === 'writes' ? 60 : random.below(100);
      if (dice < 48) await this.#read(line, random);
      else if (dice < 84) await this.#write(line, random);
      else if (dice < 90) await this.#clear(line, random, 'trim');
      else if (dice < 96) await this.#clear(line, random, 'zero');
      else await this.#flush(line);
      await sleep(random.below(rest + 1));
    }
  }

  async #read(line: Line, random: Random): Promise<void> {
    const there = this.#options.where?.() ?? null;
    const { from, length } =
      there !== null && random.chance(2)
        ? there
        : this.#somewhere(random, random.chance(12) ? 512 * 1024 : 48 * 1024);
    const connection = await this.#connected(line);
    if (connection === null) return;
    const into = Buffer.alloc(length, 0xee);
    const reading = this.#options.model.read(from, length);
    const outcome = await this.#ask(line, connection, `read of ${length} bytes at ${from}`, (done) =>
      connection.read(into, from, done),
    );
    reading.done(outcome === 0 ? into : null);
    if (typeof outcome === 'number' && outcome !== 0)
      throw new Error(`a read of ${length} bytes at ${from} failed with error ${outcome}`);
  }

  async #write(line: Line, random: Random): Promise<void> {
    const { from, length } = this.#somewhere(random, 48 * 1024);
    const data = bytesOf(random.next(), length);
    const fua = random.chance(5) ? CommandFlag.FUA : 0;
    await this.#change(line, 'write', from, data, (connection, done) =>
      connection.write(data, from, fua, done),
    );
  }

  async #clear(line: Line, random: Random, what: 'trim' | 'zero'): Promise<void> {
    const { from, length } = this.#somewhere(random, 128 * 1024);
    const fua = random.chance(5) ? CommandFlag.FUA : 0;
    const [type, flags] =
      what === 'trim'
        ? [Command.TRIM, fua]
        : [Command.WRITE_ZEROES, fua | (random.chance(2) ? CommandFlag.NO_HOLE : 0)];
    await this.#change(line, what, from, Buffer.alloc(length), (connection, done) =>
      connection.command(type, from, length, flags, done),
    );
  }

  async #flush(line: Line): Promise<void> {
    const outcome = await this.#request(line, 'flush', (connection, done) =>
      connection.command(Command.FLUSH, 0, 0, 0, done),
    );
    if (typeof outcome === 'number' && outcome !== 0 && this.#options.mayRefuse?.(outcome) !== true)
      throw new Error(`a flush failed with error ${outcome}`);
  }

  async #change(
    line: Line,
    what: string,
    from: number,
    data: Buffer,
    send: (connection: OriginConnection, done: { complete(errno: number): void }) => void,
  ): Promise<void> {
    const { model, mayRefuse, onChanged } = this.#options;
    const connection = await this.#connected(line);
    if (connection === null) return;
    const asked = performance.now();
    const changing = model.change(`${what} by ${this.#place.name}`, from, data);
    const named = `${what} of ${data.length} bytes at ${from}`;
    const range = { from, length: data.length };
    this.#changing.add(range);
    const outcome = await this.#ask(line, connection, named, (done) => send(connection, done));
    this.#changing.delete(range);
    if (outcome === 0) {
      changing.done('certain');
      onChanged?.(asked);
    } else if (outcome === 'lost') changing.done('possible');
    else if (mayRefuse?.(outcome) === true) {
      changing.done('refused');
      this.refused += 1;
      await sleep(5);
    } else {
      changing.done('possible');
      throw new Error(`a ${named} failed with error ${outcome}`);
    }
  }

  /** Whole bytes, sectors or blocks; a third of it where it is hot. */
  #somewhere(random: Random, longest: number): Range {
    const { size } = this.#options.model;
    const unit = random.pick([1, 512, 512, BLOCK, BLOCK, BLOCK]);
    const room = random.chance(3) ? Math.min(HOT, size) : size;
    const length = Math.min(Math.ceil((1 + random.below(longest)) / unit) * unit, room);
    const from = Math.floor(random.below(room - length + 1) / unit) * unit;
    return { from, length };
  }

  async #request(
    line: Line,
    what: string,
    send: (connection: OriginConnection, done: { complete(errno: number): void }) => void,
  ): Promise<Outcome> {
    const connection = await this.#connected(line);
    if (connection === null) return 'lost';
    return await this.#ask(line, connection, what, (done) => send(connection, done));
  }

  async #ask(
    line: Line,
    connection: OriginConnection,
    what: string,
    send: (done: { complete(errno: number): void }) => void,
  ): Promise<Outcome> {
    const key = {};
    this.#underWay.set(key, { what, since: performance.now() });
    const outcome = await new Promise<Outcome>((resolve) => {
      line.waiting.add(resolve);
      send({
        complete: (errno) => {
          line.waiting.delete(resolve);
          resolve(errno);
        },
      });
      // It may have broken while nobody looked.
      if (line.connection !== connection && line.waiting.delete(resolve)) resolve('lost');
    });
    this.#underWay.delete(key);
    if (outcome !== 'lost') this.answered += 1;
    return outcome;
  }

  /**
   * @returns null when the load has been stopped meanwhile, and it is not the guest, which wants its answers.
   */
  async #connected(line: Line): Promise<OriginConnection | null> {
    while (line.connection === null) {
      line.connecting ??= this.#connect(line).finally(() => (line.connecting = null));
      if (!(await line.connecting)) return null;
    }
    return line.connection;
  }

  async #connect(line: Line): Promise<boolean> {
    const { socket, name } = this.#place;
    const isGuest = this.#options.mix === 'guest';
    const key = {};
    if (isGuest) this.#underWay.set(key, { what: 'connecting', since: performance.now() });
    try {
      while (!this.#stopped || isGuest) {
        try {
          const made = await OriginConnection.connect({
            address: { kind: 'unix', path: socket, name },
            patience: PATIENCE,
          });
          line.connection = made;
          made.onClosed = (reason) => this.#broke(line, made, reason);
          return true;
        } catch {
          await sleep(CONNECT_AGAIN_MS);
        }
      }
      return false;
    } finally {
      this.#underWay.delete(key);
    }
  }

  #broke(line: Line, connection: OriginConnection, reason: Error): void {
    if (line.connection !== connection) return;
    if (!this.#options.mayBreak() && !this.#stopped)
      this.#fail(
        new Error(`the connection to ${this.#place.socket} broke, and nobody killed it: ${reason.message}`),
      );
    this.#break(line);
  }

  #break(line: Line): void {
    if (line.connection !== null) line.connection.onClosed = null;
    line.connection?.destroy();
    line.connection = null;
    for (const resolve of [...line.waiting]) {
      line.waiting.delete(resolve);
      resolve('lost');
    }
  }

  #look(): void {
    for (const { what, since } of this.#underWay.values()) {
      if (performance.now() - since < HANG_MS) continue;
      this.#fail(
        new Error(`hang: ${what} on ${this.#place.socket} has had no answer for ${HANG_MS / 1000} s`),
      );
      return;
    }
  }
}
