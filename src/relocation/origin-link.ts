/**
 * The link to the origin: a connection that comes back.
 *
 * Every operation is remembered until it is answered. When the connection breaks, the link connects again (backoff from 100 ms to
 * 5 s, for as long as it takes) and sends what has not been answered once more: all of it may be repeated (reads, block status,
 * and the private commands by design). So above the link a lost connection is only a wait. An error that the origin itself answers is
 * passed on.
 *
 * An origin that comes back as another disk (uuid, generation or size) is refused: the link stays down and says so.
 *
 * The first connection is the caller's: it fails loudly, so that a wrong URI is an error and not a wait.
 */

import { log } from '../log/log.ts';
import type { AttachRequest } from '../nbd/attach.ts';
import { HandshakeError, OriginRetired } from '../nbd/client-handshake.ts';
import { Command, Errno } from '../nbd/constants.ts';
import type { NbdAddress } from '../nbd/uri.ts';
import type { TlsParty } from '../pki/tls.ts';
import type { Completion, Extent, ExtentsCompletion } from '../store/completion.ts';
import { Countdown } from './countdown.ts';
import { describeAddress } from './dial-origin.ts';
import { OriginConnection } from './origin-connection.ts';

export interface OriginIdentity {
  /** null: a plain NBD server, which has none. */
  uuid: string | null;
  generation: number;
  sizeBytes: number;
}

export interface OriginLinkOptions {
  address: NbdAddress;
  /** For an nbds address. */
  tls?: TlsParty | undefined;
  lease: string;
  /** What the origin was when we first met; null at the first meeting. */
  known: OriginIdentity | null;
  /** The origin may be a server that speaks oldstyle. */
  allowOldstyle?: boolean;
}

const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;
/** The longest range of a compact request that whole blocks of any server fill. */
const COMPACT_LENGTH = 2 ** 32 - 65536;

/** An operation that the origin has not answered yet. */
interface Operation {
  send(connection: OriginConnection): void;
  /** For when the link is closed with the operation unanswered. */
  fail(errno: number): void;
}

export class OriginLink {
  readonly identity: OriginIdentity;
  /** The origin is one of ours: it takes the private commands. */
  readonly lends: boolean;
  /** Since when the origin cannot be reached; null while it can. */
  unreachableSince: Date | null = null;
  /** It was fenced for our lease when we attached last; null: we have not attached yet. */
  fenced: boolean | null = null;
  /** Told when the origin is lost, and when it is back. */
  onChange: (() => void) | null = null;
  /** Told when the origin can be reached again and refuses us (another lease, another disk, no such export). */
  onRefused: ((reason: string, retired: boolean) => void) | null = null;
  readonly #options: OriginLinkOptions;
  #connection: OriginConnection | null;
  readonly #unanswered = new Set<Operation>();
  #retryTimer: NodeJS.Timeout | null = null;
  #closed = false;

  private constructor(
    options: OriginLinkOptions,
    identity: OriginIdentity,
    connection: OriginConnection | null,
  ) {
    this.#options = options;
    this.#connection = connection;
    this.identity = identity;
    this.lends = identity.uuid !== null;
    if (connection !== null) this.#watch(connection);
  }

  /** @throws Error, one line, when the origin cannot be reached, refuses, or is another than `known`. */
  static async open(options: OriginLinkOptions): Promise<OriginLink> {
    const connection = await OriginConnection.connect({
      address: options.address,
      tls: options.tls,
      attach: attachRequest(options),
      allowOldstyle: options.allowOldstyle ?? false,
    });
    try {
      if (options.known !== null) checkIdentity(options.address, options.known, identityOf(connection));
    } catch (error) {
      connection.disconnect();
      throw error;
    }
    return new OriginLink(options, identityOf(connection), connection);
  }

  /** A link to an origin that was met before and may be away now: it connects in the background, for as long as it takes. */
  static resume(options: OriginLinkOptions & { known: OriginIdentity }): OriginLink {
    const link = new OriginLink(options, options.known, null);
    link.unreachableSince = new Date();
    link.#retry(0);
    return link;
  }

