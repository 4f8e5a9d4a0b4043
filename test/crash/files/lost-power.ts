/**
 * What a crash leaves of the files.
 *
 * **kill -9**: every call that had ended is done, one that was under way is done, or in part, or not.
 *
 * **Loss of power**: only what was synced is certain. A sync covers the calls that had ended when it began,
 * once it has ended itself. Of the rest the kernel may have written back anything, in any order:
 *
 * - Data: a sector of 512 bytes on disk is what that sector was in the page cache after one of the unsynced
 *   calls that touched it, or what it was before all of them. Each sector by itself, so that writes are
 *   dropped, reordered, and torn at 512 or 4096 bytes. A punch is a write of zeros. The size of the file is
 *   one that it had meanwhile, whatever became of its data.
 * - Names: each making, removing and renaming may be there or not, whatever became of the others, and of the
 *   data of the file. Two limits keep to what a journal can leave: a rename is wholly there or not at all,
 *   and a name is made anew only where the removal of the earlier one is there, too. A sync of a file says
 *   nothing of its name: that takes a sync of its directory.
 *
 * **A sync that failed**: what it should have covered is forgotten by the kernel. Whatever happens
 * afterwards, and be it a mere kill -9, each sector of that may be there or not: its page may stay in memory
 * for a while, or go.
 *
 * Which of the many states is left is decided by chance, by a strategy a file: pure strategies (nothing, all,
 * the last call only, all but one) find most faults of order, sectors by lot find the torn ones.
 */
import type { Event, Inode, Node, Operation, Trace, Tree } from './trace.ts';

const SECTOR = 512;
const PAGE = 4096;

export type Crash = 'kill' | 'power';

export interface CrashOptions {
  moment: number;
  /** What becomes of a file or directory. */
  crashOf: (inode: Inode) => Crash;
  /** In [0, 1). */
  random: () => number;
  /** Of a call that was under way at kill -9: it is done or not, never in part. */
  whole?: boolean;
  /** What a failed sync has lost is in memory still. */
  remembers?: boolean;
}

/** Does the call happen to this piece of it? Asked once for each sector, in order. */
type Fate = (sector: number) => boolean;

/** @returns what is left, and which calls under way at kill -9 are in it */
export function leftBy(trace: Trace, options: CrashOptions): { tree: Tree; done: Set<Event> } {
  const begun = trace.events.filter((event) => event.began < options.moment);
  const tree: Tree = new Map();
  for (const [inode, node] of trace.base) tree.set(inode, copyOf(node));
  for (const { operation } of begun) {
    if (operation.kind !== 'make') continue;
    const { inode, what } = operation;
    tree.set(
      inode,
      what === 'file' ? { kind: 'file', bytes: Buffer.alloc(0) } : { kind: 'directory', entries: new Map() },
    );
  }
  const done = new Set<Event>();
  const data = new Map<Inode, Event[]>();
  const names: Event[] = [];
  for (const event of begun) {
    const { operation } = event;
    if (operation.kind === 'write' || operation.kind === 'zero' || operation.kind === 'size') {
      const events = data.get(operation.inode) ?? [];
      events.push(event);
      data.set(operation.inode, events);
    } else if (operation.kind !== 'sync' && operation.kind !== 'failed sync') names.push(event);
  }
  const synced = syncsOf(begun, options.moment);
  const forgotten = options.remembers === true ? new Set<Event>() : forgottenBy(begun, options.moment);
  for (const [inode, events] of data) leaveData(tree, inode, events, { synced, forgotten }, options, done);
  leaveNames(tree, names, synced, options, done);
  return { tree, done };
}

function copyOf(node: Node): Node {
  return node.kind === 'file'
    ? { kind: 'file', bytes: Buffer.from(node.bytes) }
    : { kind: 'directory', entries: new Map(node.entries) };
}

type Synced = (inode: Inode, event: Event) => boolean;

function syncsOf(events: Event[], moment: number): Synced {
  const latest = new Map<Inode, number>();
  for (const { operation, began, ended } of events) {
    if (operation.kind === 'sync' && ended < moment)
      latest.set(operation.inode, Math.max(latest.get(operation.inode) ?? 0, began));
  }
  return (inode, event) => event.ended < (latest.get(inode) ?? 0);
}

/** What failed syncs should have written, and no earlier sync had. */
function forgottenBy(events: Event[], moment: number): Set<Event> {
  const forgotten = new Set<Event>();
  for (const failed of events) {
    if (failed.operation.kind !== 'failed sync' || failed.ended >= moment) continue;
    const { inode, failedAt = failed.ended } = failed.operation;
    const synced = syncsOf(events, failedAt);
    for (const event of events) {
      const { operation } = event;
      if (operation.kind !== 'write' && operation.kind !== 'zero') continue;
      if (operation.inode === inode && event.ended < failedAt && !synced(inode, event)) forgotten.add(event);
    }
  }
  return forgotten;
}

function leaveData(
  tree: Tree,
  inode: Inode,
  events: Event[],
  { synced, forgotten }: { synced: Synced; forgotten: ReadonlySet<Event> },
  options: CrashOptions,
  done: Set<Event>,
): void {
  const node = tree.get(inode);
  if (node?.kind !== 'file') return;
  const { random, moment } = options;
  const killed = options.crashOf(inode) === 'kill';
  const left = new File(node.bytes);
  // What the page cache holds, call by call; what the disk holds is copied from it, sector by sector.
  const cache = new File(Buffer.from(node.bytes));
  const isUncertain = (event: Event) => forgotten.has(event) || (!killed && !synced(inode, event));
  const pending = events.filter(isUncertain);
  const fates = strategy(pending.length, random);
  for (const event of events) {
    const ended = event.ended < moment;
    const operation = event.operation as DataOperation;
    let fate: Fate;
    if (isUncertain(event)) fate = fates(pending.indexOf(event));
    else if (killed) fate = ended ? always : underWay(options);
    else fate = always;
    // A call that was under way may not have reached the page cache, either: then the disk does not have it.
    cache.apply(operation);
    if (left.writeBack(operation, cache, fate)) done.add(event);
  }
  tree.set(inode, { kind: 'file', bytes: left.bytes() });
}

