/** The states that the crash checker builds are those that a kernel may leave: no more, and all of them. */
import assert from 'node:assert/strict';
import { Random } from '../../lab/model/random.ts';
import { type Crash, leftBy } from './lost-power.ts';
import { type Event, type Operation, ROOT, type Trace, type Tree } from './trace.ts';
import { pathsOf } from './tree.ts';

const FILE = 2;
const OTHER = 3;
const SECTOR = 512;

/** One call after the other, each from 2n+1 to 2n+2. */
function traceOf(base: Record<string, [number, Buffer]>, ...operations: Operation[]): Trace {
  const tree: Tree = new Map();
  tree.set(ROOT, {
    kind: 'directory',
    entries: new Map(Object.entries(base).map(([name, [inode]]) => [name, inode])),
  });
  for (const [inode, bytes] of Object.values(base)) tree.set(inode, { kind: 'file', bytes });
  const events = operations.map(
    (operation, index): Event => ({ operation, began: 2 * index + 1, ended: 2 * index + 2 }),
  );
  return { base: tree, events };
}

/** Every state met in many tries, as text. */
function statesOf(trace: Trace, crash: Crash, moment: number, show: (tree: Tree) => string): Set<string> {
  const random = new Random(7).fraction;
  const met = new Set<string>();
  for (let tries = 0; tries < 600; tries++)
    met.add(show(leftBy(trace, { moment, random, crashOf: () => crash }).tree));
  return met;
}

const AFTER = 1000;
const sectors = (tree: Tree) => {
  const node = tree.get(FILE)!;
  assert.ok(node.kind === 'file');
  let shown = '';
  for (let at = 0; at < node.bytes.length; at += SECTOR) shown += node.bytes.toString('latin1', at, at + 1);
  return shown;
};
const names = (tree: Tree) =>
  [...pathsOf(tree)]
    .filter(([path]) => path !== '')
    .map(([path, inode]) => `${path}=${inode}`)
    .sort()
    .join(' ');
const bytes = (letter: string, count: number) => Buffer.alloc(count * SECTOR, letter);
const write = (letter: string, first: number, count: number): Operation => ({
  kind: 'write',
  inode: FILE,
  offset: first * SECTOR,
  data: bytes(letter, count),
});
const sync = (inode: number): Operation => ({ kind: 'sync', inode });

