/**
 * A random life of a disk on two hosts, recorded: the source's guest writes, the disk moves, the
 * destination's guest writes, while syncs take their time and the background copy goes on; processes are
 * stopped and started; some moves are given up.
 */
import { relative } from 'node:path';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { Errno } from '../../../src/nbd/constants.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { callExport } from '../../lab/nbd/call-export.ts';
import { playing } from '../files/recorder.ts';
import type { History, HostName } from './history.ts';
import {
  type ChangeKind,
  closeSource,
  type Destination,
  type Guest,
  guestOn,
  guestOver,
  openDestination,
  openSource,
  type Places,
  type Plant,
  placesOf,
  refusedGuest,
  type Source,
} from './hosts.ts';
import type { Marks } from './promises.ts';

export interface LifeOptions {
  places: Places;
  history: History;
  marks: Marks;
  random: () => number;
  plant: Plant;
}

const LIMIT_MS = 30_000;

/** Lives until it has had enough, then stops everything in an orderly way. */
export async function live(options: LifeOptions): Promise<void> {
  const life = new Life(options);
  await life.run();
}

class Life {
  readonly #options: LifeOptions;
  readonly #random: () => number;
  #source!: Source;
  #sourceGuest!: Guest;
  #destination: Destination | null = null;
  #guest: Guest | null = null;
  #underWay: { from: number; to: number }[] = [];
  #unanswered = 0;

  constructor(options: LifeOptions) {
    this.#options = options;
    this.#random = options.random;
  }

  async run(): Promise<void> {
    await this.#openSource();
    const { marks } = this.#options;
    if (marks.destination !== 'absent' && marks.destination !== 'abandoning') await this.#openDestination();
    const steps = this.#upTo(40) + 15;
    const failing = this.#random() < 0.25 ? this.#upTo(steps) : -1;
    for (let step = 0; step < steps; step++) {
      if (step === failing) this.#failNextSync();
      await this.#step();
    }
    playing.failingSync = null;
    await this.#settled();
    await this.#closeDestination();
    this.#sourceGuest.leave();
    await closeSource(this.#source);
  }

  /** The destination's storage loses what it should have written. */
  #failNextSync(): void {
    const path = relative(this.#options.places.root, placesOf(this.#options.places).b.image);
    playing.failingSync = { path, failed: () => this.#options.history.syncFailed('b') };
  }

  async #step(): Promise<void> {
    const chance = this.#random();
    if (this.#destination === null) {
      if (chance < 0.5) this.#change('a');
      else if (chance < 0.6) this.#flush('a');
      else if (chance < 0.75) await this.#pause();
      else if (chance < 0.8) await this.#settled();
      else if (this.#options.marks.source === 'serving') await this.#openDestination();
      return;
    }
    const moved = this.#options.marks.destination === 'taken over';
    if (!moved && chance < 0.45) this.#change('a');
    else if (!moved && chance < 0.5) this.#flush('a');
    else if (!moved && chance < 0.56) void this.#takeOver();
    else if (!moved && chance < 0.6) await this.#abandon();
    else if (chance < 0.66) this.#change('b');
    else if (chance < 0.76) this.#flush('b');
    else if (chance < 0.82) this.#read();
    else if (chance < 0.94) await this.#pause();
    else if (chance < 0.97) await this.#settled();
    else {
      await this.#settled();
      await this.#closeDestination();
      await this.#openDestination();
    }
    // A guest that waits for nothing would be through before anything is on disk.
    if (this.#unanswered > 6) await this.#pause();
  }

  async #openSource(): Promise<void> {
    const { places, plant, marks, history } = this.#options;
    const slowness = this.#random() < 0.3 ? 0 : this.#random() * 6;
    this.#source = await openSource(places, plant, () => this.#random() * slowness);
    marks.watch(this.#source, () => history.fenced());
    const retired = this.#source.running.export.lender.state === 'retired';
    this.#sourceGuest = retired ? refusedGuest : await guestOver(placesOf(places).a.socket, 2, this.#random);
  }

  async #openDestination(): Promise<void> {
    const { places, plant, marks } = this.#options;
    marks.destinationBegins();
    const opened = await openDestination(places, plant);
    marks.destinationReady(opened.served.keeper.record);
    this.#destination = opened;
    this.#guest =
      this.#random() < 0.5
        ? guestOn(opened.served.disk)
        : await guestOver(placesOf(places).b.socket, 2, this.#random);
  }

  async #closeDestination(): Promise<void> {
    this.#guest?.leave();
    await this.#destination?.running.stop();
    this.#guest = null;
    this.#destination = null;
  }

  async #takeOver(): Promise<void> {
    const { marks } = this.#options;
    try {
      await this.#destination!.served.takeover();
      marks.takenOver();
    } catch {
      // It is being stopped, or given up.
    }
  }

  async #abandon(): Promise<void> {
    const { marks } = this.#options;
    await this.#settled();
    marks.abandons();
    try {
      await callExport(`${placesOf(this.#options.places).b.socket}.ctl`, 'abandon');
    } catch {
      // It was written to, or is complete.
      marks.staysAfterAll();
      return;
    }
    marks.abandoned();
    this.#guest!.leave();
    await this.#destination!.running.ended;
    this.#guest = null;
    this.#destination = null;
  }

