/**
 * A wide area network of packets: two sites, each a network namespace, and a line between them with a rate, a
 * queue that drops what does not fit, delay, jitter and loss (packet-line.c). Between them real TCP runs, with
 * all that a relay of bytes (../wan.ts) does not know: slow start, loss, retransmission, congestion control.
 *
 * It is our own and not netem, because many kernels lack netem and all have tun: so a figure or a test means
 * the same everywhere.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { isInstalled } from '../../installed.ts';
import { run } from '../../processes.ts';

const SOURCE = join(import.meta.dirname, 'packet-line.c');
const PROGRAMS = join(import.meta.dirname, '../../../../.cache/packet-line');
/** A queue of less than that drops what a host sends at once. */
const LEAST_QUEUE = 256 * 1024;
const MTU = 1500;

/** Either end of the line. Disks go from `a` to `b`. */
export type Site = 'a' | 'b';
/** `ab`: what `a` sends. */
export type Direction = 'ab' | 'ba' | 'both';

export const addressOf: Readonly<Record<Site, string>> = { a: '10.77.0.1', b: '10.77.0.2' };

export interface LineSettings {
  /** Mbit/s of whole packets, 0: no limit. */
  rate: number;
  /** Milliseconds, one way. */
  delay: number;
  /** Milliseconds that are added to the delay at random, at most. */
  jitter: number;
  /** Percent of the packets. */
  loss: number;
  /** Bytes that may wait for the line. */
  queue: number;
  /** 1: nothing passes. */
  blackout: 0 | 1;
}

export interface Carried {
  /** Of whole packets, that arrived. */
  bytes: number;
  packets: number;
  /** Packets that found the queue full, or met a blackout. */
  dropped: number;
  /** Packets that were lost on purpose. */
  lost: number;
  /** Bytes that wait for the line now. */
  queued: number;
}

export interface PacketWanOptions {
  rttMs: number;
  /** Of each direction. */
  rateMbit: number;
  /** Default: rate x round trip, at least 256 KiB. */
  queueBytes?: number;
  /**
   * What TCP does where a program chooses nothing; default: what the kernel does. One that is not in the
   * host's net.ipv4.tcp_allowed_congestion_control is refused.
   */
  congestion?: string | undefined;
}

/** What a machine lacks for it, in one line; null: nothing. */
export function whyNoPackets(): string | null {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  if (!existsSync('/dev/net/tun')) return '/dev/net/tun is missing: modprobe tun';
  const missing = ['cc', 'nsenter'].find((program) => !isInstalled(program));
  return missing === undefined ? null : `${missing} is not installed`;
}

export class PacketWan {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly #spaces: Readonly<Record<Site, string>>;
  /** One command at a time: answers carry no name. */
  #previous: Promise<unknown> = Promise.resolve();

  private constructor(
    child: ChildProcessByStdio<Writable, Readable, null>,
    lines: AsyncIterator<string>,
    spaces: Record<Site, string>,
  ) {
    this.#child = child;
    this.#lines = lines;
    this.#spaces = spaces;
  }

  /** @throws Error where the machine cannot have one (`whyNoPackets`). */
  static async start(options: PacketWanOptions): Promise<PacketWan> {
    const { rttMs, rateMbit, queueBytes, congestion } = options;
    const child = spawn(await built(), [String(MTU)], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const [word, a, b] = String((await lines.next()).value).split(' ');
    if (word !== 'ready') throw new Error('packet-line does not start');
    const space = (fd: string): string => `/proc/${child.pid}/fd/${fd}`;
    const wan = new PacketWan(child, lines, { a: space(a!), b: space(b!) });
    const choose = `echo ${congestion} > /proc/sys/net/ipv4/tcp_congestion_control`;
    for (const site of congestion === undefined ? [] : (['a', 'b'] as const))
      await run(wan.at(site, ['sh', '-c', choose]));
    await wan.set('both', {
      rate: rateMbit,
      delay: rttMs / 2,
      queue: queueBytes ?? Math.max((rateMbit * 1e6 * rttMs) / 8000, LEAST_QUEUE),
    });
    return wan;
  }

  /** The command that runs another one at a site. */
  at(site: Site, command: readonly string[]): string[] {
    return ['nsenter', `--net=${this.#spaces[site]}`, '--', ...command];
  }

  /** Changes the line, from the next packet on. */
  async set(direction: Direction, settings: Partial<LineSettings>): Promise<void> {
    for (const [what, value] of Object.entries(settings))
      await this.#command(`${what} ${direction} ${value}`);
  }

  stats(): Promise<Record<'ab' | 'ba', Carried>> {
    return this.#command('stats') as Promise<Record<'ab' | 'ba', Carried>>;
  }

  /** The line is gone; so are the sites, once the processes there have ended. */
  async stop(): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.stdin.end();
    if (this.#child.exitCode === null && this.#child.signalCode === null) await gone;
  }

  #command(text: string): Promise<unknown> {
    const answer = this.#previous.then(async () => {
      this.#child.stdin.write(`${text}\n`);
      const line = await this.#lines.next();
      if (line.done === true) throw new Error('packet-line has ended');
      const said = JSON.parse(line.value) as { error?: string };
      if (said.error !== undefined) throw new Error(`packet-line: '${text}': ${said.error}`);
      return said;
    });
    this.#previous = answer.catch(() => undefined);
    return answer;
  }
}

/** Compiles packet-line.c, once a version. @returns the program */
async function built(): Promise<string> {
  const version = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 12);
  const program = join(PROGRAMS, version);
  if (existsSync(program)) return program;
  await mkdir(PROGRAMS, { recursive: true });
  await run(['cc', '-O2', '-Wall', '-Wextra', '-o', `${program}.${process.pid}`, SOURCE]);
  await rename(`${program}.${process.pid}`, program);
  return program;
}