  /** Fills `into`. */
  read(into: Buffer, offset: number, done: Completion): void {
    this.#submit((connection, answered) => {
      const { minimumBlock, maximumPayload } = connection.offer;
      const before = offset % minimumBlock;
      const length = Math.min(
        roundUp(before + into.length, minimumBlock),
        this.identity.sizeBytes - offset + before,
      );
      // An origin with larger blocks than ours is asked for whole ones of its own.
      const whole = length === into.length ? into : Buffer.allocUnsafeSlow(length);
      const limit = maximumPayload - (maximumPayload % minimumBlock);
      const parts = new Countdown(Math.ceil(length / limit), {
        complete: (errno) => {
          if (errno === 0 && whole !== into) whole.copy(into, 0, before);
          answered.complete(errno);
        },
      });
      for (let at = 0; at < length; at += limit)
        connection.read(whole.subarray(at, at + limit), offset - before + at, parts);
    }, done);
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
   * The SHA-256 of [offset, +length), HASH_MAX bytes at most, comes into `into`; EINVAL from an origin of ours that is too old to
   * know the command. The caller has looked at `lends`.
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
      false,
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
    if (this.#closed) return;
    this.#closed = true;
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    this.#connection?.disconnect();
    this.#connection = null;
    for (const operation of [...this.#unanswered]) operation.fail(Errno.ESHUTDOWN);
  }

  /** @param patient an origin that stops has not answered: the operation is sent again when it is back. */
  #submit(
    send: (connection: OriginConnection, answered: Completion) => void,
    done: Completion,
    patient = true,
  ): void {
    const settle = (errno: number) => {
      if (errno === Errno.ESHUTDOWN && !this.#closed && patient) {
        // The origin is stopping: that is a lost connection and no answer.
        this.#connection?.destroy();
        return;
      }
      // A reply may come while the link closes.
      if (this.#unanswered.delete(operation)) done.complete(errno);
    };
    const answered: Completion = { complete: settle };
    const operation: Operation = { send: (connection) => send(connection, answered), fail: settle };
    this.#unanswered.add(operation);
    if (this.#closed) settle(Errno.ESHUTDOWN);
    else if (this.#connection !== null) operation.send(this.#connection);
  }

  #watch(connection: OriginConnection): void {
    this.fenced = connection.offer.attached?.fenced ?? false;
    connection.onClosed = (reason) => {
      if (this.#closed) return;
      this.#connection = null;
      this.unreachableSince = new Date();
      log.warning(`origin ${this.#where} lost: ${reason.message}; trying again`);
      this.onChange?.();
      this.#retry(FIRST_RETRY_MS);
    };
  }

  #retry(delay: number): void {
    this.#retryTimer = setTimeout(() => {
      void this.#reconnect().catch((error: unknown) => {
        if (this.#closed) return;
        const next = Math.min(Math.max(delay * 2, FIRST_RETRY_MS), LAST_RETRY_MS);
        const stubborn = error instanceof HandshakeError && error.refused;
        if (stubborn) this.onRefused?.(error.message, error instanceof OriginRetired);
        if (stubborn || next === LAST_RETRY_MS)
          log.warning(`origin ${this.#where}: ${(error as Error).message}`);
        this.#retry(next);
      });
    }, delay);
  }

  async #reconnect(): Promise<void> {
    const connection = await OriginConnection.connect({
      address: this.#options.address,
      tls: this.#options.tls,
      attach: attachRequest({ ...this.#options, known: this.identity }),
      allowOldstyle: this.#options.allowOldstyle ?? false,
    });
    if (this.#closed) {
      connection.disconnect();
      return;
    }
    try {
      checkIdentity(this.#options.address, this.identity, identityOf(connection));
    } catch (error) {
      connection.disconnect();
      throw error;
    }
    this.#connection = connection;
    this.unreachableSince = null;
    this.#watch(connection);
    log.info(`origin ${this.#where} is back; ${this.#unanswered.size} requests are sent again`);
    this.onChange?.();
    for (const operation of [...this.#unanswered]) operation.send(connection);
  }

  get #where(): string {
    return `${describeAddress(this.#options.address)}/${this.#options.address.name}`;
  }
}

/** What of the extents lies behind the first `skip` bytes, `length` bytes at most. */
function cutExtents(extents: readonly Extent[], skip: number, length: number): Extent[] {
  const found: Extent[] = [];
  let at = -skip;
  for (const extent of extents) {
    const from = Math.max(at, 0);
    at += extent.length;
    const until = Math.min(at, length);
    if (from < until) found.push({ length: until - from, flags: extent.flags });
  }
  return found;
}

function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

function attachRequest(options: OriginLinkOptions): AttachRequest {
  return {
    lease: options.lease,
    uuid: options.known?.uuid ?? null,
    generation: options.known?.generation ?? 0,
    name: options.address.name,
  };
}

function identityOf(connection: OriginConnection): OriginIdentity {
  const { attached, size } = connection.offer;
  return { uuid: attached?.uuid ?? null, generation: attached?.generation ?? 0, sizeBytes: size };
}

function checkIdentity(address: NbdAddress, known: OriginIdentity, met: OriginIdentity): void {
  const where = `${describeAddress(address)}/${address.name}`;
  if (met.sizeBytes !== known.sizeBytes) {
    throw new HandshakeError(
      `${where} has ${met.sizeBytes} bytes, not ${known.sizeBytes}: it is another disk`,
      true,
    );
  }
  if (met.uuid !== known.uuid || met.generation !== known.generation) {
    throw new HandshakeError(
      `${where} is disk ${met.uuid ?? '(none)'} generation ${met.generation}, not ${known.uuid ?? '(none)'} generation ${known.generation}`,
      true,
    );
  }
}
