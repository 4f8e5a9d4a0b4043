/**
 * One comparison of a relocating disk with its origin: every block that is present and that no guest has
 * written since the takeover must be here as it is there. The origin is fenced, so what it has does not
 * change meanwhile.
 *
 * With an origin of ours, hashes travel (HASH, docs/protocol.md): one for each megabyte, or for each run of
 * blocks that is shorter. Where two differ, the run is halved until the blocks are found. With any other
 * origin, or an older one of ours, the data travel, as much at a time as the background copy would have under
 * way. Holes on both sides are equal by the word of both, and not read at all.
 *
 * Guests write meanwhile. A block is marked in the written map before it is changed, and here it is looked at
 * in this order: read, compare, and only when it differs, look into the written map. So a block that is not
 * marked then was not being changed while it was read, and a difference is none of the guest's making. No
 * lock is needed for that, and no guest waits.
 */
import { Digests } from '../../export/digests.ts';
import { AllocationFlag, Errno, HASH_LENGTH, HASH_MAX } from '../../nbd/constants.ts';
import { BLOCK_SIZE, type BlockRange, blockAt, byteEnd, bytesIn } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import { type Pace, Reopening } from '../copy/pace.ts';
import type { OriginLink } from '../origin/link.ts';
import { PathWindow } from '../path/path-window.ts';
import { cutHoles, type Run } from './comparable-runs.ts';

/** Runs compared at once: on a long line the origin has always something to do. */
const UNDER_WAY = 32;
/** Blocks that are looked at in one step, for holes: 64 MiB. */
const STRETCH = 16_384;
const LONGEST = HASH_MAX / BLOCK_SIZE;
/** After so many differing blocks it does not matter any more which they are: runs are not halved then. */
const PLENTY = 4096;

export interface ComparisonParts {
  link: OriginLink;
  image: Image;
  map: PresentMap;
}

/**
 * What a block is that is not equal; doubtful is one that may have been written before a loss of power
 * (written-map.ts).
 */
export type Verdict = 'differs' | 'doubtful';

export class Comparison {
  /** What travels. */
  by: 'hashes' | 'data';
  /** How far the walk over the disk has come, bytes. */
  walkedBytes = 0;
  /** Bytes found equal; not looked at, as the guest has written them; not here yet. */
  comparedBytes = 0;
  writtenBytes = 0;
  absentBytes = 0;
  readonly #parts: ComparisonParts;
  readonly #found: (first: number, end: number, verdict: Verdict) => void;
  #foundBlocks = 0;
  readonly #digests: Digests;
  readonly #pace: Pace = new PathWindow({ probed: false });
  readonly #reopening = new Reopening(() => this.#proceed());
  #ahead: Run[] = [];
  /** The next block that the walk looks at. */
  #next = 0;
  #underWay = 0;
  #walked = false;
  #ended: Error | null = null;
  readonly #whole = Promise.withResolvers<null>();

  /** @param found told of blocks that are not equal, in any order. */
  constructor(parts: ComparisonParts, found: (first: number, end: number, verdict: Verdict) => void) {
    const { image, link } = parts;
    this.#parts = parts;
    this.#found = found;
    this.by = link.lends ? 'hashes' : 'data';
    this.#digests = new Digests((into, offset, done) => image.read(into, offset, done));
    // It may be stopped before `run` waits for it.
    this.#whole.promise.catch(() => undefined);
  }

