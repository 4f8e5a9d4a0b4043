/**
 * The link to the origin: a connection that comes back.
 *
 * Every operation is remembered until it is answered (unanswered.ts). When the connection breaks, or falls
 * silent (stall-watch.ts), the link connects again (outage.ts says when, for as long as it takes) and sends
 * what has not been answered once more: all of it may be repeated (reads, block status, and the private
 * commands by design). So above the link a lost connection is only a wait. An error that the origin itself
 * answers is passed on. What comes late on a connection that was given up is not looked at.
 *
 * An origin that comes back as another disk (uuid, generation or size) is refused: the link stays down and
 * says so.
 *
 * The first connection is the caller's: it fails loudly, so that a wrong URI is an error and not a wait.
 */

import { closeSync } from 'node:fs';
import { OriginConnection, Stalled } from '../../client/connection.ts';
import { log } from '../../log/log.ts';
import { Command, Errno } from '../../nbd/constants.ts';
import { HandshakeError } from '../../nbd/handshake/client-handshake.ts';
import type { NbdAddress } from '../../nbd/uri.ts';
import type { TlsParty } from '../../pki/tls.ts';
import { type BlockRange, blockAt, blockBehind } from '../../store/block-ranges.ts';
import type { Completion, Extent, ExtentsCompletion } from '../../store/completion.ts';
import { cutExtents } from './cut-extents.ts';
import {
  attachRequest,
  checkExpected,
  checkIdentity,
  describeOrigin,
  type ExpectedOrigin,
  identityOf,
  type OriginIdentity,
} from './identity.ts';
import { Outage } from './outage.ts';
import { readRange, roundUp } from './read-range.ts';
import { Operation, Unanswered } from './unanswered.ts';

export interface OriginLinkOptions {
  address: NbdAddress;
  /** For an nbds address. */
  tls?: TlsParty | undefined;
  lease: string;
  /** What the origin was when we first met; null at the first meeting. */
  known: OriginIdentity | null;
  /** What it has to be then. */
  expected?: ExpectedOrigin;
  /** The origin may be a server that speaks oldstyle. */
  allowOldstyle?: boolean;
  /** HOST:PORT by which the origin is to call us. */
  holder?: string | undefined;
}

/** What the patience with a silent origin grows to: its silence is 5 s and so many times 5 s long then. */
const MOST_PATIENCE = 64;
/** An origin that has not been reached again by then has lost the connection of the earlier process, too. */
const RELIEVED_MS = 60_000;
/** Until an origin that hung up on a request is dialled again: it is there. */
const HUNG_UP_RETRY_MS = 50;
/** The longest range of a compact request that whole blocks of any server fill. */
const COMPACT_LENGTH = 2 ** 32 - 65536;

interface SubmitOptions {
  /** An origin that stops has not answered, and the operation is sent again when it is back; the default. */
  patient?: boolean;
  unwanted?: () => boolean;
  blocks?: BlockRange | null;
}

export class OriginLink {
  readonly identity: OriginIdentity;
  /** The origin is one of ours: it takes the private commands. */
  readonly lends: boolean;
  /** It was fenced for our lease when we attached last; null: we have not attached yet. */
  fenced: boolean | null = null;
  /**
   * The disk is ours: an origin that has lost its fence (an administrator there, an older copy of its record)
   * is fenced again before anything is read from it.
   */
  mustBeFenced = false;
  /**
   * What the origin said when it was reached last and did not take us back (another disk, another lease, a
   * certificate); null: it did.
   */
  refusal: string | null = null;
  /** Told when the origin is lost, when it is back, and when the reason changes. */
  onChange: (() => void) | null = null;
  /**
   * Told when the origin can be reached again and refuses us (another lease, another disk, no such export).
   */
  onRefused: ((refusal: HandshakeError) => void) | null = null;
  readonly #options: OriginLinkOptions;
  readonly #outage: Outage;
  #connection: OriginConnection | null;
  readonly #unanswered: Unanswered;
  #retryTimer: NodeJS.Timeout | null = null;
  /** How much longer than usual the origin may be silent. */
  #patience = 1;
  /** The connection was given up for its silence, and no attempt has failed since. */
  #silentOnly = false;
  #closed = false;
  /** A connection of an earlier process; -1: none. */
  #relieves = -1;

  private constructor(
    options: OriginLinkOptions,
    identity: OriginIdentity,
    connection: OriginConnection | null,
  ) {
    this.#options = options;
    this.#outage = new Outage(describeOrigin(options.address));
    this.#connection = connection;
    this.identity = identity;
    this.lends = identity.uuid !== null;
    this.#unanswered = new Unanswered(this.lends);
    this.#unanswered.onKiller = () =>
      log.warning(
        `origin ${describeOrigin(options.address)} hangs up on a read instead of answering an error: what it hangs up on is tried alone, twice, and is an error then`,
      );
    if (connection !== null) {
      this.#watch(connection);
      this.#unanswered.connected(connection);
    }
  }

