/** Moves as an administrator makes them by hand, or a service manager that starts again what has died. */
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Running, startProgram, threadsOf } from '../../lab/processes.ts';
import { waitFor } from '../../lab/wait-for.ts';
import type { Plan } from '../plan.ts';
import type { Timeline } from '../timeline.ts';
import { type Driver, PATIENCE_MS, Refused } from './driver.ts';
import { type ChaosHost, TLS_NAME } from './host.ts';
import { call, recordOf, type Stay, statusOf, stayAt } from './stay.ts';

interface Kept {
  args: string[];
  running: Running;
  /** It is meant to end. */
  ending: boolean;
  /** How long it stays away when it is killed, milliseconds. */
  pause: number;
  /** It is being started again. */
  starting: boolean;
}

const STARTS = 40;

export class ByHand implements Driver {
  readonly #plan: Plan;
  readonly #pki: string;
  readonly #timeline: Timeline;
  readonly #fault: (error: Error) => void;
  readonly #kept = new Map<Stay, Kept>();
  #stays = 0;
  #aborted = false;

  constructor(plan: Plan, pki: string, timeline: Timeline, fault: (error: Error) => void) {
    this.#plan = plan;
    this.#pki = pki;
    this.#timeline = timeline;
    this.#fault = fault;
  }

  async begin(host: ChaosHost, content: Buffer): Promise<Stay> {
    const stay = this.#newStay(host);
    await writeFile(stay.image, content);
    await this.#keep(stay, ['target', stay.name, ...places(stay)]);
    return stay;
  }

  async arrive(from: Stay, to: ChaosHost): Promise<Stay> {
    const stay = this.#newStay(to);
    const tls = this.#plan.tls ? ['--tls-dir', this.#pki, '--tls-allow', TLS_NAME] : [];
    const args = ['proxy', stay.name, '--origin', from.host.uri(from.name), ...places(stay), ...tls];
    try {
      await this.#keep(stay, args);
    } catch (error) {
      const left = [...(await leftOf(stay, to.images)), ...(await leftOf(stay, to.exports))];
      // A lock file in a directory of its own is what the first try of every export leaves.
      if (left.some((name) => name.endsWith('.img')) || recordOf(stay) !== undefined)
        this.#fault(new Error(`an arrival that was refused left ${left.join(', ')} at ${to.name}`));
      await rm(stay.stateDir, { recursive: true, force: true });
      throw new Refused((error as Error).message);
    }
    return stay;
  }

  async giveUp(stay: Stay): Promise<void> {
    const kept = this.#kept.get(stay)!;
    for (let count = 0; ; count++) {
      kept.ending = true;
      try {
        await call(stay, 'abandon');
        break;
      } catch (error) {
        if (recordOf(stay) === undefined) break;
        kept.ending = false;
        if (!kept.running.runs) void this.#again(stay, kept);
        if (count === 100) throw error;
        await sleep(100);
      }
    }
    await waitFor(`${stay.name} at ${stay.host.name} has ended`, () => !kept.running.runs, PATIENCE_MS);
    const left = [
      ...(await leftOf(stay, stay.host.images)),
      ...(await leftOf(stay, stay.host.exports)),
      ...(await leftOf(stay, stay.host.run)),
    ];
    if (left.length > 0)
      throw new Error(`a move that was given up left ${left.join(', ')} at ${stay.host.name}`);
  }

  /** The orderly disconnect of the guest was the word. */
  guestLeft(): Promise<void> {
    return Promise.resolve();
  }

  kill(stay: Stay, lasts: number): Promise<boolean> {
    const kept = this.#kept.get(stay);
    if (kept === undefined || !kept.running.runs) return Promise.resolve(false);
    stay.kills += 1;
    kept.pause = lasts;
    return Promise.resolve(kept.running.process.kill('SIGKILL'));
  }

  /** What keeps processes here would start another one. */
  restart(): Promise<boolean> {
    return Promise.resolve(false);
  }

  async retired(stay: Stay): Promise<void> {
    const over = () => recordOf(stay)?.state === 'retired' && recordOf(stay)?.origin === null;
    await waitFor(`${stay.name} at ${stay.host.name} is retired`, over, PATIENCE_MS);
    await this.#stop(stay);
    // One that was killed could not remove its sockets, and there is no reason to start it again.
    if ((await this.#kept.get(stay)!.running.ended) === 'SIGKILL')
      for (const path of [stay.socket, stay.ctl]) await rm(path, { force: true });
    const left = await readdir(stay.stateDir);
    if (left.some((name) => !['export.json', 'lock'].includes(name)))
      throw new Error(`${stay.name} has retired at ${stay.host.name} and left ${left.join(', ')}`);
    await rm(stay.image);
    await rm(stay.stateDir, { recursive: true });
  }

  async end(stay: Stay): Promise<void> {
    await this.#stop(stay);
  }

  abort(): void {
    this.#aborted = true;
  }

  async #stop(stay: Stay): Promise<void> {
    const kept = this.#kept.get(stay)!;
    kept.ending = true;
    await waitFor(
      `${stay.name} at ${stay.host.name} ends when it is told to`,
      async () => {
        if (kept.running.runs) await call(stay, 'stop').catch(() => undefined);
        return !kept.running.runs && !kept.starting;
      },
      PATIENCE_MS,
    ).catch(async (error: unknown) => {
      const { pid } = kept.running;
      throw new Error(`${(error as Error).message}; pid ${pid}: ${await threadsOf(pid)}`);
    });
  }

  #newStay(at: ChaosHost): Stay {
    this.#stays += 1;
    return stayAt(at, `disk${this.#stays}`);
  }

  async #keep(stay: Stay, args: string[]): Promise<void> {
    const running = await this.#start(stay, args);
    const kept: Kept = { args, running, ending: false, pause: 0, starting: false };
    this.#kept.set(stay, kept);
    void running.ended.then(() => this.#again(stay, kept));
  }

  async #start(stay: Stay, args: string[]): Promise<Running> {
    const running = await startProgram('xnbd-export', args, {
      log: join(stay.host.dir, 'log', `${stay.name}.log`),
      built: true,
      ready: async () => (await statusOf(stay)) !== undefined,
    });
    stay.pid = running.pid;
    return running;
  }

  /** It has ended: it is started again, unless that is as it should be. */
  async #again(stay: Stay, kept: Kept): Promise<void> {
    for (let count = 0; ; count++) {
      if (!kept.ending) await sleep(kept.pause);
      if (isEnding(kept) || this.#aborted) return;
      kept.starting = true;
      try {
        kept.running = await this.#start(stay, kept.args);
        this.#timeline.note(`${stay.name} at ${stay.host.name} runs again (pid ${kept.running.pid})`);
        void kept.running.ended.then(() => this.#again(stay, kept));
        return;
      } catch (error) {
        if (recordOf(stay)?.state === 'retired') return;
        if (count === STARTS) {
          this.#fault(
            new Error(`${stay.name} at ${stay.host.name} does not start again: ${(error as Error).message}`),
          );
          return;
        }
        kept.pause = 100;
      } finally {
        kept.starting = false;
      }
    }
  }
}

function places({ image, socket, ctl, stateDir }: Stay): string[] {
  return ['--image', image, '--socket', socket, '--ctl', ctl, '--state', stateDir];
}

/** Names in a directory that belong to this stay. */
async function leftOf(stay: Stay, directory: string): Promise<string[]> {
  const names = await readdir(directory);
  return names.filter((name) => name.split('.')[0] === stay.name);
}

function isEnding(kept: Kept): boolean {
  return kept.ending;
}
