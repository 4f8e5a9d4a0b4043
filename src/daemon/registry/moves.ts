/**
 * The moves that arrive on this host, brought from state to state by what their exports say. Nothing here
 * acts on an export: it learns, writes down, and signals each state once, also when the daemon was away while
 * it was entered.
 */
import { EventEmitter } from 'node:events';
import type { ExportStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import { bootId } from '../../system/boot-id.ts';
import { deleteMove, type Move, newMove, readMoves, writeMove } from './move-file.ts';

type State = Move['state'];

export interface MovesEvents {
  /** Something of it changed. */
  changed: [Move];
  /** It is in another state. */
  entered: [Move];
  /** Its time is over, and its file deleted. */
  removed: [Move];
}

/** Signals that the move has entered this state. It may have entered another since. */
export type Signal = (move: Move, state: State) => void;

type Domain = Move['domain'];

/** For how long after its beginning a move that is over can be looked up. */
const keptMs = 24 * 3600 * 1000;

export class Moves extends EventEmitter<MovesEvents> {
  readonly #dir: string;
  #signal: Signal | undefined;
  readonly #byId = new Map<string, Move>();
  /** Writes follow one another. */
  #writing: Promise<void> = Promise.resolve();

  constructor(dir: string) {
    super();
    this.#dir = dir;
  }

  /**
   * Takes up what an earlier daemon left, without a signal yet: `catchUp` sends them, once its exports have
   * been looked at.
   */
  async load(): Promise<void> {
    const boot = await bootId();
    for (const move of await readMoves(this.#dir)) {
      if (move.state === 'preparing' && move.boot !== boot) {
        move.state = 'failed';
        move.reason = 'this host was restarted before the guest had arrived';
        move.signalled = false;
      }
      this.#byId.set(move.id, move);
    }
  }

  /** Learns and signals what happened while no daemon was there. `record` reads an export's record. */
  async catchUp(record: (name: string) => Promise<ExportRecord | undefined>): Promise<void> {
    for (const move of this.all()) {
      this.emit('changed', move);
      if (isOver(move)) continue;
      for (const [name, done] of Object.entries(move.disks)) {
        if (done !== null) continue;
        const found = await record(name).catch((error: unknown) => {
          log.error(`the move of ${move.domain.name} is not followed: ${(error as Error).message}`);
          return null;
        });
        if (found === null) continue;
        if (found !== undefined) this.observe(asObserved(found));
        else if (move.state === 'relocating') this.fail(move, `disk ${name} is not on this host any more`);
      }
    }
    await this.#signalPending();
  }

  /**
   * From now on states are signalled this way, those first that have not been signalled yet; undefined: they
   * are kept until there is a way again.
   */
  async signalBy(signal: Signal | undefined): Promise<void> {
    this.#signal = signal;
    await this.#signalPending();
  }

  async #signalPending(): Promise<void> {
    for (const move of this.all()) this.#signalState(move);
    await this.settled();
  }

  all(): Move[] {
    return [...this.#byId.values()];
  }

  /** The move of a domain that is not over yet. */
  ofDomain(uuid: string): Move | undefined {
    return this.all().find((move) => move.domain.uuid === uuid && !isOver(move));
  }

  /** The move of a disk that is not over yet. */
  ofExport(name: string): Move | undefined {
    return this.all().find((move) => name in move.disks && !isOver(move));
  }

  /** Begins the wait for `prepare` now: setting up the disks has taken its own time. */
  async setLeased(move: Move): Promise<void> {
    move.leasedAt = new Date().toISOString();
    this.#changed(move);
    await this.settled();
  }

  /** A domain is about to arrive with these disks. Resolves when that is on disk. */
  async begin(domain: Domain, disks: string[]): Promise<Move> {
    for (const old of this.all()) if (old.domain.uuid === domain.uuid && isOver(old)) await this.#forget(old);
    const move = await newMove(domain, disks);
    this.#byId.set(move.id, move);
    this.#changed(move);
    await this.settled();
    return move;
  }

  async setPrepared(move: Move): Promise<void> {
    move.prepared = true;
    this.#changed(move);
    await this.settled();
  }

  setResumed(move: Move): void {
    move.resumed = true;
    this.#changed(move);
  }

  /** Learns from a status (or a record) of an export. */
  observe(status: Observed): void {
    const move = this.ofExport(status.name);
    if (move === undefined || status.state === 'standby' || status.state === 'unknown') return;
    if (status.state === 'reclaimed') {
      this.fail(move, `disk ${status.name} was reclaimed by its origin`);
      return;
    }
    if (move.state === 'preparing') this.#enter(move, 'relocating');
    if (!isComplete(status) || move.disks[status.name] !== null) return;
    move.disks[status.name] = {
      onDemandBytes: status.onDemandBytes,
      backgroundBytes: status.backgroundBytes,
      skippedBytes: status.skippedBytes,
      secondsSinceTakeover: status.secondsSinceTakeover,
    };
    this.#changed(move);
    if (Object.values(move.disks).every((done) => done !== null)) this.#enter(move, 'completed');
  }

  fail(move: Move, reason: string): void {
    if (isOver(move)) return;
    move.reason = reason;
    this.#enter(move, 'failed');
  }

  /** Forgets what has been over for a day. */
  async sweep(now = Date.now()): Promise<void> {
    for (const move of this.all()) {
      if (isOver(move) && now - Date.parse(move.leasedAt) > keptMs) await this.#forget(move);
    }
  }

  /** Resolves when everything so far is on disk. */
  settled(): Promise<void> {
    return this.#writing;
  }

  #enter(move: Move, state: State): void {
    move.state = state;
    move.signalled = false;
    this.#changed(move);
    this.emit('entered', move);
    this.#signalState(move);
  }

  #signalState(move: Move): void {
    const { state } = move;
    // A state is on disk before it is signalled, so that no signal is ever taken back; and is marked as
    // signalled right after.
    this.#writing = this.#writing.then(async () => {
      if (move.signalled || this.#signal === undefined) return;
      this.#signal(move, state);
      // It has entered another state meanwhile, which is yet to be signalled.
      if (move.state !== state) return;
      move.signalled = true;
      await this.#write(move);
    });
  }

  #changed(move: Move): void {
    this.emit('changed', move);
    this.#writing = this.#writing.then(() => this.#write(move));
  }

  async #write(move: Move): Promise<void> {
    try {
      await writeMove(this.#dir, move);
    } catch (error) {
      log.error(
        `the state of the move of ${move.domain.name} cannot be written down: ${(error as Error).message}`,
      );
    }
  }

  async #forget(move: Move): Promise<void> {
    this.#byId.delete(move.id);
    await this.settled();
    await deleteMove(this.#dir, move.id);
    this.emit('removed', move);
  }
}

type Observed = Pick<
  ExportStatus,
  | 'name'
  | 'state'
  | 'sizeBytes'
  | 'presentBytes'
  | 'onDemandBytes'
  | 'backgroundBytes'
  | 'skippedBytes'
  | 'secondsSinceTakeover'
>;

function asObserved(record: ExportRecord): Observed {
  // The record of a disk that has moved on (fenced) tells by the duration whether it was complete before.
  const complete = record.state === 'serving' || record.relocationSeconds > 0;
  return {
    ...record,
    presentBytes: complete ? record.sizeBytes : 0,
    secondsSinceTakeover: record.relocationSeconds,
  };
}

/** Is every block here, or has the disk left for the next host before that (then no more blocks come)? */
function isComplete({ state, sizeBytes, presentBytes }: Observed): boolean {
  switch (state) {
    case 'serving':
    case 'retired':
      return true;
    case 'lent':
    case 'fencing':
    case 'fenced':
      return presentBytes >= sizeBytes;
    case 'standby':
    case 'relocating':
    case 'reclaimed':
    case 'unknown':
      return false;
  }
}

function isOver(move: Move): boolean {
  return move.state === 'completed' || move.state === 'failed';
}
