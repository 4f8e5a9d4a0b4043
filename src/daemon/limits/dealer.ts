/**
 * Tells each export that a disk arrives by what its copy may take, so that the caps of the host and of its
 * peers hold for all of them together, and no part of a cap lies idle: several times a second, from what the
 * exports' statuses say (deal.ts).
 *
 * The sum holds at every moment, also while shares change and when this daemon is killed in between: those
 * that get less are told first, and only when all of them have answered those that get more. An export keeps
 * its share until it is told another; one that is started while a cap holds waits for its first
 * (`--await-share`). An export that does not answer keeps what it has, and the others get the rest.
 */
import type { CapsNow } from '../../config/caps.ts';
import type { Config } from '../../config/config.ts';
import type { ExportStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import type { Exports } from '../exports/exports.ts';
import { claimOf, claimOfUnled, isArriving, isHindered, Meter, peerOf, queued } from './arrivals.ts';
import { type Caps, type Claim, deal } from './deal.ts';

/** An export that has not answered by then is not waited for. */
const ANSWER_MS = 1000;
/** A share that differs by less is left as it is. */
const NOTHING_NEW = 0.02;

interface Share {
  /** bit/s; null: no cap. */
  readonly rate: number | null;
  /** Why it is 0. */
  readonly why: string | null;
}

/** What is known of one process of an export. */
interface Led {
  readonly pid: number;
  /** When its disk was taken over, ms of `performance.now()`, as its first status told: the queue's order. */
  readonly since: number;
  readonly meter: Meter;
  told: Share;
  /** Each `why` that it was told. */
  readonly whys: Set<string>;
  /** Of a release that knows no shares. */
  unled: boolean;
  /** It did not answer: it may still hold what it was told before. */
  silent: boolean;
}

/** What the arriving disks amount to. */
interface Sums {
  arriving: number;
  /** Of them, those that queue. */
  queued: number;
  /** What comes of all, bit/s. */
  rate: number;
}

export class Dealer {
  readonly #exports: Exports;
  readonly #config: Config;
  readonly #led = new Map<string, Led>();
  #queued = 0;

  constructor({ exports, config }: { exports: Exports; config: Config }) {
    this.#exports = exports;
    this.#config = config;
    exports.on('status', (status) => this.#meet(status));
    exports.on('ended', (name) => this.#led.delete(name));
  }

  get sums(): Sums {
    const rates = [...this.#led.values()].map(({ meter }) => meter.demand + meter.copy);
    const rate = Math.round(rates.reduce((sum, each) => sum + each, 0));
    return { arriving: this.#led.size, queued: this.#queued, rate };
  }

  /** Deals out what holds now. @param paused nothing to any of them */
  async deal(caps: CapsNow, paused: boolean): Promise<void> {
    const since = ({ name }: ExportStatus): number => this.#led.get(name)!.since;
    const arriving = this.#exports.running().filter(({ name }) => this.#led.has(name));
    arriving.sort((a, b) => since(a) - since(b));
    this.#queued = 0;
    if (arriving.length === 0) return;
    const shares = this.#shares(arriving, caps, paused);
    const changes = [...shares].filter(([name, share]) => !isSame(this.#led.get(name)!.told, share));
    // A share that is almost right may stay, unless all together would be more than a cap.
    if (
      this.#isWithin(ratesOf(caps)) &&
      changes.every(([name, share]) => isNear(this.#led.get(name)!.told, share))
    )
      return;
    const isLess = ([name, { rate }]: [string, Share]): boolean => {
      const { told } = this.#led.get(name)!;
      return rate !== null && (told.rate === null || rate <= told.rate);
    };
    const [less, more] = [changes.filter(isLess), changes.filter((change) => !isLess(change))];
    const lowered = await Promise.all(less.map((change) => this.#tell(...change)));
    // The next turn gives what the silent ones have left.
    if (lowered.includes(false)) return;
    await Promise.all(more.map((change) => this.#tell(...change)));
  }

  #meet(status: ExportStatus): void {
    const { name, pid, share: rate, copyPaused, secondsSinceTakeover } = status;
    if (!isArriving(status)) {
      this.#led.delete(name);
      return;
    }
    let led = this.#led.get(name);
    if (led?.pid !== pid) {
      // An earlier daemon may have told it.
      const whys = new Set(rate === 0 && copyPaused !== null ? [copyPaused] : []);
      const since = performance.now() - secondsSinceTakeover * 1000;
      led = { pid, since, meter: new Meter(), told: { rate, why: null }, whys, unled: false, silent: false };
      this.#led.set(name, led);
    }
    led.silent = false;
    led.meter.add(status, performance.now());
  }

  /** What each that can be told should have. */
  #shares(arriving: readonly ExportStatus[], caps: CapsNow, paused: boolean): Map<string, Share> {
    const most = this.#config.relocation['max-arriving'];
    const hindered = (status: ExportStatus): boolean => isHindered(status, this.#led.get(status.name)!.whys);
    const waiting = queued(arriving, hindered, most);
    this.#queued = waiting.size;
    const rates = ratesOf(caps);
    const claims = arriving.map((status) =>
      this.#claim(status, !paused && !waiting.has(status.name) && !hindered(status), rates),
    );
    const dealt = deal(claims, rates);
    return new Map(
      claims
        .filter(({ name }) => !this.#led.get(name)!.unled)
        .map(({ name, peer }) => {
          const why = paused
            ? 'an administrator has paused all disks (xnbdctl resume --all)'
            : waiting.has(name)
              ? `it queues: so many are copied already as may be (max-arriving = ${most})`
              : null;
          const rate = why === null ? (dealt.get(name) ?? null) : 0;
          return [name, { rate, why: rate === 0 ? (why ?? whyNothing(peer, caps)) : null }];
        }),
    );
  }

  #claim(status: ExportStatus, may: boolean, rates: Caps): Claim {
    const { meter, unled, silent, told } = this.#led.get(status.name)!;
    const peer = peerOf(status, this.#config);
    if (unled || (silent && told.rate === null)) return claimOfUnled(status, meter, peer);
    const cap = rates.host ?? rates.peers.get(peer ?? '') ?? null;
    const claim = claimOf(status, meter, { may, peer, cap });
    return silent ? { ...claim, demand: told.rate ?? 0, most: 0 } : claim;
  }

  /** What has been told is no more than the caps, all together. */
  #isWithin({ host, peers }: Caps): boolean {
    const told = this.#exports.running().flatMap((status) => {
      const led = this.#led.get(status.name);
      return led === undefined ? [] : [{ rate: led.told.rate ?? 0, peer: peerOf(status, this.#config) }];
    });
    const isMore = (cap: number | null, rates: typeof told): boolean =>
      cap !== null && rates.reduce((sum, { rate }) => sum + rate, 0) > cap;
    return (
      !isMore(host, told) &&
      ![...peers].some(([name, cap]) =>
        isMore(
          cap,
          told.filter(({ peer }) => peer === name),
        ),
      )
    );
  }

  /** @returns whether it has answered */
  async #tell(name: string, share: Share): Promise<boolean> {
    const led = this.#led.get(name);
    // It is gone, and what it had is free.
    if (led === undefined) return true;
    try {
      await this.#exports.call(name, 'share', { ...share }, ANSWER_MS);
      led.told = share;
      if (share.why !== null) led.whys.add(share.why);
      led.silent = false;
      return true;
    } catch (error) {
      const { message } = error as Error;
      if (/^no method/.test(message)) {
        led.unled = true;
        log.warning(
          `disk ${name}: its export is of a release that knows no shares: it is copied beside the rates that are set, until it is started again`,
          { id: 'share-unknown', export: name },
        );
        return true;
      }
      if (!led.silent) log.warning(`disk ${name} could not be told its share: ${message}`, { export: name });
      led.silent = true;
      return false;
    }
  }
}

function ratesOf({ host, peers }: CapsNow): Caps {
  return { host: host.rate, peers: new Map([...peers].map(([name, { rate }]) => [name, rate])) };
}

/** Why a disk that may be copied gets nothing. */
function whyNothing(peer: string | null, { host, peers }: CapsNow): string {
  const ofPeer = peer === null ? undefined : peers.get(peer);
  if (ofPeer?.rate === 0) return `the rate of ${peer} is 0 now (${ofPeer.said})`;
  if (host.rate === 0) return `the rate of this host is 0 now (${host.said})`;
  return 'guests take all of the rate that it shares';
}

function isSame(one: Share, other: Share): boolean {
  return one.rate === other.rate && one.why === other.why;
}

function isNear(one: Share, other: Share): boolean {
  if (one.why !== other.why || one.rate === null || other.rate === null) return isSame(one, other);
  return Math.abs(one.rate - other.rate) <= NOTHING_NEW * Math.min(one.rate, other.rate);
}
