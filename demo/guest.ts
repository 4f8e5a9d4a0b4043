/**
 * In the guest's place: several tasks that write, read back and verify, as a guest's programs do, and do not
 * notice where their disk is. Each task has a part of the guest's own data to itself; what it reads of the
 * rest nobody writes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestDisk } from './guest-disk.ts';
import type { Range } from './image.ts';
import { type DiskModel, SECTOR } from './model.ts';

const TASKS = 4;
/** The first blocks of each part are written over and over, as a journal is. */
const HOT_LENGTH = 64 * 1024;
const LONGEST = 64 * 1024;

/** One read that the guest waited for. */
export type ReadObserver = (offset: number, length: number) => (milliseconds: number) => void;

export interface Counts {
  reads: number;
  writes: number;
}

export class Guest {
  readonly counts: Counts = { reads: 0, writes: 0 };
  /** Rejects with the first error or difference; never resolves. */
  readonly failed: Promise<never>;
  /** Told before each read; what it returns is told how long the read took. */
  observeRead: ReadObserver | null = null;
  /** When the last request was answered, and the first after it came back (performance.now()). */
  lastAnswer = 0;
  firstAnswer = 0;
  readonly #model: DiskModel;
  readonly #parts: Range[];
  #fail: (error: Error) => void = () => undefined;
  #running: Promise<void> | null = null;
  #paused = true;

  constructor(model: DiskModel, own: readonly Range[]) {
    this.#model = model;
    this.#parts = partition(own);
    this.failed = new Promise((_, reject) => (this.#fail = reject));
    this.failed.catch(() => undefined);
  }

  /** Lets the tasks run on this disk. */
  resume(disk: GuestDisk): void {
    this.#paused = false;
    this.firstAnswer = 0;
    const tasks = this.#parts.map((part) => this.#task(disk, part));
    this.#running = Promise.all(tasks).then(() => undefined, this.#fail);
  }

  /** Resolves when nothing is under way any more. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#running;
  }

  async #task(disk: GuestDisk, part: Range): Promise<void> {
    while (!this.#paused) {
      await this.#step(disk, part);
      this.lastAnswer = performance.now();
      if (this.firstAnswer === 0) this.firstAnswer = this.lastAnswer;
      await sleep(Math.random() * 12);
    }
  }

  async #step(disk: GuestDisk, part: Range): Promise<void> {
    const dice = Math.random();
    if (dice < 0.15) return await this.#write(disk, somewhere({ ...part, length: HOT_LENGTH }, 8192));
    if (dice < 0.4) return await this.#write(disk, somewhere(part, LONGEST));
    if (dice < 0.42) return await this.#zero(disk, somewhere(part, LONGEST));
    if (dice < 0.43) return await disk.flush();
    if (dice < 0.55) return await this.#read(disk, somewhere({ ...part, length: HOT_LENGTH }, 8192));
    if (dice < 0.8) return await this.#read(disk, somewhere(part, LONGEST));
    const { size } = this.#model;
    const elsewhere = somewhere({ offset: 0, length: size }, LONGEST);
    if (!this.#parts.some((other) => overlap(other, elsewhere))) await this.#read(disk, elsewhere);
  }

  async #write(disk: GuestDisk, { offset, length }: Range): Promise<void> {
    await disk.write(this.#model.write(offset, length), offset);
    this.counts.writes += 1;
  }

  async #zero(disk: GuestDisk, { offset, length }: Range): Promise<void> {
    this.#model.zero(offset, length);
    await disk.zero(offset, length);
    this.counts.writes += 1;
  }

  async #read(disk: GuestDisk, { offset, length }: Range): Promise<void> {
    const observed = this.observeRead?.(offset, length);
    const start = performance.now();
    const bytes = await disk.read(offset, length);
    observed?.(performance.now() - start);
    if (!bytes.equals(this.#model.expected(offset, length))) {
      throw new Error(`verify error: ${length} bytes at ${offset} are not what the guest wrote`);
    }
    this.counts.reads += 1;
  }
}

/** Cuts the guest's own data into one part a task; a part lies in one range. */
function partition(own: readonly Range[]): Range[] {
  const longest = [...own].sort((a, b) => b.length - a.length)[0]!;
  const length = Math.floor(longest.length / TASKS / LONGEST) * LONGEST;
  return Array.from({ length: TASKS }, (_, index) => ({ offset: longest.offset + index * length, length }));
}

/** Whole sectors within the range, at most `longest` bytes; half of them whole 4 KiB blocks. */
function somewhere(range: Range, longest: number): Range {
  const unit = Math.random() < 0.5 ? 4096 : SECTOR;
  const length = (1 + Math.floor((Math.random() * longest) / unit)) * unit;
  const fits = Math.min(length, longest, range.length);
  const places = Math.floor((range.length - fits) / unit) + 1;
  return { offset: range.offset + Math.floor(Math.random() * places) * unit, length: fits };
}

function overlap(a: Range, b: Range): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}
