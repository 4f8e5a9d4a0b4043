/**
 * One story: a disk goes from host to host as its plan says, a guest works on it all the while, things break.
 * In the end, and at the end of each move, every block must be what the guest wrote, and nothing may be left
 * where the disk was.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExportStatus } from '../../src/control/status.ts';
import { ByteModel } from '../lab/model/byte-model.ts';
import { diskContent } from '../lab/model/content.ts';
import { Random } from '../lab/model/random.ts';
import { checkLeftovers } from './checks/leftovers.ts';
import { Load, type LoadOptions } from './checks/load.ts';
import {
  compareEveryBlock,
  heldBlocks,
  type RememberedImage,
  rememberImage,
  whoHasIt,
} from './checks/verify.ts';
import { Events } from './events.ts';
import { ByDaemon } from './moving/by-daemon.ts';
import { ByHand } from './moving/by-hand.ts';
import { type Driver, Refused } from './moving/driver.ts';
import { ChaosHost } from './moving/host.ts';
import { call, recordOf, type Stay, statusOf } from './moving/stay.ts';
import { type HostName, holdsWrites, type Plan, type PlannedMove } from './plan.ts';
import type { Timeline } from './timeline.ts';

const EPERM = 1;
const ESHUTDOWN = 108;
/** A disk that takes longer, with every link mended, does not come to its end. */
const COMPLETE_LIMIT_MS = 120_000;
/** For four moves, each of which takes seconds. */
const STORY_LIMIT_MS = 300_000;
/**
 * After this an origin that has retired is believed to be gone; the destination itself takes ten minutes
 * (relocation/lease/retire-origin.ts).
 */
const UNHEARD_MS = 8000;
const LOOK_EVERY_MS = 10;
const ARRIVALS = 6;

/** A stay whose disk has gone on. */
interface Leaving {
  stay: Stay;
  /** As it was at the fence; null: blocks still arrived in it then. */
  image: RememberedImage | null;
}

export interface StoryResult {
  moves: number;
  givenUp: number;
  events: number;
  requests: number;
}

/**
 * @throws Error that says what was wrong. @param dir is made, and left to be removed. @param pki
 * certificates, for plans with TLS
 */
export async function play(plan: Plan, dir: string, pki: string, timeline: Timeline): Promise<StoryResult> {
  const story = new Story(plan, dir, pki, timeline);
  const late = Promise.withResolvers<never>();
  const watchdog = setTimeout(
    () => late.reject(new Error(`hang: the story has not come to its end in ${STORY_LIMIT_MS / 1000} s`)),
    STORY_LIMIT_MS,
  );
  try {
    return await Promise.race([story.play(), late.promise]).finally(() => clearTimeout(watchdog));
  } catch (error) {
    await story.abort();
    throw error;
  }
}

class Story {
  readonly #plan: Plan;
  readonly #dir: string;
  readonly #pki: string;
  readonly #timeline: Timeline;
  readonly #random: Random;
  readonly #hosts = new Map<HostName, ChaosHost>();
  readonly #driver: Driver;
  readonly #model: ByteModel;
  readonly #content: Buffer;
  readonly #stays: Stay[] = [];
  readonly #loads = new Set<Load>();
  readonly #events: Events[] = [];
  readonly #result: StoryResult = { moves: 0, givenUp: 0, events: 0, requests: 0 };
  readonly #broken = Promise.withResolvers<never>();
  /** Stays whose disk has gone on, and which wait for their end. */
  #leaving: Leaving[] = [];

