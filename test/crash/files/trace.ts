/**
 * What a program did to its files, in order: what the crash checker (check-crashes.ts) works on.
 *
 * The clock ticks once for each thing that happens: a call begins, a call ends, a request is answered. A
 * moment is a reading of it, and a crash at a moment finds done what had ended before, and perhaps what had
 * begun.
 */
export type Inode = number;

export type Operation =
  | { kind: 'write'; inode: Inode; offset: number; data: Buffer }
  /** Punched or zeroed within the file's size. */
  | { kind: 'zero'; inode: Inode; offset: number; length: number }
  | { kind: 'size'; inode: Inode; size: number }
  /** fsync or fdatasync, of a file or of a directory. */
  | { kind: 'sync'; inode: Inode }
  /**
   * A sync that failed: what it should have written the kernel forgets, and no later sync brings it. It ends when
   * its owner has done what it does about it; `failedAt`, by then at the latest, is when it failed.
   */
  | { kind: 'failed sync'; inode: Inode; failedAt?: number }
  /** A name for something new: a file or directory made. */
  | { kind: 'make'; directory: Inode; name: string; inode: Inode; what: 'file' | 'directory' }
  | { kind: 'remove'; directory: Inode; name: string }
  | { kind: 'move'; from: Inode; name: string; to: Inode; newName: string; inode: Inode };

export interface Event {
  operation: Operation;
  began: number;
  /** Infinity while it is under way. */
  ended: number;
}

/** A file's bytes, or a directory's entries. */
export type Node = { kind: 'file'; bytes: Buffer } | { kind: 'directory'; entries: Map<string, Inode> };

/** Files and directories; what cannot be reached from the root is lost. */
export type Tree = Map<Inode, Node>;

export const ROOT: Inode = 1;

export interface Trace {
  /** What was there, durably, when it began. */
  base: Tree;
  /** In the order in which they began. */
  events: Event[];
}

/** One clock for files and requests. */
export class Clock {
  #now = 0;

  get now(): number {
    return this.#now;
  }

  tick(): number {
    return ++this.#now;
  }
}

/** One line, for the report of a failure. @param names what inodes are called */
export function describeEvent({ operation, began, ended }: Event, names: ReadonlyMap<Inode, string>): string {
  const name = (inode: Inode) => names.get(inode) ?? `#${inode}`;
  const when = `${began}..${ended === Number.POSITIVE_INFINITY ? '' : ended}`;
  switch (operation.kind) {
    case 'write':
      return `${when} write ${name(operation.inode)} at ${operation.offset}, ${operation.data.length} bytes`;
    case 'zero':
      return `${when} zero ${name(operation.inode)} at ${operation.offset}, ${operation.length} bytes`;
    case 'size':
      return `${when} truncate ${name(operation.inode)} to ${operation.size}`;
    case 'failed sync':
      return `${when} sync of ${name(operation.inode)} FAILS`;
    case 'sync':
      return `${when} sync ${name(operation.inode)}`;
    case 'make':
      return `${when} make ${name(operation.directory)}/${operation.name}`;
    case 'remove':
      return `${when} remove ${name(operation.directory)}/${operation.name}`;
    case 'move':
      return `${when} rename ${name(operation.from)}/${operation.name} to ${name(operation.to)}/${operation.newName}`;
  }
}