const always: Fate = () => true;
const never: Fate = () => false;

function underWay({ random, whole = false }: CrashOptions): Fate {
  const chance = random();
  if (chance < 0.4) return always;
  if (chance < 0.8 || whole) return never;
  // A long write that is broken off ends at a page.
  let goes = true;
  return (sector) => {
    if (sector % (PAGE / SECTOR) === 0 && random() < 0.3) goes = false;
    return goes;
  };
}

/** @returns the fate of each of the unsynced calls of one file */
function strategy(count: number, random: () => number): (index: number) => Fate {
  const chosen = Math.floor(random() * count);
  const share = random();
  const lot: Fate = () => random() < share;
  let page = -1;
  let goes = false;
  const pageLot: Fate = (sector) => {
    const at = Math.floor(sector / (PAGE / SECTOR));
    if (at !== page) goes = random() < share;
    page = at;
    return goes;
  };
  switch (Math.floor(random() * 9)) {
    case 0:
    case 1:
      return () => never;
    case 2:
    case 3:
      return () => always;
    case 4:
      return (index) => (index === count - 1 ? always : never);
    case 5:
      return (index) => (index === chosen ? always : never);
    case 6:
      return (index) => (index === chosen ? never : always);
    case 7:
      return () => {
        page = -1;
        return pageLot;
      };
    default:
      return () => lot;
  }
}

type DataOperation = Extract<Operation, { kind: 'write' | 'zero' | 'size' }>;

/** A file's bytes, with room to grow. */
class File {
  #bytes: Buffer;
  #size: number;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#size = bytes.length;
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#size);
  }

  apply(operation: DataOperation): void {
    switch (operation.kind) {
      case 'write':
        this.#resize(Math.max(this.#size, operation.offset + operation.data.length));
        operation.data.copy(this.#bytes, operation.offset);
        break;
      case 'zero':
        this.#bytes.fill(0, Math.min(operation.offset, this.#size), Math.min(endOf(operation), this.#size));
        break;
      case 'size':
        this.#resize(operation.size);
        break;
    }
  }

  /** Takes over from the page cache what fate lets through of a call. @returns something was */
  writeBack(operation: DataOperation, cache: File, fate: Fate): boolean {
    if (operation.kind === 'size') {
      if (!fate(0)) return false;
      this.#resize(operation.size);
      return true;
    }
    const end = Math.min(endOf(operation), cache.#size);
    let any = false;
    for (let sector = Math.floor(operation.offset / SECTOR); sector * SECTOR < end; sector++) {
      if (!fate(sector)) continue;
      any = true;
      const until = Math.min((sector + 1) * SECTOR, cache.#size);
      if (until > this.#size) this.#resize(until);
      cache.#bytes.copy(this.#bytes, sector * SECTOR, sector * SECTOR, until);
    }
    return any;
  }

  #resize(size: number): void {
    if (size > this.#bytes.length) {
      const grown = Buffer.alloc(Math.max(size, this.#bytes.length * 2));
      this.#bytes.copy(grown);
      this.#bytes = grown;
    }
    if (size < this.#size) this.#bytes.fill(0, size, this.#size);
    this.#size = size;
  }
}

function endOf(operation: Extract<DataOperation, { offset: number }>): number {
  return operation.offset + (operation.kind === 'write' ? operation.data.length : operation.length);
}

type NameOperation = Extract<Operation, { kind: 'make' | 'remove' | 'move' }>;

function leaveNames(
  tree: Tree,
  events: Event[],
  synced: Synced,
  options: CrashOptions,
  done: Set<Event>,
): void {
  const { random, moment } = options;
  const isCertain = (event: Event) => {
    const directory = directoryOf(event.operation as NameOperation);
    if (options.crashOf(directory) === 'kill') return event.ended < moment;
    return synced(directory, event);
  };
  const pending = events.filter((event) => !isCertain(event));
  const fates = strategy(pending.length, random);
  // Names whose last removal is not on disk.
  const occupied = new Set<string>();
  for (const event of events) {
    const operation = event.operation as NameOperation;
    const target =
      operation.kind === 'move'
        ? `${operation.to}/${operation.newName}`
        : `${operation.directory}/${operation.name}`;
    const source = operation.kind === 'move' ? `${operation.from}/${operation.name}` : target;
    const index = pending.indexOf(event);
    const happens = index === -1 || fates(index)(0);
    if (operation.kind === 'make' && occupied.has(target) && index !== -1) continue;
    if (!happens) {
      if (operation.kind !== 'make') occupied.add(source);
      continue;
    }
    done.add(event);
    occupied.delete(source);
    applyName(tree, operation);
  }
}

function directoryOf(operation: NameOperation): Inode {
  return operation.kind === 'move' ? operation.to : operation.directory;
}

function applyName(tree: Tree, operation: NameOperation): void {
  const entries = (inode: Inode) => {
    const node = tree.get(inode);
    if (node?.kind !== 'directory') throw new Error(`inode ${inode} is no directory`);
    return node.entries;
  };
  switch (operation.kind) {
    case 'make':
      entries(operation.directory).set(operation.name, operation.inode);
      break;
    case 'remove':
      entries(operation.directory).delete(operation.name);
      break;
    case 'move':
      entries(operation.from).delete(operation.name);
      entries(operation.to).set(operation.newName, operation.inode);
      break;
  }
}
