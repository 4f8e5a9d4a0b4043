/**
 * What the origin has been asked and has not answered: sent at once, and sent again when the origin is back.
 *
 * There are servers that hang up on a request instead of answering it with an error: they crash on a bad
 * sector, or have sent half of the answer when they meet it. Such a request, sent again with all the others,
 * would take the connection with it for ever, and no good block would come. So what was under way at two
 * losses of the connection in a row is suspect, and suspects are tried alone, one after the other: nothing
 * else is on the line then, and between two of them all that waits has its turn. A suspect upon which the
 * server hangs up twice while it is alone is answered EIO. That read is remembered: what covers a block of it
 * is suspect from the beginning, which is how the one bad block is found in it (fetch/salvage.ts) and tried
 * again later.
 *
 * An outage must not be taken for that, because a block that cannot be reached is a wait and no error. So
 * what tells against a request is the orderly end of a connection that the server had accepted. A reset tells
 * against no request that was alone; silence, a server that stops, and an attempt to connect that fails clear
 * all suspects. And none of it holds for an origin of ours, which answers its errors.
 */
import { HungUp, type OriginConnection } from '../../client/connection.ts';
import { Errno } from '../../nbd/constants.ts';
import { type BlockRange, BlockRanges } from '../../store/block-ranges.ts';

/** Losses of the connection that make a request suspect, and those that convict it once it is alone. */
const LOSSES = 2;
/** Ranges that the server has hung up on which are remembered. */
const MOST_KILLERS = 4096;
/** What the kernel says of a connection that the other end closed with requests unread. */
const CLOSED_UNREAD: ReadonlySet<string | undefined> = new Set(['ECONNRESET', 'EPIPE']);

/** One that the origin has not answered yet. */
export class Operation {
  readonly send: (connection: OriginConnection) => void;
  /** Ends it with an error of ours: the link is closed, nothing waits for it, the server hangs up on it. */
  readonly fail: (errno: number) => void;
  /** Nothing waits for it any more: it need not be sent again. */
  readonly unwanted: () => boolean;
  /** The blocks that it reads; null: it reads none. */
  readonly blocks: BlockRange | null;
  /** It is under way on the connection that there is. */
  sent = false;
  /** Connections in a row that were lost with it under way. */
  losses = 0;
  /** Those of them that ended in order while it was alone. */
  kills = 0;

  constructor(options: Pick<Operation, 'send' | 'fail' | 'unwanted' | 'blocks'>) {
    this.send = options.send;
    this.fail = options.fail;
    this.unwanted = options.unwanted;
    this.blocks = options.blocks;
  }
}

export class Unanswered {
  /** Told of the first request that is found to end the connection. */
  onKiller: (() => void) | null = null;
  readonly #answersErrors: boolean;
  /** In the order in which they came. */
  readonly #operations = new Set<Operation>();
  readonly #suspects = new Set<Operation>();
  readonly #killers = new BlockRanges(MOST_KILLERS);
  #connection: OriginConnection | null = null;
  /** How many are under way. */
  #underWay = 0;
  #othersTurn = false;
  #sending = false;
  #foundKiller = false;

  /** @param answersErrors the origin is one of ours, and does not hang up on what it cannot do */
  constructor(answersErrors: boolean) {
    this.#answersErrors = answersErrors;
  }

  get size(): number {
    return this.#operations.size;
  }

  add(operation: Operation): void {
    this.#operations.add(operation);
    const { blocks } = operation;
    if (blocks !== null && this.#killers.hasAny(blocks.first, blocks.end)) this.#suspects.add(operation);
    if (this.#suspects.size === 0) this.#send(operation);
    else this.#proceed();
  }

  /** @param answered by the origin, without an error. @returns false when it had ended already */
  end(operation: Operation, answered: boolean): boolean {
    if (!this.#operations.delete(operation)) return false;
    const { blocks, sent } = operation;
    const waiting = this.#suspects.size > 0;
    this.#suspects.delete(operation);
    if (sent) this.#underWay -= 1;
    if (answered && blocks !== null) this.#killers.remove(blocks.first, blocks.end);
    if (waiting) this.#proceed();
    return true;
  }

  /** While the origin is away: ends what nothing waits for any more. */
  dropUnwanted(): void {
    if (this.#connection !== null) return;
    for (const operation of [...this.#operations]) if (operation.unwanted()) operation.fail(Errno.ESHUTDOWN);
  }

  failAll(): void {
    this.#connection = null;
    for (const operation of [...this.#operations]) operation.fail(Errno.ESHUTDOWN);
  }

  connected(connection: OriginConnection): void {
    this.#connection = connection;
    this.#othersTurn = true;
    this.#proceed();
  }

  /** An attempt to connect has failed. */
  unreachable(): void {
    this.#acquit();
  }

  /**
   * The connection is lost.
   * @returns true when it may be a request that ended it: the origin is there then, and can be dialled again
   * soon
   */
  lost(reason: Error): boolean {
    this.#connection = null;
    const underWay = [...this.#operations].filter(({ sent }) => sent);
    const trial = underWay.length === 1 && this.#suspects.has(underWay[0]!);
    for (const operation of underWay) operation.sent = false;
    this.#underWay = 0;
    const orderly = reason instanceof HungUp;
    if (this.#answersErrors || !(orderly || CLOSED_UNREAD.has((reason as NodeJS.ErrnoException).code))) {
      this.#acquit();
      return false;
    }
    for (const operation of underWay) {
      operation.losses += 1;
      if (operation.losses >= LOSSES) this.#suspects.add(operation);
    }
    if (trial) this.#judge(underWay[0]!, orderly);
    return trial || (this.#foundKiller && underWay.length > 0);
  }

  #judge(suspect: Operation, orderly: boolean): void {
    suspect.kills = orderly ? suspect.kills + 1 : 0;
    if (suspect.kills < LOSSES) return;
    if (!this.#foundKiller) this.onKiller?.();
    this.#foundKiller = true;
    if (suspect.blocks !== null) this.#killers.add(suspect.blocks.first, suspect.blocks.end);
    suspect.fail(Errno.EIO);
  }

  #acquit(): void {
    for (const operation of this.#operations) operation.losses = operation.kills = 0;
    this.#suspects.clear();
  }

  /** Sends what has its turn: all, while nothing is suspect. */
  #proceed(): void {
    if (this.#connection === null || this.#underWay > 0 || this.#sending) return;
    this.#sending = true;
    if (this.#suspects.size === 0 || this.#othersTurn) {
      this.#othersTurn = false;
      for (const operation of [...this.#operations])
        if (!operation.sent && !this.#suspects.has(operation)) this.#send(operation);
    }
    const [suspect] = this.#suspects;
    if (suspect !== undefined && this.#underWay === 0) {
      this.#othersTurn = true;
      this.#send(suspect);
    }
    this.#sending = false;
    // It may have been answered within the call.
    if (this.#underWay === 0 && this.#operations.size > 0) this.#proceed();
  }

  #send(operation: Operation): void {
    if (this.#connection === null || !this.#operations.has(operation)) return;
    operation.sent = true;
    this.#underWay += 1;
    operation.send(this.#connection);
  }
}