  /**
   * Walks over the whole disk. Resolves when every block has been looked at, and nothing is under way.
   * @throws Error, one line, when the origin refuses; or the one given to `stop`. Nothing is under way then,
   * either.
   */
  async run(): Promise<void> {
    if (this.by === 'hashes' && !(await this.#knowsHashes())) this.by = 'data';
    this.#proceed();
    await this.#whole.promise;
  }

  /** Ends the walk; what the link has under way ends with the link. */
  stop(reason: Error): void {
    this.#ended ??= reason;
    this.#proceed();
  }

  async #knowsHashes(): Promise<boolean> {
    const { link, map } = this.#parts;
    const length = Math.min(BLOCK_SIZE, map.sizeBytes);
    const errno = await answered((done) => link.hash(Buffer.alloc(HASH_LENGTH), 0, length, done));
    return errno !== Errno.EINVAL;
  }

  #proceed(): void {
    while (this.#ended === null && this.#mayGoOn) {
      const run = this.#take();
      if (run === undefined) {
        this.#walked = true;
        break;
      }
      this.#underWay += 1;
      this.#check(run)
        .catch((error: unknown) => {
          this.#ended ??= error as Error;
        })
        .finally(() => {
          this.#underWay -= 1;
          this.#proceed();
        });
    }
    const wantsMore = this.by === 'data' && this.#ended === null && !this.#walked;
    if (wantsMore && !this.#pace.open) this.#reopening.await(this.#pace);
    if (this.#underWay > 0) return;
    if (this.#ended !== null) this.#whole.reject(this.#ended);
    else if (this.#walked) this.#whole.resolve(null);
  }

  get #mayGoOn(): boolean {
    return this.#underWay < UNDER_WAY && (this.by === 'hashes' || this.#pace.open);
  }

  /** The next run to be compared, short enough for one request; undefined at the end. */
  #take(): Run | undefined {
    while (this.#ahead.length === 0) if (!this.#look()) return undefined;
    const run = this.#ahead[0]!;
    const most = this.by === 'hashes' ? LONGEST : this.#pace.chunk / BLOCK_SIZE;
    if (run.hole || run.end - run.first <= most) return this.#ahead.shift();
    const cut = { ...run, end: run.first + most };
    run.first = cut.end;
    return cut;
  }

  /** Looks at the next stretch of the disk. @returns false at its end. */
  #look(): boolean {
    const { map, image } = this.#parts;
    const { written } = map;
    if (this.#next >= map.blocks) return false;
    const end = Math.min(this.#next + STRETCH, map.blocks);
    for (let at = this.#next; at < end; ) {
      const present = Math.min(map.nextPresent(at, end), end);
      this.absentBytes += this.#bytes(at, present);
      const absent = map.nextAbsent(present, end);
      for (let from = present; from < absent; ) {
        const first = written.nextUnwritten(from, absent);
        this.writtenBytes += this.#bytes(from, first);
        from = written.nextWritten(first, absent);
        if (first < from) this.#ahead.push(...cutHoles(image, first, from));
      }
      at = absent;
    }
    this.#next = end;
    this.walkedBytes = byteEnd(end, map.sizeBytes);
    return true;
  }

  async #check(run: Run): Promise<void> {
    if (run.hole) await this.#checkHole(run);
    else if (this.by === 'hashes') await this.#checkByHash(run.first, run.end);
    else await this.#checkByData(run.first, run.end);
  }

  /** A hole here: where the origin says that it reads zeros, that is all there is to compare. */
  async #checkHole({ first, end }: Run): Promise<void> {
    const { link } = this.#parts;
    let at = first;
    while (at < end && this.#ended === null) {
      const offset = at * BLOCK_SIZE;
      const zeroEnd = await new Promise<number>((resolve, reject) => {
        link.extents(offset, this.#bytes(at, end), {
          complete: (errno, extents) => {
            if (errno === Errno.ESHUTDOWN) reject(new Error('the link to the origin is closed'));
            // An origin that does not tell has data.
            if (errno !== 0) resolve(offset);
            let until = offset;
            for (const { length, flags } of extents) {
              if ((flags & AllocationFlag.ZERO) === 0) break;
              until += length;
            }
            resolve(until);
          },
        });
      });
      const { sizeBytes } = this.#parts.map;
      const equal = zeroEnd >= sizeBytes ? end : Math.min(blockAt(zeroEnd), end);
      this.comparedBytes += this.#bytes(at, equal);
      // Data there, or not known: some of it is read, then the origin is asked again for what follows.
      const dataEnd = Math.min(equal + LONGEST, end);
      at = dataEnd;
      if (equal === dataEnd) continue;
      if (this.by === 'hashes') await this.#checkByHash(equal, dataEnd);
      else await this.#checkByData(equal, dataEnd);
    }
  }

  async #checkByHash(first: number, end: number): Promise<void> {
    const { link } = this.#parts;
    if (this.#ended !== null) return;
    const offset = first * BLOCK_SIZE;
    const length = this.#bytes(first, end);
    const there = Buffer.allocUnsafe(HASH_LENGTH);
    const here = Buffer.allocUnsafe(HASH_LENGTH);
    refuseFailure(await answered((done) => link.hash(there, offset, length, done)), offset);
    const errno = await answered((done) =>
      this.#digests.digest(here, { offset, length, complete: (outcome) => done.complete(outcome) }),
    );
    if (errno === 0 && here.equals(there)) {
      this.comparedBytes += length;
      return;
    }
    await this.#narrow(first, end, (from, until) => this.#checkByHash(from, until));
  }

  async #checkByData(first: number, end: number): Promise<void> {
    const { link, image } = this.#parts;
    if (this.#ended !== null) return;
    const offset = first * BLOCK_SIZE;
    const length = this.#bytes(first, end);
    const there = Buffer.allocUnsafeSlow(length);
    const here = Buffer.allocUnsafeSlow(length);
    const sentAt = performance.now();
    this.#pace.sent(length);
    const errno = await answered((done) => link.read(there, offset, done));
    if (errno === 0) this.#pace.answered(length, performance.now() - sentAt, performance.now());
    else this.#pace.failed(length);
    refuseFailure(errno, offset);
    const readable = (await answered((done) => image.read(here, offset, done))) === 0;
    if (!readable) {
      await this.#narrow(first, end, (from, until) => this.#checkByData(from, until));
      return;
    }
    if (here.equals(there)) {
      this.comparedBytes += length;
      return;
    }
    for (const run of this.#unwritten(first, end)) {
      for (let block = run.first; block < run.end; block++) {
        const at = (block - first) * BLOCK_SIZE;
        const until = Math.min(at + BLOCK_SIZE, length);
        if (here.compare(there, at, until, at, until) === 0) this.comparedBytes += until - at;
        else this.#report(block, block + 1);
      }
    }
  }

  /**
   * [first, end) is not equal as a whole: looks for the blocks that are not, among those that no guest has
   * written meanwhile.
   */
  async #narrow(
    first: number,
    end: number,
    check: (first: number, end: number) => Promise<void>,
  ): Promise<void> {
    for (const run of this.#unwritten(first, end)) {
      const isWhole = run.first === first && run.end === end;
      if (isWhole && (end - first === 1 || this.#foundBlocks >= PLENTY)) this.#report(first, end);
      else if (isWhole) {
        const middle = first + Math.ceil((end - first) / 2);
        await check(first, middle);
        await check(middle, end);
      } else await check(run.first, run.end);
    }
  }

  #report(first: number, end: number): void {
    // When it was ended the origin may have been let go on.
    if (this.#ended !== null) return;
    const verdict = this.#parts.map.written.isInDoubt(first) ? 'doubtful' : 'differs';
    if (verdict === 'differs') this.#foundBlocks += end - first;
    this.#found(first, end, verdict);
  }

  /** What of [first, end) no guest has written up to now. The rest is counted as written. */
  #unwritten(first: number, end: number): BlockRange[] {
    const { written } = this.#parts.map;
    const runs: BlockRange[] = [];
    for (let at = first; at < end; ) {
      const from = written.nextUnwritten(at, end);
      this.writtenBytes += this.#bytes(at, from);
      at = written.nextWritten(from, end);
      if (from < at) runs.push({ first: from, end: at });
    }
    return runs;
  }

  #bytes(first: number, end: number): number {
    return bytesIn(first, end, this.#parts.map.sizeBytes);
  }
}

/** The errno with which something is answered. */
function answered(start: (done: Completion) => void): Promise<number> {
  return new Promise((resolve) => start({ complete: resolve }));
}

function refuseFailure(errno: number, offset: number): void {
  if (errno === Errno.ESHUTDOWN) throw new Error('the link to the origin is closed');
  if (errno !== 0) throw new Error(`the origin answers error ${errno} at offset ${offset}`);
}
