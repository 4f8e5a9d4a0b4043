/**
 * One relocation: all disks of one domain that arrive here in one migration. This is its file,
 * `relocations/ID.json`, and nothing else; what moves it on is in moves.ts.
 *
 *     preparing ---takeover---> relocating ---every disk is a target---> completed
 *         `-----given up--------> failed <----given up (nothing was written)---'
 *
 * `announced` is set once the D-Bus signal of the present state has been sent, so that a daemon that was away
 * sends it when it is back.
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

const RelocationSchema = v.object({
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
});

export type RelocationRecord = v.InferOutput<typeof RelocationSchema>;

export async function newRelocation(
  domain: { name: string; uuid: string },
  disks: string[],
): Promise<RelocationRecord> {
  return {
    version: 1,
    id: randomUUID(),
    domain: { name: domain.name, uuid: domain.uuid },
    state: 'preparing',
    announced: true,
    disks: Object.fromEntries(disks.map((name) => [name, null])),
    prepared: false,
    resumed: false,
    reason: null,
    leasedAt: new Date().toISOString(),
    boot: await bootId(),
  };
}

/** The relocations of a directory. A file that is none is left out, with a word in the log. */
export async function readRelocations(dir: string): Promise<RelocationRecord[]> {
  await makeDirectory(dir);
  // What an earlier daemon wrote and did not live to sync.
  await syncDirectory(dir);
  const found: RelocationRecord[] = [];
  for (const file of await readdir(dir)) {
    const path = join(dir, file);
    // What a daemon was writing when it was killed: it was nobody's word yet.
    if (file.endsWith('.json.new')) await rm(path, { force: true });
    if (!file.endsWith('.json')) continue;
    try {
      found.push(v.parse(RelocationSchema, JSON.parse(await readFile(path, 'utf8'))));
    } catch (error) {
      log.warning(`${path} is left out, it is not a relocation: ${(error as Error).message}`);
    }
  }
  return found;
}

/** Replaces the file of a relocation, durably. */
export async function writeRelocation(dir: string, relocation: RelocationRecord): Promise<void> {
  await replaceFile(join(dir, `${relocation.id}.json`), `${JSON.stringify(relocation, null, 2)}\n`);
}

export async function deleteRelocation(dir: string, id: string): Promise<void> {
  await rm(join(dir, `${id}.json`), { force: true });
}
