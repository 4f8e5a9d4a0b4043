/**
 * What is wrong with an image's storage, as a state that begins and ends: logged when it begins, shown as
 * long as it lasts, and not told again by each of the requests that meet it.
 *
 * A kind of failure is over when QUIET_MS have passed without another one (nobody may ever ask for the same
 * bad sector again), so that what works pays nothing for it. A sync that failed is never over: what it lost
 * stays lost.
 */
import { log } from '../../log/log.ts';

const QUIET_MS = 300_000;

export type Call = 'read' | 'write' | 'punch' | 'zero range' | 'write of zeros' | 'fdatasync';

interface State {
  line: string;
  /** The last time that it was met, ms of a steady clock. */
  at: number;
  count: number;
}

export class ImageTrouble {
  readonly #path: string;
  /** By call and error. */
  readonly #states = new Map<string, State>();

  /** @param path of the image */
  constructor(path: string) {
    this.#path = path;
  }

  /** A call has failed. @param code the errno's name, or what else was wrong */
  met(call: Call, position: number, code: string | undefined): void {
    const kind = `${call}: ${code}`;
    const now = performance.now();
    const known = this.#states.get(kind);
    if (known !== undefined && this.#lasts(kind, known, now)) {
      known.at = now;
      known.count += 1;
      return;
    }
    const line =
      call === 'fdatasync'
        ? `image ${this.#path}: a sync failed (${code}): what was written since the one before may be lost, and no flush succeeds any more; mend its storage, then start the export again`
        : `image ${this.#path}: ${call} at offset ${position} failed: ${code}`;
    this.#states.set(kind, { line, at: now, count: 1 });
    log.error(call === 'fdatasync' ? line : `${line} (further ones are not logged)`, { id: 'storage-error' });
  }

  /** The gravest that lasts, in one line with how often it was met; null while all is well. */
  get line(): string | null {
    const now = performance.now();
    const lasting = [...this.#states].filter(([kind, state]) => this.#lasts(kind, state, now));
    const [, state] = lasting.find(([kind]) => kind.startsWith('fdatasync')) ?? lasting.at(-1) ?? [];
    if (state === undefined) return null;
    return state.count === 1 ? state.line : `${state.line} (${state.count} times)`;
  }

  /** A sync failed, in one line, or null. */
  get lostSync(): string | null {
    return [...this.#states].find(([kind]) => kind.startsWith('fdatasync'))?.[1].line ?? null;
  }

  /** Every block has been read or written since: what failed works again, but for syncs. */
  overcome(): void {
    for (const kind of [...this.#states.keys()]) if (!kind.startsWith('fdatasync')) this.#states.delete(kind);
  }

  #lasts(kind: string, { at }: State, now: number): boolean {
    return kind.startsWith('fdatasync') || now - at < QUIET_MS;
  }
}
