/**
 * Moves as libvirt makes them: its hooks in its order, an xnbdd on each host, which starts, watches and ends
 * the exports.
 */
import { randomUUID } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { restartExport } from '../../../src/control/client.ts';
import { originMetadata } from '../../../src/libvirt/domain-xml.ts';
import { newRecord, writeRecord } from '../../../src/store/records/record.ts';
import type { TestDomain } from '../../lab/host/test-domain.ts';
import { asLibvirtKeepsIt } from '../../lab/host/two-hosts.ts';
import { signalTo } from '../../lab/processes.ts';
import { waitFor } from '../../lab/wait-for.ts';
import type { Plan } from '../plan.ts';
import type { Timeline } from '../timeline.ts';
import { type Driver, PATIENCE_MS, Refused } from './driver.ts';
import type { ChaosHost } from './host.ts';
import { call, pidOf, recordOf, type Stay, statusOf, stayAt } from './stay.ts';

const DISK = 'disk';
const SAID_EVERY_MS = 500;

export class ByDaemon implements Driver {
  readonly #plan: Plan;
  readonly #timeline: Timeline;
  readonly #domain: TestDomain = { name: 'vm', uuid: randomUUID(), disks: [DISK] };
  /** The guest is being migrated away from there. */
  #leaving: Stay | null = null;

  constructor(plan: Plan, timeline: Timeline) {
    this.#plan = plan;
    this.#timeline = timeline;
  }

  async begin(host: ChaosHost, content: Buffer): Promise<Stay> {
    const stay = stayAt(host, DISK);
    await writeFile(stay.image, content);
    await writeRecord(stay.stateDir, newRecord(DISK, stay.image, content.length));
    for (const op of ['prepare', 'start', 'started']) await this.#must(host, op, this.#domain);
    return stay;
  }

  async arrive(from: Stay, to: ChaosHost): Promise<Stay> {
    const stay = stayAt(to, DISK);
    const domain = { ...this.#domain, origin: await originElement(from) };
    const migrate = await to.hook('migrate', domain);
    // libvirt calls no further hook then.
    if (migrate.exit !== 0) return await this.#refused(stay, `migrate: ${migrate.stderr}`, []);
    for (const op of ['prepare', 'start', 'started']) {
      const { exit, stderr } = await to.hook(op, domain);
      if (exit !== 0) return await this.#refused(stay, `${op}: ${stderr}`, ['stopped', 'release']);
    }
    await waitFor(
      `${DISK} stands by at ${to.name}`,
      async () => (await statusOf(stay)) !== undefined,
      PATIENCE_MS,
    );
    this.#leaving = from;
    await this.#sayItLeaves(from);
    void this.#goOnSaying(from);
    return stay;
  }

  /** No libvirt is here that a daemon could ask: its word is said in its place. */
  async #sayItLeaves(from: Stay): Promise<void> {
    await call(from, 'source-leaves').catch((error: unknown) =>
      this.#timeline.note(`the source is not told that its guest leaves: ${(error as Error).message}`),
    );
  }

  /** As a daemon does while the guest leaves: an export that was killed meanwhile has forgotten it. */
  async #goOnSaying(from: Stay): Promise<void> {
    for (;;) {
      await sleep(SAID_EVERY_MS);
      const state = recordOf(from)?.state;
      if (this.#leaving !== from || (state !== 'serving' && state !== 'relocating')) return;
      if ((await statusOf(from))?.state === 'lent') await this.#sayItLeaves(from);
    }
  }

  async giveUp(stay: Stay): Promise<void> {
    this.#leaving = null;
    for (const op of ['stopped', 'release']) await this.#must(stay.host, op, this.#domain);
    await this.#nothingLeft(stay);
  }

