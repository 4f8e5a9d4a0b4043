/**
 * What the disks of a host that fetch from the same place tell each other of the path, so that all together
 * fill it once, and each has its share (path-window.ts).
 *
 * They are processes that know nothing of each other and may die at any time, with a daemon or without. So
 * nobody is in charge: each writes a file of its own into a directory that is the path's, a round at a time,
 * and reads those of the others. A file that was not written for STALE_MS counts no more, and is removed by
 * whoever finds it. Where no such file can be had a disk is alone, and steers by what it sees itself.
 *
 *     RUN/paths/HASH/PID   version, when written (CLOCK_MONOTONIC, ms), base (ms), window (bytes), weight
 */
import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readdirSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import type { PathPeers, PathState } from './path-window.ts';

const VERSION = 1;
const LENGTH = 40;
const STALE_MS = 5000;
/** Files beyond these are not looked at. */
const MOST_PEERS = 256;

export class PathShare {
  readonly #directory: string;
  readonly #name: string;
  readonly #clock: () => number;
  #fd: number | null = null;
  readonly #mine = Buffer.alloc(LENGTH);
  readonly #theirs = Buffer.alloc(LENGTH);

  /**
   * @param run a directory that the disks of the host share
   * @param path names the path: where they fetch from
   * @param name of this process in it
   * @param clock of all processes of the host, ms
   */
  constructor(run: string, path: string, name = String(process.pid), clock: () => number = monotonic) {
    const hash = createHash('sha256').update(path).digest('hex').slice(0, 16);
    this.#directory = join(run, 'paths', hash);
    this.#name = name;
    this.#clock = clock;
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      this.#fd = openSync(join(this.#directory, name), 'w', 0o600);
    } catch (error) {
      log.debug(`the path is not shared with the other disks: ${(error as Error).message}`);
    }
  }

  /** Tells the others of this disk, and hears of them. */
  readonly exchange = (mine: PathState): PathPeers => {
    const peers = { base: Number.POSITIVE_INFINITY, window: 0, weight: 0 };
    if (this.#fd === null) return peers;
    try {
      this.#write(this.#fd, mine);
      for (const name of readdirSync(this.#directory).slice(0, MOST_PEERS)) {
        const state = name === this.#name ? null : this.#read(name);
        if (state === null) continue;
        peers.base = Math.min(peers.base, state.base);
        if (state.weight === 0) continue;
        peers.window += state.window;
        peers.weight += state.weight;
      }
    } catch (error) {
      log.debug(`the path is not shared any more: ${(error as Error).message}`);
      this.close();
    }
    return peers;
  };

  /** This disk is on the path no more. */
  close(): void {
    if (this.#fd === null) return;
    closeSync(this.#fd);
    this.#fd = null;
    rmSync(join(this.#directory, this.#name), { force: true });
  }

  #write(fd: number, { base, window, weight }: PathState): void {
    this.#mine.writeUInt32LE(VERSION, 0);
    for (const [index, value] of [this.#clock(), base, window, weight].entries())
      this.#mine.writeDoubleLE(value, 8 + 8 * index);
    writeSync(fd, this.#mine, 0, LENGTH, 0);
  }

  /** @returns null when there is nothing there that counts */
  #read(name: string): PathState | null {
    const path = join(this.#directory, name);
    let length = 0;
    try {
      const fd = openSync(path, 'r');
      length = readSync(fd, this.#theirs, 0, LENGTH, 0);
      closeSync(fd);
    } catch {
      // It has just left.
      return null;
    }
    if (length !== LENGTH || this.#theirs.readUInt32LE(0) !== VERSION) return null;
    const value = (index: number): number => this.#theirs.readDoubleLE(8 + 8 * index);
    const [at, base, window, weight] = [value(0), value(1), value(2), value(3)];
    if (!(this.#clock() - at < STALE_MS)) {
      rmSync(path, { force: true });
      return null;
    }
    return base > 0 && window >= 0 && weight >= 0 && Number.isFinite(window + weight)
      ? { base, window, weight }
      : null;
  }
}

/** Milliseconds on a clock that all processes of the host share. */
function monotonic(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}