  #change(host: HostName): void {
    const guest = host === 'a' ? this.#sourceGuest : this.#guest!;
    const { history, marks } = this.#options;
    const range = this.#range();
    if (range === undefined) return;
    const { from, to } = range;
    const chance = this.#random();
    const kind: ChangeKind =
      chance < 0.75 ? 'write' : chance < 0.85 ? 'trim' : chance < 0.95 ? 'zero' : 'zero, allocated';
    const data =
      kind === 'write' ? bytesOf(Math.floor(this.#random() * 2 ** 31), to - from) : Buffer.alloc(to - from);
    const fua = this.#random() < 0.15;
    const answered = history.change(host, kind, from, data, fua);
    this.#underWay.push(range);
    this.#unanswered++;
    guest.change(kind, from, data, fua, (errno) => {
      this.#underWay.splice(this.#underWay.indexOf(range), 1);
      this.#unanswered--;
      if (host === 'b' && errno === 0) marks.takenOver();
      const refused = host === 'a' && (errno === Errno.EPERM || errno === Errno.ESHUTDOWN);
      answered(errno === 0 ? 'done' : refused ? 'refused' : 'failed');
    });
  }

  /** One that overlaps none that is under way: no file system writes a block twice at once. */
  #range(): { from: number; to: number } | undefined {
    const { size } = this.#options.history;
    const chance = this.#random();
    const align = chance < 0.3 ? 1 : chance < 0.6 ? 512 : 4096;
    const from = Math.floor((this.#random() * (size - 1)) / align) * align;
    const long = this.#random() < 0.1 ? 40 * 4096 : 4 * 4096;
    const length = Math.ceil((1 + this.#random() * long) / align) * align;
    const range = { from, to: Math.min(size, from + length) };
    return this.#underWay.some((other) => other.from < range.to && range.from < other.to) ? undefined : range;
  }

  #flush(host: HostName): void {
    const guest = host === 'a' ? this.#sourceGuest : this.#guest!;
    const answered = this.#options.history.flush(host);
    this.#unanswered++;
    guest.flush((errno) => {
      this.#unanswered--;
      if (errno === 0) answered();
    });
  }

  #read(): void {
    const range = this.#range();
    if (range === undefined) return;
    this.#unanswered++;
    this.#guest!.read(Buffer.alloc(range.to - range.from), range.from, () => {
      this.#unanswered--;
    });
  }

  async #pause(): Promise<void> {
    const time = Math.floor(this.#random() * 8) - 3;
    if (time > 0) await sleep(time);
    else await turn();
  }

  async #settled(): Promise<void> {
    const deadline = performance.now() + LIMIT_MS;
    while (this.#unanswered > 0) {
      if (performance.now() > deadline) throw new Error(`${this.#unanswered} requests are not answered`);
      await turn();
    }
  }

  #upTo(most: number): number {
    return Math.floor(this.#random() * (most + 1));
  }
}
