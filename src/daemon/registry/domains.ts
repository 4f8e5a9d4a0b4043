/**
 * Which domain of this host uses which exports: learned from hooks, written to `run/domains/UUID.json` so
 * that a daemon that comes back knows which exports have to run. It lies in the run directory because a
 * reboot ends the domains too.
 */
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import type { DomainDisk } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';

const entries = {
  uuid: v.pipe(v.string(), v.uuid()),
  name: v.string(),
  exports: v.array(v.string()),
  /** Those of them that other domains may use at the same time, <readonly/> or <shareable/> to libvirt. */
  shared: v.optional(v.array(v.string()), []),
};

/** Keys of another release stay. */
const DomainSchema = v.looseObject(entries);

export type UsingDomain = v.InferOutput<v.ObjectSchema<typeof entries, undefined>>;

/** What a hook's XML says, as far as it is kept. */
export function usingDomain(domain: {
  uuid: string;
  name: string;
  disks: Pick<DomainDisk, 'export' | 'readOnly' | 'shareable'>[];
}): UsingDomain {
  const { uuid, name, disks } = domain;
  const shared = disks.filter(({ readOnly, shareable }) => readOnly || shareable);
  return {
    uuid,
    name,
    exports: disks.map((disk) => disk.export),
    shared: shared.map((disk) => disk.export),
  };
}

export class Domains {
  readonly #dir: string;
  readonly #byUuid = new Map<string, UsingDomain>();
  /** ms of `performance.now()`. */
  readonly #usedAt = new Map<string, number>();

  constructor(run: string) {
    this.#dir = join(run, 'domains');
  }

  async load(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    for (const file of await readdir(this.#dir)) {
      if (!file.endsWith('.json')) continue;
      const path = join(this.#dir, file);
      try {
        const domain = v.parse(DomainSchema, JSON.parse(await readFile(path, 'utf8')));
        this.#byUuid.set(domain.uuid, domain);
      } catch (error) {
        log.warning(`${path} is left out, it does not tell a domain's exports: ${(error as Error).message}`);
      }
    }
  }

  /** The domain runs here (or is about to) and has these disks. */
  async use(domain: UsingDomain): Promise<void> {
    this.#usedAt.set(domain.uuid, performance.now());
    const known = this.#byUuid.get(domain.uuid);
    const now = { ...known, ...domain };
    if (JSON.stringify(known) === JSON.stringify(now)) return;
    this.#byUuid.set(domain.uuid, now);
    const path = this.#path(domain.uuid);
    await writeFile(`${path}.new`, JSON.stringify(now), { mode: 0o600 });
    await rename(`${path}.new`, path);
  }

  /** The domain has ended here. */
  async release(uuid: string): Promise<void> {
    this.#byUuid.delete(uuid);
    this.#usedAt.delete(uuid);
    await rm(this.#path(uuid), { force: true });
  }

  get(uuid: string): UsingDomain | undefined {
    return this.#byUuid.get(uuid);
  }

  /** For how many ms no hook of the domain has told that it uses its disks; Infinity: none of this daemon. */
  unusedMs(uuid: string): number {
    return performance.now() - (this.#usedAt.get(uuid) ?? Number.NEGATIVE_INFINITY);
  }

  /** Another domain that uses a disk of this one, which not both of them share. */
  rival(domain: UsingDomain): { domain: UsingDomain; disk: string } | undefined {
    for (const other of this.#byUuid.values()) {
      if (other.uuid === domain.uuid) continue;
      const disk = domain.exports.find(
        (name) =>
          other.exports.includes(name) && !(domain.shared.includes(name) && other.shared.includes(name)),
      );
      if (disk !== undefined) return { domain: other, disk };
    }
    return undefined;
  }

  /** The domain that uses an export; one of them where it is shared. */
  using(exportName: string): UsingDomain | undefined {
    return [...this.#byUuid.values()].find((domain) => domain.exports.includes(exportName));
  }

  all(): UsingDomain[] {
    return [...this.#byUuid.values()];
  }

  #path(uuid: string): string {
    return join(this.#dir, `${uuid}.json`);
  }
}