  constructor(plan: Plan, dir: string, pki: string, timeline: Timeline) {
    this.#plan = plan;
    this.#dir = dir;
    this.#pki = pki;
    this.#timeline = timeline;
    this.#random = new Random(plan.loadSeed);
    this.#content = diskContent(plan.contentSeed, plan.sizeBytes);
    this.#model = new ByteModel(this.#content);
    this.#broken.promise.catch(() => undefined);
    this.#driver =
      plan.driver === 'hand'
        ? new ByHand(plan, pki, timeline, (error) => this.#fault(error))
        : new ByDaemon(plan, timeline);
  }

  async play(): Promise<StoryResult> {
    const { moves } = this.#plan;
    await mkdir(this.#dir);
    await this.#during(this.#makeHosts());
    let stay = await this.#driver.begin(this.#host(moves[0]!.from), this.#content);
    this.#stays.push(stay);
    let guest = this.#guest(stay);
    for (const [at, move] of moves.entries()) {
      if (this.#unheard) break;
      ({ stay, guest } = await this.#during(this.#move(move, stay, guest, at === moves.length - 1)));
    }
    await this.#during(guest.stop());
    await this.#during(this.#verify(stay));
    await this.#during(this.#driver.end(stay));
    for (const host of this.#hosts.values()) await host.stop();
    await checkLeftovers(this.#plan, [...this.#hosts.values()], this.#stays, this.#dir, this.#unheard);
    this.#result.events = this.#events.reduce((sum, { happened }) => sum + happened, 0);
    return this.#result;
  }

  /** Nobody asks anything any more; our processes are somebody else's to end. */
  async abort(): Promise<void> {
    this.#driver.abort();
    for (const events of this.#events) events.cancel();
    for (const load of this.#loads) load.destroy();
    for (const host of this.#hosts.values()) await host.wan.stop();
  }

  #fault(error: Error): void {
    this.#broken.reject(error);
  }

  /** Waits, unless something goes wrong meanwhile. */
  #during<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#broken.promise]);
  }

  async #makeHosts(): Promise<void> {
    const names = new Set(this.#plan.moves.flatMap(({ from, to }) => [from, to]));
    await Promise.all(
      [...names].map(async (name) => {
        this.#hosts.set(name, await ChaosHost.start(name, join(this.#dir, name), this.#pki, this.#plan));
      }),
    );
  }

  #host(name: HostName): ChaosHost {
    return this.#hosts.get(name)!;
  }

  #load(stay: Stay, options: Partial<LoadOptions> & Pick<LoadOptions, 'mix'>): Load {
    const load = new Load(stay, {
      model: this.#model,
      seed: this.#random.next(),
      connections: 1,
      depth: 1,
      rest: 8,
      mayBreak: () => stay.kills > 0,
      ...options,
    });
    this.#loads.add(load);
    load.failed.catch((error: unknown) => {
      void whoHasIt(error as Error, this.#stays).then((told) => this.#fault(told));
    });
    return load;
  }

  #guest(stay: Stay, more: Pick<LoadOptions, 'onChanged' | 'where'> = {}): Load {
    return this.#load(stay, { mix: 'guest', connections: 3, depth: 2, ...more });
  }

  /** One relocation, from the lease to the last block, or as far as it goes before the disk goes on. */
  async #move(
    move: PlannedMove,
    source: Stay,
    guest: Load,
    last: boolean,
  ): Promise<{ stay: Stay; guest: Load }> {
    const timeline = this.#timeline;
    timeline.note(`=== ${move.from} -> ${move.to}`);
    const upstream = this.#leaving.at(-1)?.stay ?? null;
    const destinationHost = this.#host(move.to);
    const stage = { driver: this.#driver, timeline, source, destination: null, destinationHost, upstream };
    const events = new Events(move.events, stage, (error) => this.#fault(error));
    this.#events.push(events);
    events.begin('arriving');
    let destination = await this.#arrive(source, destinationHost, events);
    if (move.givenUpFirst) {
      await this.#requests(guest, 20);
      await events.settled();
      timeline.note('the move is given up');
      await this.#driver.giveUp(destination);
      this.#stays.pop();
      this.#result.givenUp += 1;
      destination = await this.#arrive(source, destinationHost, events);
    }
    events.destination = destination;
    events.begin('standby');
    const peek = this.#load(destination, { mix: 'reads' });
    const late = move.switchover === 'late writes' ? this.#lateWrites(source) : null;
    await this.#requests(guest, move.standbyRequests, (count) => events.reached('standby', count));
    if ((await heldBlocks(destination.image)) > 0)
      throw new Error(`${move.to} has kept blocks before the takeover`);
    await guest.stop();
    this.#done(guest);
    events.begin('takeover');
    if (late !== null && move.events.some(holdsWrites)) await this.#untilHeld(late.load);
    const next = await this.#switchOver(move, source, destination, late);
    await peek.stop();
    this.#done(peek);
    const onward = last ? null : move.onwardAt;
    // A disk that a client of its host is connected to is not retired: the late writer leaves in the end.
    const lateWriterLeaves = once(async () => {
      if (late === null) return;
      await late.load.stop();
      this.#done(late.load);
    });
    const hasArrived = () => void lateWriterLeaves().catch((error: unknown) => this.#fault(error as Error));
    const complete = await this.#follow(destination, source, events, onward, hasArrived);
    await lateWriterLeaves();
    if (!complete) {
      timeline.note('the disk goes on before it is complete');
      return { stay: destination, guest: next };
    }
    await events.settled();
    await next.stop();
    this.#done(next);
    await this.#verify(destination);
    const gone = this.#guest(destination);
    for (const { stay, image } of this.#leaving.splice(0).reverse()) {
      await this.#driver.retired(stay);
      if (image !== null && (await image.changed()))
        throw new Error(`the image at the origin ${stay.host.name} was changed after the fence`);
    }
    this.#result.moves += 1 + this.#unfinished;
    this.#unfinished = 0;
    return { stay: destination, guest: gone };
  }

  #unfinished = 0;
  /**
   * The last origin has retired and is gone, its answer was lost, and our end will ask for minutes before it
   * believes that.
   */
  #unheard = false;

  async #arrive(source: Stay, to: ChaosHost, events: Events): Promise<Stay> {
    for (let tries = 1; ; tries++) {
      try {
        const stay = await this.#driver.arrive(source, to);
        this.#stays.push(stay);
        return stay;
      } catch (error) {
        this.#timeline.note(`arrival ${tries} failed: ${(error as Error).message}`);
        if (tries === ARRIVALS || !(error instanceof Refused)) throw error;
        await events.settled();
        // A source that was killed may be away for a second and more.
        await sleep(200 * tries);
      }
    }
  }

  /** Waits until the guest has been answered so many more requests. */
  async #requests(
    guest: Load,
    count: number,
    reached: (count: number) => void = () => undefined,
  ): Promise<void> {
    const from = guest.answered;
    while (guest.answered - from < count) {
      reached(guest.answered - from);
      await this.#during(sleep(LOOK_EVERY_MS));
    }
    reached(count);
  }

  /** Waits until a change has had no answer for a while; not long: there may be none. */
  async #untilHeld(load: Load): Promise<void> {
    for (let looks = 0, before = load.oldestChange; looks < 6; looks++) {
      await sleep(50);
      if (before !== null && load.oldestChange === before) return;
      before = load.oldestChange;
    }
  }

  /** Writes at the source, beside the guest's, that nobody stops at the switchover: the fence must. */
  #lateWrites(source: Stay): { load: Load; fencedFrom(moment: number): void } {
    let fenced = Number.POSITIVE_INFINITY;
    const load = this.#load(source, {
      mix: 'writes',
      depth: 5,
      rest: 4,
      // It ends with the export, when that has retired.
      mayBreak: () => fenced < Number.POSITIVE_INFINITY || source.kills > 0,
      mayRefuse: (errno) => errno === EPERM || errno === ESHUTDOWN,
      onChanged: (asked) => {
        if (asked > fenced)
          this.#fault(new Error(`${source.host.name} took a write after the next host had taken one`));
      },
    });
    return { load, fencedFrom: (moment) => (fenced = Math.min(fenced, moment)) };
  }

  /** The guest has left the source, and goes on at the destination. @returns it there */
  async #switchOver(
    move: PlannedMove,
    source: Stay,
    destination: Stay,
    late: { load: Load; fencedFrom(moment: number): void } | null,
  ): Promise<Load> {
    const left = this.#driver.guestLeft(source);
    left.catch((error: unknown) => this.#fault(error as Error));
    if (move.switchover === 'told') {
      // It may be away just now; the guest's first write does the same.
      call(destination, 'takeover').catch((error: unknown) =>
        this.#timeline.note(`takeover is refused: ${(error as Error).message}`),
      );
    }
    const next = this.#guest(destination, {
      onChanged: () => late?.fencedFrom(performance.now()),
      // What is read here from now on no write there may change any more.
      where: () => late?.load.oldestChange ?? null,
    });
    await left;
    return next;
  }

  /**
   * Until the disk is complete at its destination, and its origin let go.
   * @param hasArrived called when every block is there
   * @returns false: until it may go on
   */
  async #follow(
    destination: Stay,
    source: Stay,
    events: Events,
    onward: number | null,
    hasArrived: () => void,
  ): Promise<boolean> {
    const sourceComplete = (await statusOf(source))?.origin === null;
    let leaving: Leaving | null = null;
    const deadline = performance.now() + COMPLETE_LIMIT_MS;
    let unheardSince = Number.POSITIVE_INFINITY;
    while (true) {
      const status = await statusOf(destination);
      if (status !== undefined && status.state !== 'standby') {
        events.begin('relocating');
        // From here on the origin is fenced: its image stays as it is.
        if (leaving === null) {
          leaving = { stay: source, image: sourceComplete ? await rememberImage(source, this.#dir) : null };
          this.#leaving.push(leaving);
        }
        const share = (100 * status.presentBytes) / status.sizeBytes;
        events.reached('relocating', share);
        if (share === 100) events.begin('complete');
        if (status.state === 'serving') hasArrived();
        if (status.state === 'serving' && status.origin === null) return true;
        if (status.state === 'serving' && isNoExport(status)) {
          unheardSince = Math.min(unheardSince, performance.now());
          if (performance.now() - unheardSince > UNHEARD_MS && isOver(source)) {
            this.#timeline.note("the origin's last answer was lost, and it is gone: that ends the story");
            this.#unheard = true;
            return true;
          }
        } else unheardSince = Number.POSITIVE_INFINITY;
        if (onward !== null && share >= onward && share < 100) {
          this.#unfinished += 1;
          return false;
        }
      }
      if (performance.now() > deadline)
        throw new Error(
          `in ${COMPLETE_LIMIT_MS / 1000} s the disk was not complete: ${JSON.stringify(status)}`,
        );
      await this.#during(sleep(LOOK_EVERY_MS));
    }
  }

  async #verify(stay: Stay): Promise<void> {
    try {
      await compareEveryBlock(stay, this.#model);
    } catch (error) {
      throw await whoHasIt(error as Error, this.#stays);
    }
    this.#timeline.note(`every block at ${stay.host.name} is as it must be`);
  }

  #done(load: Load): void {
    this.#result.requests += load.answered;
    this.#loads.delete(load);
  }
}

function once<T>(act: () => T): () => T {
  let result: { value: T } | null = null;
  return () => {
    result ??= { value: act() };
    return result.value;
  };
}

/** The origin's host answers, and knows no such disk. */
function isNoExport({ originUnreachableReason }: ExportStatus): boolean {
  return originUnreachableReason?.includes('no export') === true;
}

/** The disk has gone on from there for good. */
function isOver(stay: Stay): boolean {
  const record = recordOf(stay);
  return record === undefined || record.state === 'retired';
}