  async guestLeft(stay: Stay): Promise<void> {
    for (const op of ['stopped', 'release']) {
      const { exit, stderr } = await stay.host.hook(op, this.#domain);
      if (exit !== 0) throw new Error(`the hook ${op} failed at ${stay.host.name}: ${stderr}`);
    }
  }

  async kill(stay: Stay): Promise<boolean> {
    const pid = await pidOf(stay);
    if (pid === 0) return false;
    stay.kills += 1;
    return signalTo(pid, 'SIGKILL');
  }

  async restart(stay: Stay): Promise<boolean> {
    const pid = await pidOf(stay);
    if (pid === 0) return false;
    try {
      const after = await restartExport(stay.ctl);
      return after.pid !== pid;
    } catch (error) {
      // A takeover is under way, or a write waits for an origin that is away: the old process goes on.
      this.#timeline.note(`* no restart: ${(error as Error).message}`);
      return false;
    }
  }

  async retired(stay: Stay): Promise<void> {
    const where = `${DISK} at ${stay.host.name}`;
    const deleted = this.#plan.retired === 'delete';
    await waitFor(
      `${where} is retired${deleted ? ' and deleted' : ''}`,
      () => {
        const record = recordOf(stay);
        return deleted ? record === undefined : record?.state === 'retired' && record.origin === null;
      },
      PATIENCE_MS,
    );
    await waitFor(`the export of ${where} has ended`, async () => (await pidOf(stay)) === 0, PATIENCE_MS);
  }

  async end(stay: Stay): Promise<void> {
    this.#leaving = null;
    await this.guestLeft(stay);
    const gone = async () => (await pidOf(stay)) === 0;
    // One that was lent within the last minute is kept for the host that may come back for it.
    await waitFor('the export to end with its guest', gone, 5000).catch(() => call(stay, 'stop'));
    await waitFor('the export has ended', gone, PATIENCE_MS);
  }

  /** The daemons start again what has died; they end, too. */
  abort(): void {
    this.#leaving = null;
  }

  async #must(host: ChaosHost, op: string, domain: TestDomain): Promise<void> {
    const { exit, stderr } = await host.hook(op, domain);
    if (exit !== 0) throw new Error(`the hook ${op} failed at ${host.name}: ${stderr}`);
  }

  /** @throws always */
  async #refused(stay: Stay, why: string, ops: readonly string[]): Promise<never> {
    this.#timeline.note(`the migration is refused: ${why}`);
    const { host } = stay;
    await waitFor(`the daemon at ${host.name} runs`, () => host.daemonRuns, PATIENCE_MS);
    for (const op of ops) await this.#must(host, op, this.#domain);
    await this.#nothingLeft(stay);
    throw new Refused(why);
  }

  async #nothingLeft(stay: Stay): Promise<void> {
    const { host, name } = stay;
    const mine = async (directory: string): Promise<string[]> =>
      (await readdir(directory)).filter((file) => new RegExp(`^${name}(\\.img|\\.sock|\\.ctl)?$`).test(file));
    let left: string[] = [];
    await waitFor(
      `nothing is left at ${host.name}`,
      async () => {
        // The copy of an earlier stay may be kept here.
        const places =
          recordOf(stay)?.state === 'retired' ? [host.run] : [host.images, host.exports, host.run];
        left = (await Promise.all(places.map(mine))).flat();
        return left.length === 0 && (await pidOf(stay)) === 0;
      },
      PATIENCE_MS,
    ).catch((error: unknown) => {
      throw new Error(`${(error as Error).message}: ${left.join(', ')}`);
    });
  }
}

/**
 * As the source's daemon writes it into the domain's metadata. @throws Refused when nobody serves the disk
 * there
 */
async function originElement(from: Stay): Promise<string> {
  const status = await statusOf(from);
  if (status === undefined) throw new Refused(`nobody serves ${from.name} at ${from.host.name} now`);
  const { uuid, generation } = status;
  return asLibvirtKeepsIt(
    originMetadata([{ name: from.name, uri: from.host.uri(from.name), uuid, generation }]),
  );
}
