/**
 * The daemon's own files under the same crashes: the book of moves, and a retired disk that is set aside for
 * one that comes back.
 *
 * What was written is there afterwards, or what was being written, whole. And a disk that was being set aside
 * when the power went can be set aside again: its image is in one place, and its record says where.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type ExportPaths, exportPaths } from '../../src/config/export-paths.ts';
import { finishRename, setAside as setOlderAside } from '../../src/daemon/disks/older-generations.ts';
import type { Host } from '../../src/daemon/host.ts';
import { KeyedQueue } from '../../src/daemon/keyed-queue.ts';
import { deleteMove, type Move, newMove, readMoves, writeMove } from '../../src/daemon/registry/move-file.ts';
import { type ExportRecord, newRecord, readRecord } from '../../src/store/records/record.ts';
import { bytesOf } from '../lab/model/content.ts';
import { type Crash, leftBy } from './files/lost-power.ts';
import { newInode, playing, real } from './files/recorder.ts';
import { recordWhile } from './files/recording.ts';
import { Clock, describeEvent, type Inode, ROOT, type Trace, type Tree } from './files/trace.ts';
import { pathsOf, putDown } from './files/tree.ts';

const NAME = 'disk';

interface Version {
  asked: number;
  answered: number;
  /** null: deleted, which a loss of power may undo. */
  record: Move | null;
}

export interface DaemonFault {
  line: string;
  story: string;
}

/** One life of these files, and so many crashes. @returns what is wrong, or undefined */
export async function daemonFault(
  root: string,
  random: () => number,
  states: number,
): Promise<DaemonFault | undefined> {
  const clock = new Clock();
  const image = bytesOf(Math.floor(random() * 2 ** 31), 8192);
  const trace: Trace = { base: newTree(root, image), events: [] };
  const versions = new Map<string, Version[]>();
  let asideAsked = Number.POSITIVE_INFINITY;
  putDown(trace.base, root);
  const boot = 'a0000000-0000-4000-8000-000000000000';
  await recordWhile({ root, clock, trace, random, boot }, async () => {
    await readMoves(bookIn(root));
    for (let steps = 12; steps > 0; steps--) {
      if (random() < 0.2 && asideAsked === Number.POSITIVE_INFINITY) {
        asideAsked = clock.tick();
        await setAside(root);
      } else await writeSomething(bookIn(root), clock, versions, random);
    }
  });
  for (let count = 0; count < states; count++) {
    const moment = 1 + Math.floor(random() * (clock.now + 1));
    const crash: Crash = random() < 0.3 ? 'kill' : 'power';
    playing.bootId = crash === 'kill' ? boot : 'b0000000-0000-4000-8000-000000000000';
    putDown(leftBy(trace, { moment, random, crashOf: () => crash }).tree, root);
    const line =
      (await bookFault(root, versions, moment)) ??
      (await asideFault(root, image, asideAsked < moment).catch(
        (error: unknown) => (error as Error).message,
      ));
    if (line !== undefined) return { line, story: story(trace, moment, crash) };
  }
  return undefined;
}

function bookIn(root: string): string {
  return join(root, 'a/relocations');
}

/** Paths and content of a host that has had a disk. */
function newTree(root: string, image: Buffer): Tree {
  const tree: Tree = new Map();
  const file = (bytes: Buffer): Inode => {
    const inode = newInode();
    tree.set(inode, { kind: 'file', bytes });
    return inode;
  };
  const directory = (entries: Record<string, Inode>, inode = newInode()): Inode => {
    tree.set(inode, { kind: 'directory', entries: new Map(Object.entries(entries)) });
    return inode;
  };
  const retired: ExportRecord = {
    ...newRecord(NAME, join(root, 'a/images/disk.img'), image.length),
    state: 'retired',
  };
  const record = file(Buffer.from(JSON.stringify(retired)));
  const a = directory({
    images: directory({ 'disk.img': file(image) }),
    exports: directory({ [NAME]: directory({ 'export.json': record }) }),
  });
  directory({ a }, ROOT);
  return tree;
}

