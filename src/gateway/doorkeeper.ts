/**
 * Who may stand at the door: visitors that have not named an export yet cost memory, and a TLS handshake
 * costs the loop that relays every disk. So they are counted by source, and one source cannot keep another
 * out.
 *
 * Two bounds. So many may stand there at a time; one more shows out the oldest visitor of the source that has
 * the most there. And each source may come so often: a bucket of tokens, one a visit, given back when the
 * visitor names an export. A host whose disks all come at once, or whose links break and come back, gets its
 * tokens back; a stranger that never gets in does not.
 *
 * A source is an IPv4 address, or the first 64 bits of an IPv6 address, which one subscriber has to itself.
 */
import { isIPv6 } from 'node:net';
import { log } from '../log/log.ts';
import type { Visitor } from './transport.ts';

export interface DoorOptions {
  /** So many visitors may be without an export. */
  standing: number;
  /** So many visits of one source in a row may fail, and so many a second go on failing. */
  burst: number;
  perSecond: number;
}

export const DOOR: DoorOptions = { standing: 128, burst: 256, perSecond: 32 };

/** More sources than that are not remembered: the one that was remembered first is forgotten. */
const MOST_SOURCES = 4096;

interface Source {
  /** Without an export, the oldest first. */
  standing: Set<Visitor>;
  tokens: number;
  /** When `tokens` was right, a reading of performance.now(). */
  at: number;
  turnedAway: number;
}

export class Doorkeeper {
  readonly #options: DoorOptions;
  readonly #sources = new Map<string, Source>();
  #standing = 0;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /**
   * @returns the visitor that has to leave for it: another visitor, the visitor itself when its source comes
   * too often, or null
   */
  enter(visitor: Visitor): Visitor | null {
    const source = this.#sourceOf(visitor);
    if (source.tokens < 1) {
      if (source.turnedAway === 0)
        log.warning(
          `${sourceName(visitor.address)} comes more than ${this.#options.perSecond} times a second and names no export: turned away`,
          { id: 'peer-floods', peer: visitor.address },
        );
      source.turnedAway += 1;
      return visitor;
    }
    source.tokens -= 1;
    source.standing.add(visitor);
    this.#standing += 1;
    if (this.#standing <= this.#options.standing) return null;
    const [greediest] = this.#greediest().standing;
    return greediest!;
  }

  /** The visitor stands there no more. @param named it has named an export */
  leave(visitor: Visitor, named: boolean): void {
    const source = this.#sources.get(sourceName(visitor.address));
    if (source === undefined || !source.standing.delete(visitor)) return;
    this.#standing -= 1;
    if (named) source.tokens = Math.min(source.tokens + 1, this.#options.burst);
  }

  /** All that stand there now. */
  *standing(): Iterable<Visitor> {
    for (const source of this.#sources.values()) yield* source.standing;
  }

  #greediest(): Source {
    let most: Source | undefined;
    // Of equals the one remembered first, whose visitor has stood there longest.
    for (const source of this.#sources.values())
      if (source.standing.size > (most?.standing.size ?? 0)) most = source;
    return most!;
  }

  #sourceOf({ address }: Visitor): Source {
    const name = sourceName(address);
    const now = performance.now();
    let source = this.#sources.get(name);
    if (source === undefined) {
      if (this.#sources.size >= MOST_SOURCES) this.#forget(now);
      source = { standing: new Set(), tokens: this.#options.burst, at: now, turnedAway: 0 };
      this.#sources.set(name, source);
    }
    this.#refill(source, now, name);
    return source;
  }

  #refill(source: Source, now: number, name: string): void {
    const { burst, perSecond } = this.#options;
    source.tokens = Math.min(burst, source.tokens + ((now - source.at) / 1000) * perSecond);
    source.at = now;
    if (source.turnedAway === 0 || source.tokens < burst / 2) return;
    log.info(`${name} was turned away ${source.turnedAway} times, and is let in again`);
    source.turnedAway = 0;
  }

  /**
   * Those with a full bucket have done nothing worth remembering; where there are none, the first has to do.
   */
  #forget(now: number): void {
    let first: string | undefined;
    for (const [name, source] of this.#sources) {
      if (source.standing.size > 0) continue;
      this.#refill(source, now, name);
      if (source.tokens >= this.#options.burst) this.#sources.delete(name);
      else first ??= name;
    }
    if (this.#sources.size >= MOST_SOURCES && first !== undefined) this.#sources.delete(first);
  }
}

function sourceName(address: string): string {
  const v4 = /^::ffff:([\d.]+)$/i.exec(address)?.[1];
  if (v4 !== undefined || !isIPv6(address)) return v4 ?? address;
  const [head = '', tail] = address.replace(/%.*$/, '').split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const groups = [...left, ...Array<string>(zeros).fill('0'), ...right];
  return `${groups.slice(0, 4).join(':')}::/64`;
}
