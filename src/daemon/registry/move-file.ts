/**
 * One move: all disks of one domain that arrive here in one migration (on D-Bus a Relocation). This is its
 * file, `relocations/ID.json`, and nothing else; what brings it from one state to the next is in moves.ts.
 *
 *     preparing ---takeover---> relocating ---every disk is a target---> completed
 *         `-----given up--------> failed <----given up (nothing was written)---'
 *
 * `signalled` is set once the D-Bus signal of the present state has been sent, so that a daemon that was away
 * sends it when it is back. In the file it is called `announced`.
 */
import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { log } from '../../log/log.ts';
import { makeDirectory, replaceFile, syncDirectory } from '../../store/directory.ts';
import { bootId } from '../../system/boot-id.ts';

const Count = v.pipe(v.number(), v.minValue(0));
const Uuid = v.pipe(v.string(), v.uuid());

const CountersSchema = v.object({
  onDemandBytes: Count,
  backgroundBytes: Count,
  skippedBytes: Count,
  secondsSinceTakeover: Count,
});

const entries = {
  version: v.literal(1),
  id: Uuid,
  domain: v.object({ name: v.string(), uuid: Uuid }),
  state: v.picklist(['preparing', 'relocating', 'completed', 'failed']),
  announced: v.boolean(),
  /** Disk name to its counters once it is complete, null before. */
  disks: v.record(v.string(), v.nullable(CountersSchema)),
  /** libvirt has run `prepare`: from then on `release` tells when the migration failed. */
  prepared: v.boolean(),
  /** libvirt has said that the guest runs here. */
  resumed: v.boolean(),
  reason: v.nullable(v.string()),
  /** ISO 8601; the wait for `prepare` counts from here. */
  leasedAt: v.string(),
  /** Of this boot of the host: no arrival outlives a reboot before its takeover. */
  boot: v.string(),
};

/** Keys of another release stay. */
const FileSchema = v.looseObject(entries);

type File = v.InferOutput<v.ObjectSchema<typeof entries, undefined>>;

export type Move = Omit<File, 'announced'> & { signalled: boolean };

export async function newMove(domain: { name: string; uuid: string }, disks: string[]): Promise<Move> {
  return {
    version: 1,
    id: randomUUID(),
    domain: { name: domain.name, uuid: domain.uuid },
    state: 'preparing',
    signalled: true,
    disks: Object.fromEntries(disks.map((name) => [name, null])),
    prepared: false,
    resumed: false,
    reason: null,
    leasedAt: new Date().toISOString(),
    boot: await bootId(),
  };
}

function asMove({ version, id, domain, state, announced: signalled, ...others }: File): Move {
  return { version, id, domain, state, signalled, ...others };
}

function asFile({ version, id, domain, state, signalled: announced, ...others }: Move): File {
  return { version, id, domain, state, announced, ...others };
}

/** The moves of a directory. A file that is none is left out, with a word in the log. */
export async function readMoves(dir: string): Promise<Move[]> {
  await makeDirectory(dir);
  // What an earlier daemon wrote and did not live to sync.
  await syncDirectory(dir);
  const found: Move[] = [];
  for (const file of await readdir(dir)) {
    const path = join(dir, file);
    // What a daemon was writing when it was killed: nothing followed from it yet.
    if (file.endsWith('.json.new')) await rm(path, { force: true });
    if (!file.endsWith('.json')) continue;
    try {
      found.push(asMove(v.parse(FileSchema, JSON.parse(await readFile(path, 'utf8')))));
    } catch (error) {
      log.warning(`${path} is left out, it is not a move: ${(error as Error).message}`);
    }
  }
  return found;
}

/** Replaces the file of a move, durably. */
export async function writeMove(dir: string, move: Move): Promise<void> {
  await replaceFile(join(dir, `${move.id}.json`), `${JSON.stringify(asFile(move), null, 2)}\n`);
}

export async function deleteMove(dir: string, id: string): Promise<void> {
  await rm(join(dir, `${id}.json`), { force: true });
}