  /** @throws Error, one line, when the origin cannot be reached, refuses, or is another than `known`. */
  static async open(options: OriginLinkOptions): Promise<OriginLink> {
    const connection = await connectTo(options, options.known, 1);
    return new OriginLink(options, identityOf(connection.offer), connection);
  }

  /**
   * A link to an origin that was met before and may be away now: it connects in the background, for as long
   * as it takes.
   */
  static resume(options: OriginLinkOptions & { known: OriginIdentity }): OriginLink {
    const link = new OriginLink(options, options.known, null);
    link.#outage.begin('it has not been tried yet');
    link.#retry(0);
    return link;
  }

  /** Since when the origin cannot be reached; null while it can. */
  get unreachableSince(): Date | null {
    return this.#outage.since;
  }

  /** Why it cannot, in one line; null while it can. */
  get unreachableReason(): string | null {
    return this.#outage.reason;
  }

  /**
   * Fills `into`. @param unwanted true once nothing waits for it: then it may end with ESHUTDOWN while the
   * origin is away. @param background no client waits for it: an origin of ours answers others first.
   */
  read(
    into: Buffer,
    offset: number,
    done: Completion,
    { unwanted, background = false }: { unwanted?: () => boolean; background?: boolean } = {},
  ): void {
    const blocks = { first: blockAt(offset), end: blockBehind(offset + into.length) };
    const { sizeBytes } = this.identity;
    this.#submit(
      (connection, answered) => readRange(connection, into, { offset, sizeBytes, background }, answered),
      done,
      { blocks, ...(unwanted && { unwanted }) },
    );
  }

  /** While the origin is away: drops what nothing waits for any more. */
  dropUnwanted(): void {
    this.#unanswered.dropUnwanted();
  }

  /** Allocation at the origin, of as much as it will tell at once; ENOTSUP where it does not tell. */
  extents(offset: number, length: number, done: ExtentsCompletion): void {
    let answer: readonly Extent[] = [];
    this.#submit(
      (connection, answered) => {
        if (!connection.hasExtents) {
          answered.complete(Errno.ENOTSUP);
          return;
        }
        const { minimumBlock, extended } = connection.offer;
        const before = offset % minimumBlock;
        const limit = extended ? Number.MAX_SAFE_INTEGER : COMPACT_LENGTH;
        const whole = Math.min(
          roundUp(before + length, minimumBlock),
          this.identity.sizeBytes - offset + before,
          limit,
        );
        connection.extents(offset - before, whole, 0, {
          complete(errno, extents) {
            answer = cutExtents(extents, before, length);
            answered.complete(errno);
          },
        });
      },
      { complete: (errno) => done.complete(errno, answer) },
    );
  }

  /** One of the private commands; the caller has looked at `lends`. */
  command(type: number, done: Completion): void {
    this.#submit((connection, answered) => connection.command(type, 0, 0, 0, answered), done);
  }

  /**
   * The SHA-256 of [offset, +length), HASH_MAX bytes at most, comes into `into`; EINVAL from an origin of
   * ours that is too old to know the command. The caller has looked at `lends`.
   */
  hash(into: Buffer, offset: number, length: number, done: Completion): void {
    this.#submit((connection, answered) => {
      if (connection.offer.structured) connection.hash(into, offset, length, answered);
      else answered.complete(Errno.EINVAL);
    }, done);
  }

  /** Answered when the source's guest is gone; with ESHUTDOWN when the lease ends without that. */
  awaitSourceGone(done: Completion): void {
    this.#submit(
      (connection, answered) => connection.command(Command.XNBD_WAIT_GONE, 0, 0, 0, answered),
      done,
      { patient: false },
    );
  }

  /** For a plain origin: makes what was written there durable, if it knows how. */
  flush(done: Completion): void {
    this.#submit((connection, answered) => {
      if (!connection.has('SEND_FLUSH')) answered.complete(0);
      else {
        connection.command(Command.FLUSH, 0, 0, 0, {
          // After an oldstyle handshake nbdkit 1.32 offers FLUSH and does not know it.
          complete: (errno) =>
            answered.complete(errno === Errno.EINVAL && this.#options.allowOldstyle === true ? 0 : errno),
        });
      }
    }, done);
  }

  /** The orderly end. What is unanswered fails with ESHUTDOWN. */
  close(): void {
    this.#connection?.disconnect();
    this.leave();
  }

  /**
   * Ends the link as `close` does, and says nothing to the origin. @returns the descriptor of the connection,
   * which stays open until this process ends; -1: there is none
   */
  leave(): number {
    if (this.#closed) return -1;
    this.#closed = true;
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    const descriptor = this.#connection?.descriptor ?? -1;
    this.#connection = null;
    this.#unanswered.failAll();
    return descriptor;
  }

  /** Keeps a connection of an earlier process open until there is one of this process. */
  relieve(descriptor: number): void {
    this.#relieves = descriptor;
    setTimeout(() => this.#closeRelieved(), RELIEVED_MS).unref();
  }

  #closeRelieved(): void {
    if (this.#relieves >= 0) closeSync(this.#relieves);
    this.#relieves = -1;
  }

  #submit(
    send: (connection: OriginConnection, answered: Completion) => void,
    done: Completion,
    { patient = true, unwanted = () => false, blocks = null }: SubmitOptions = {},
  ): void {
    // A reply may come while the link closes.
    const settle = (errno: number, answered = false) => {
      if (this.#unanswered.end(operation, answered)) done.complete(errno);
    };
    const answered: Completion = {
      complete: (errno) => {
        // The origin is stopping: that is a lost connection and no answer.
        if (errno === Errno.ESHUTDOWN && patient && !this.#closed)
          this.#connection?.destroy(new Error('the origin is being stopped'));
        else settle(errno, errno === 0);
      },
    };
    const operation = new Operation({
      send: (connection) => send(connection, answered),
      fail: (errno) => settle(errno),
      unwanted,
      blocks,
    });
    this.#unanswered.add(operation);
    if (this.#closed) settle(Errno.ESHUTDOWN);
  }

  #watch(connection: OriginConnection): void {
    this.fenced = connection.offer.attached?.fenced ?? false;
    connection.onProbed = () => {
      this.#patience = 1;
    };
    connection.onClosed = (reason) => {
      if (this.#closed) return;
      this.#connection = null;
      this.#silentOnly = reason instanceof Stalled;
      const there = this.#unanswered.lost(reason);
      this.dropUnwanted();
      if (there) {
        this.#retry(HUNG_UP_RETRY_MS);
        return;
      }
      const delay = this.#outage.begin(reason.message, reason instanceof Stalled ? reason.seconds : 0);
      this.onChange?.();
      this.#retry(delay);
    };
  }

  #retry(delay: number): void {
    if (this.#closed) return;
    this.#retryTimer = setTimeout(() => {
      void this.#reconnect().catch((error: unknown) => {
        if (this.#closed) return;
        this.#silentOnly = false;
        const before = this.#outage.reason;
        this.#unanswered.unreachable();
        const next = this.#outage.failed((error as Error).message);
        if (error instanceof HandshakeError && error.refused) {
          this.refusal = error.message;
          this.onRefused?.(error);
        }
        if (this.#outage.reason !== before) this.onChange?.();
        this.#retry(next);
      });
    }, delay);
  }

  async #reconnect(): Promise<void> {
    if (this.#silentOnly) this.#patience = Math.min(this.#patience * 2, MOST_PATIENCE);
    const connection = await connectTo(this.#options, this.identity, this.#patience);
    if (this.#closed) {
      connection.disconnect();
      return;
    }
    if (this.mustBeFenced && connection.offer.attached?.fenced === false) await this.#fenceAgain(connection);
    if (this.#isClosed()) {
      connection.disconnect();
      return;
    }
    this.#connection = connection;
    this.refusal = null;
    this.#outage.end(this.#unanswered.size);
    this.#watch(connection);
    this.#closeRelieved();
    this.onChange?.();
    this.#unanswered.connected(connection);
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  /** @throws Error when the origin is not fenced: nothing may be read from it then. */
  async #fenceAgain(connection: OriginConnection): Promise<void> {
    const where = describeOrigin(this.#options.address);
    log.warning(`the origin ${where} was not fenced any more: it is fenced again before it is read`);
    const errno = await new Promise<number>((resolve, reject) => {
      connection.onClosed = reject;
      connection.command(Command.XNBD_TAKEOVER, 0, 0, 0, { complete: resolve });
    });
    if (errno === 0) return;
    connection.disconnect();
    throw new Error(`it is not fenced, and refuses to be (error ${errno})`);
  }
}

/** @throws Error, one line, when the origin cannot be reached, refuses, or is another than `known`. */
async function connectTo(
  { address, tls, lease, holder, expected, allowOldstyle = false }: OriginLinkOptions,
  known: OriginIdentity | null,
  patience: number,
): Promise<OriginConnection> {
  const attach = attachRequest(lease, known ?? expected ?? null, address, holder);
  const connection = await OriginConnection.connect({ address, tls, attach, allowOldstyle, patience });
  try {
    if (known !== null) checkIdentity(address, known, identityOf(connection.offer));
    else if (expected !== undefined) checkExpected(address, expected, identityOf(connection.offer));
    return connection;
  } catch (error) {
    connection.disconnect();
    throw error;
  }
}