async function writeSomething(
  dir: string,
  clock: Clock,
  versions: Map<string, Version[]>,
  random: () => number,
): Promise<void> {
  const known = [...versions.keys()];
  const id = known[Math.floor(random() * known.length * 1.5)];
  const last = id === undefined ? undefined : versions.get(id)!.at(-1)!.record;
  const version: Version = { asked: clock.tick(), answered: Number.POSITIVE_INFINITY, record: null };
  if (id !== undefined && last !== null && last !== undefined && random() < 0.2) {
    versions.get(id)!.push(version);
    await deleteMove(dir, id);
    return;
  }
  const record: Move =
    last === undefined || last === null
      ? await newMove({ name: 'vm', uuid: '8f14e45f-ceea-467f-a1d2-9d3c5b6a7e80' }, [NAME])
      : { ...last, state: 'relocating', reason: `step ${version.asked}` };
  version.record = record;
  versions.set(record.id, [...(versions.get(record.id) ?? []), version]);
  await writeMove(dir, record);
  version.answered = clock.tick();
}

async function bookFault(
  root: string,
  versions: Map<string, Version[]>,
  moment: number,
): Promise<string | undefined> {
  const found = new Map((await readMoves(bookIn(root))).map((record) => [record.id, record]));
  for (const [id, all] of versions) {
    const asked = all.filter((version) => version.asked < moment);
    const certain = asked.findLastIndex(({ answered }) => answered < moment);
    const possible = certain === -1 ? [null, ...asked] : asked.slice(certain);
    const seen = JSON.stringify(found.get(id) ?? null);
    if (!possible.some((version) => JSON.stringify(version?.record ?? null) === seen))
      return `move ${id} comes back as ${seen}`;
    found.delete(id);
  }
  const [foreign] = found.keys();
  return foreign === undefined ? undefined : `move ${foreign} is there, and nobody made it`;
}

type ImageAndState = Pick<ExportPaths, 'image' | 'stateDir'>;

async function asideFault(root: string, image: Buffer, asked: boolean): Promise<string | undefined> {
  const [here, aside] = [NAME, `${NAME}@1`].map((name) => ({
    stateDir: join(root, 'a/exports', name),
    image: join(root, 'a/images', `${name}.img`),
  })) as [ImageAndState, ImageAndState];
  if (asked) {
    try {
      await setAside(root);
    } catch (error) {
      return `the retired disk cannot be set aside again: ${(error as Error).message}`;
    }
    if (existsSync(here.image) || existsSync(here.stateDir)) return 'the name is not free';
  }
  const { stateDir, image: path } = asked ? aside : here;
  const record = await readRecord(stateDir);
  if (record?.image !== path) return `the record in ${stateDir} names ${record?.image}, not ${path}`;
  return existsSync(path) && real.fs.readFileSync(path).equals(image)
    ? undefined
    : `${path} is not the image`;
}

/** What the daemon does before a disk comes back to this host. */
async function setAside(root: string): Promise<void> {
  const images = join(root, 'a/images');
  const exports = join(root, 'a/exports');
  const stateDir = join(exports, NAME);
  const host = {
    queue: new KeyedQueue(),
    config: { paths: { images, exports }, relocation: { retired: 'keep' } },
    exports: {
      record: () => readRecord(stateDir),
      status: () => undefined,
      stop: () => Promise.resolve(),
      paths: (name: string) => exportPaths({ images, exports, run: join(root, 'a/run') }, name),
    },
  } as unknown as Host;
  const record = await readRecord(stateDir);
  if (record === undefined) return;
  // A daemon that starts ends what another has begun.
  if (record.name === NAME) await setOlderAside(host, record);
  else await finishRename(host, NAME, record);
}

function story(trace: Trace, moment: number, crash: Crash): string {
  const names = new Map<Inode, string>([...pathsOf(trace.base)].map(([path, inode]) => [inode, path]));
  const lines: string[] = [];
  for (const event of trace.events) {
    const { operation, began } = event;
    if (operation.kind === 'make')
      names.set(operation.inode, `${names.get(operation.directory)}/${operation.name}`);
    if (began < moment) lines.push(describeEvent(event, names));
  }
  return [`the daemon's files, crash at ${moment}: ${crash}`, ...lines].join('\n');
}
