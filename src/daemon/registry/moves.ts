/**
 * The relocations that arrive on this host, moved on by what their exports say. Nothing here acts on an
 * export: it learns, writes down, and tells (`RelocationsEvents`), each telling once, also when the daemon
 * was away while it happened.
 */
import type { ExportStatus } from '../../control/protocol.ts';
import { log } from '../../log/log.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import { bootId } from '../../system/boot-id.ts';
import {
  deleteRelocation,
  newRelocation,
  type RelocationRecord,
  readRelocations,
  writeRelocation,
} from './move-file.ts';

type State = RelocationRecord['state'];

export interface RelocationsEvents {
  /** Something of it changed. */
  changed(relocation: RelocationRecord): void;
  /** It is in another state. */
  moved(relocation: RelocationRecord): void;
  /** False while nobody would hear: what is to be told is kept until `tellUntold`. */
  canTell(): boolean;
  /** It came into this state: to be told to the world. It may have moved on since. */
  tell(relocation: RelocationRecord, state: State): void;
  /** It is history, and forgotten. */
  removed(relocation: RelocationRecord): void;
}

type Domain = RelocationRecord['domain'];

/** How long what became of a relocation can be looked up. */
const keptMs = 24 * 3600 * 1000;

export class Relocations {
  readonly #dir: string;
  readonly #events: RelocationsEvents;
  readonly #byId = new Map<string, RelocationRecord>();
  /** Writes follow one another. */
  #writing: Promise<void> = Promise.resolve();

  constructor(dir: string, events: RelocationsEvents) {
    this.#dir = dir;
    this.#events = events;
  }

  /**
   * Takes up what an earlier daemon left, without telling yet: `catchUp` does, once its exports have been
   * looked at.
   */
  async load(): Promise<void> {
    const boot = await bootId();
    for (const relocation of await readRelocations(this.#dir)) {
      if (relocation.state === 'preparing' && relocation.boot !== boot) {
        relocation.state = 'failed';
        relocation.reason = 'this host was restarted before the guest had arrived';
        relocation.announced = false;
      }
      this.#byId.set(relocation.id, relocation);
    }
  }

  /** Tells what happened while no daemon was there. `record` reads an export's record. */
  async catchUp(record: (name: string) => Promise<ExportRecord | undefined>): Promise<void> {
    for (const relocation of this.all()) {
      this.#events.changed(relocation);
      if (isOver(relocation)) continue;
      for (const [name, done] of Object.entries(relocation.disks)) {
        if (done !== null) continue;
        const found = await record(name);
        if (found !== undefined) this.observe(asObserved(found));
        else if (relocation.state === 'relocating')
          this.fail(relocation, `disk ${name} is not on this host any more`);
      }
    }
    await this.tellUntold();
  }

  /** Tells what could not be told when it happened. */
  async tellUntold(): Promise<void> {
    for (const relocation of this.all()) this.#announce(relocation);
    await this.settled();
  }

  all(): RelocationRecord[] {
    return [...this.#byId.values()];
  }

  /** The relocation of a domain that is not over yet. */
  ofDomain(uuid: string): RelocationRecord | undefined {
    return this.all().find((relocation) => relocation.domain.uuid === uuid && !isOver(relocation));
  }

  /** The relocation of a disk that is not over yet. */
  ofExport(name: string): RelocationRecord | undefined {
    return this.all().find((relocation) => name in relocation.disks && !isOver(relocation));
  }

  /** Begins the wait for `prepare` now: setting up the disks has taken its own time. */
  async setLeased(relocation: RelocationRecord): Promise<void> {
    relocation.leasedAt = new Date().toISOString();
    this.#changed(relocation);
    await this.settled();
  }

  /** A domain is about to arrive with these disks. Resolves when that is on disk. */
  async begin(domain: Domain, disks: string[]): Promise<RelocationRecord> {
    for (const old of this.all()) if (old.domain.uuid === domain.uuid && isOver(old)) await this.#forget(old);
    const relocation = await newRelocation(domain, disks);
    this.#byId.set(relocation.id, relocation);
    this.#changed(relocation);
    await this.settled();
    return relocation;
  }

  async setPrepared(relocation: RelocationRecord): Promise<void> {
    relocation.prepared = true;
    this.#changed(relocation);
    await this.settled();
  }

  setResumed(relocation: RelocationRecord): void {
    relocation.resumed = true;
    this.#changed(relocation);
  }

  /** Learns from a status (or a record) of an export. */
  observe(status: Observed): void {
    const relocation = this.ofExport(status.name);
    if (relocation === undefined || status.state === 'standby') return;
    if (status.state === 'reclaimed') {
      this.fail(relocation, `disk ${status.name} was reclaimed by its origin`);
      return;
    }
    if (relocation.state === 'preparing') this.#move(relocation, 'relocating');
    if (!isComplete(status) || relocation.disks[status.name] !== null) return;
    relocation.disks[status.name] = {
      onDemandBytes: status.onDemandBytes,
      backgroundBytes: status.backgroundBytes,
      skippedBytes: status.skippedBytes,
      secondsSinceTakeover: status.secondsSinceTakeover,
    };
    this.#changed(relocation);
    if (Object.values(relocation.disks).every((done) => done !== null)) this.#move(relocation, 'completed');
  }

  fail(relocation: RelocationRecord, reason: string): void {
    if (isOver(relocation)) return;
    relocation.reason = reason;
    this.#move(relocation, 'failed');
  }

  /** Forgets what has been over for a day. */
  async sweep(now = Date.now()): Promise<void> {
    for (const relocation of this.all()) {
      if (isOver(relocation) && now - Date.parse(relocation.leasedAt) > keptMs)
        await this.#forget(relocation);
    }
  }

  /** Resolves when everything so far is on disk. */
  settled(): Promise<void> {
    return this.#writing;
  }

  #move(relocation: RelocationRecord, state: State): void {
    relocation.state = state;
    relocation.announced = false;
    this.#changed(relocation);
    this.#events.moved(relocation);
    this.#announce(relocation);
  }

  #announce(relocation: RelocationRecord): void {
    const { state } = relocation;
    // A state is on disk before it is told, so that a signal is never taken back; and marked as told right
    // after.
    this.#writing = this.#writing.then(async () => {
      if (relocation.announced || !this.#events.canTell()) return;
      this.#events.tell(relocation, state);
      // It has moved on meanwhile, and its new state is yet to be told.
      if (relocation.state !== state) return;
      relocation.announced = true;
      await this.#write(relocation);
    });
  }

  #changed(relocation: RelocationRecord): void {
    this.#events.changed(relocation);
    this.#writing = this.#writing.then(() => this.#write(relocation));
  }

  async #write(relocation: RelocationRecord): Promise<void> {
    try {
      await writeRelocation(this.#dir, relocation);
    } catch (error) {
      log.error(
        `the state of the relocation of ${relocation.domain.name} cannot be kept: ${(error as Error).message}`,
      );
    }
  }

  async #forget(relocation: RelocationRecord): Promise<void> {
    this.#byId.delete(relocation.id);
    await this.settled();
    await deleteRelocation(this.#dir, relocation.id);
    this.#events.removed(relocation);
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

/**
 * Is every block here, or was the disk wanted by the next host before that and has left (then there is no
 * more to come)?
 */
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
      return false;
  }
}

function isOver(relocation: RelocationRecord): boolean {
  return relocation.state === 'completed' || relocation.state === 'failed';
}