describe('what a crash leaves', () => {
  it('of synced data: all of it, and of a write under way to a sync: anything', () => {
    const trace = traceOf({ f: [FILE, bytes('-', 2)] }, write('a', 0, 2), sync(FILE));
    assert.deepEqual(statesOf(trace, 'power', AFTER, sectors), new Set(['aa']));
    assert.deepEqual(statesOf(trace, 'power', 4, sectors), new Set(['--', 'a-', '-a', 'aa']));
    trace.events[0]!.ended = 3.5;
    assert.ok(statesOf(trace, 'power', AFTER, sectors).has('--'), 'it had not ended when the sync began');
  });

  it('of unsynced writes: dropped, reordered and torn, each sector as it once was', () => {
    const trace = traceOf({ f: [FILE, bytes('-', 3)] }, write('a', 0, 2), write('b', 1, 2));
    const met = statesOf(trace, 'power', AFTER, sectors);
    const possible = ['-', 'a'].flatMap((one) =>
      ['-', 'a', 'b'].flatMap((two) => ['-', 'b'].map((three) => one + two + three)),
    );
    assert.deepEqual([...met].sort(), possible.sort());
  });

  it('of a write to a part of a sector: never without what was written there before', () => {
    const half = { kind: 'write' as const, inode: FILE, offset: 256, data: Buffer.from('b') };
    const trace = traceOf({ f: [FILE, bytes('-', 1)] }, write('a', 0, 1), half);
    const met = statesOf(trace, 'power', AFTER, (tree) => {
      const node = tree.get(FILE)!;
      return node.kind === 'file' ? node.bytes.toString('latin1', 255, 257) : '';
    });
    assert.deepEqual([...met].sort(), ['--', 'aa', 'ab']);
  });

  it('of a punch, a truncation and an appended write: there or not, sizes apart from data', () => {
    const punched = traceOf(
      { f: [FILE, bytes('-', 2)] },
      { kind: 'zero', inode: FILE, offset: 0, length: 2 * SECTOR },
    );
    assert.deepEqual(
      [...statesOf(punched, 'power', AFTER, sectors)].sort(),
      ['--', '-\0', '\0-', '\0\0'].sort(),
    );
    const grown = traceOf({ f: [FILE, Buffer.alloc(0)] }, write('a', 0, 2));
    const met = statesOf(grown, 'power', AFTER, sectors);
    for (const state of ['', 'a', '\0a', 'aa']) assert.ok(met.has(state), JSON.stringify([...met]));
    const cut = traceOf({ f: [FILE, bytes('-', 2)] }, { kind: 'size', inode: FILE, size: SECTOR });
    assert.deepEqual([...statesOf(cut, 'power', AFTER, sectors)].sort(), ['-', '--']);
  });

  it('of a file that was renamed over another: the old or the new, whole only if it was synced', () => {
    const replacing: Operation[] = [
      { kind: 'make', directory: ROOT, name: 'new', inode: OTHER, what: 'file' },
      { kind: 'write', inode: OTHER, offset: 0, data: bytes('n', 1) },
      { kind: 'move', from: ROOT, name: 'new', to: ROOT, newName: 'f', inode: OTHER },
    ];
    const trace = traceOf({ f: [FILE, bytes('o', 1)] }, ...replacing);
    const show = (tree: Tree) => {
      const node = tree.get(pathsOf(tree).get('f')!)!;
      return node.kind === 'file' ? node.bytes.toString('latin1', 0, 1) : '';
    };
    assert.deepEqual([...statesOf(trace, 'power', AFTER, show)].sort(), ['', 'n', 'o'].sort());
    const [make, data, move] = replacing;
    const safe = traceOf({ f: [FILE, bytes('o', 1)] }, make!, data!, sync(OTHER), move!);
    assert.deepEqual([...statesOf(safe, 'power', AFTER, show)].sort(), ['n', 'o']);
    const certain = traceOf({ f: [FILE, bytes('o', 1)] }, make!, data!, sync(OTHER), move!, sync(ROOT));
    assert.deepEqual(statesOf(certain, 'power', AFTER, show), new Set(['n']));
  });

  it('of names: each by itself, until the directory is synced; a sync of the file says nothing', () => {
    const operations: Operation[] = [
      { kind: 'remove', directory: ROOT, name: 'f' },
      { kind: 'make', directory: ROOT, name: 'g', inode: OTHER, what: 'file' },
      sync(OTHER),
    ];
    const trace = traceOf({ f: [FILE, bytes('-', 1)] }, ...operations);
    assert.deepEqual(
      [...statesOf(trace, 'power', AFTER, names)].sort(),
      ['', 'f=2', 'f=2 g=3', 'g=3'].sort(),
    );
    const certain = traceOf({ f: [FILE, bytes('-', 1)] }, ...operations, sync(ROOT));
    assert.deepEqual(statesOf(certain, 'power', AFTER, names), new Set(['g=3']));
  });

  it('of a name made anew: not both the old and the new are lost', () => {
    const trace = traceOf(
      { f: [FILE, bytes('-', 1)] },
      { kind: 'move', from: ROOT, name: 'f', to: ROOT, newName: 'kept', inode: FILE },
      { kind: 'make', directory: ROOT, name: 'f', inode: OTHER, what: 'file' },
    );
    const met = statesOf(trace, 'power', AFTER, names);
    assert.deepEqual([...met].sort(), ['f=2', 'f=3 kept=2', 'kept=2']);
  });

  it('kill -9: all that had ended, and of what was under way all, a part or nothing', () => {
    const trace = traceOf({ f: [FILE, bytes('-', 16)] }, write('a', 0, 1), write('b', 8, 8));
    assert.deepEqual(statesOf(trace, 'kill', AFTER, sectors), new Set([`a${'-'.repeat(7)}${'b'.repeat(8)}`]));
    trace.events[1]!.operation = { kind: 'write', inode: FILE, offset: 0, data: bytes('b', 16) };
    const met = statesOf(trace, 'kill', 4, sectors);
    assert.deepEqual(
      [...met].sort(),
      [`a${'-'.repeat(15)}`, 'b'.repeat(16), `${'b'.repeat(8)}${'-'.repeat(8)}`].sort(),
    );
  });

  it('a sync that failed: what it should have covered, as anything, whatever is synced later', () => {
    const failed: Operation = { kind: 'failed sync', inode: FILE };
    const operations = [write('a', 0, 1), sync(FILE), write('b', 1, 1), failed, write('c', 2, 1), sync(FILE)];
    const trace = traceOf({ f: [FILE, bytes('-', 3)] }, ...operations);
    for (const crash of ['kill', 'power'] as const)
      assert.deepEqual(statesOf(trace, crash, AFTER, sectors), new Set(['a-c', 'abc']));
    assert.deepEqual(statesOf(trace, 'kill', 7, sectors), new Set(['ab-']), 'not before it has failed');
    // What was written after it had failed is not what it lost, though its owner is at it still.
    const early = operations.map((each) => (each === failed ? { ...failed, failedAt: 5 } : each));
    const later = traceOf({ f: [FILE, bytes('-', 3)] }, ...early);
    assert.deepEqual(statesOf(later, 'kill', AFTER, sectors), new Set(['abc']));
  });
});
