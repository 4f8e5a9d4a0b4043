/**
 * The process of an export is replaced under its clients.
 *
 *     start the new one -> sync -> hold -> drain -> sync | close the disk -> give everything -> end
 *                                                        |
 *           whatever fails: all goes on here  <----------+----------> nothing here goes on
 *
 * - **hold**: no connection takes another request. What has come of it stays in the connection's buffer.
 * - **drain**: requests under way are answered. Those that wait for an event (WAIT_GONE), or for an origin
 *   that is away, do not end: they are taken back and asked again of the new process.
 * - **sync**: twice, so that what clients wait for is short. The new process begins with nothing that a sync
 *   of its own would have to answer for.
 * - **close**: image and maps as in an orderly end. This releases the locks, which the new process takes
 *   before it serves: never do two processes serve one image.
 * - **give**: what listens, each connection with what was received and what was not sent, the lease. In one
 *   turn of the loop, because a loop that turned would accept and read what is not this process's any more.
 *
 * If the new process dies from then on, clients meet what they meet after kill -9, and nothing is lost that
 * kill -9 would not lose.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ControlServer } from '../../control/server.ts';
import { log } from '../../log/log.ts';
import { memoryFile } from '../../system/descriptors/memory-file.ts';
import { exitNow } from '../../system/syscalls.ts';
import type { Export } from '../export.ts';
import type { Listener } from '../session/listener.ts';
import { hasServiceStore, storeDescriptors } from './service-store.ts';
import { encodeState, HAND_OVER_VERSION, type HandOverState, nameOf, Stretches } from './state.ts';
import { startSuccessor } from './successor.ts';

/** Requests under way end within that, or the process goes on. Clients wait meanwhile. */
const DRAIN_LIMIT_MS = 5000;
const LOOK_MS = 1;

/** What a kind of disk has to do with it. */
export interface DiskHandOver {
  /** Why it cannot be handed over now, one line, or null. */
  refuses(): string | null;
  /** Requests that wait for an origin end with ESHUTDOWN. */
  letWaitersGo?(): void;
  /** Closes image and maps. @returns what the next process of the disk needs, for JSON, and descriptors */
  close(): Promise<DiskMemory>;
}

export interface DiskMemory {
  state: unknown;
  descriptors: number[];
}

export interface HandOverParts {
  exported: Export;
  listener: Listener;
  control: ControlServer;
  release: string;
  disk: DiskHandOver;
}

export class HandOver {
  readonly #parts: HandOverParts;
  #underWay: Promise<unknown> | null = null;
  #holds = false;
  /** When the last request was taken. */
  #heldAt = 0n;

  constructor(parts: HandOverParts) {
    this.#parts = parts;
  }

  /** Nothing may change any more: all is about to be another process's. */
  get holds(): boolean {
    return this.#holds;
  }

  /** Resolves when no hand-over is under way; one that succeeds ends this process. */
  async over(): Promise<void> {
    await this.#underWay?.catch(() => undefined);
  }

  /** Starts a process that takes over, and ends this one. @throws Error, one line: all goes on here */
  toSuccessor(): Promise<never> {
    return this.#once(async () => {
      const successor = await startSuccessor();
      try {
        await this.#ready();
        if (!successor.waits) throw new Error('the new process ended before it took over');
      } catch (error) {
        this.#goOn();
        successor.dismiss();
        throw error;
      }
      log.info(`hands over to process ${successor.pid}`);
      await this.#leave((state, sockets) => successor.give([state, ...sockets]));
    });
  }

  /**
   * Leaves everything to the service manager, and ends this process; for a process that is told to end.
   * @throws Error, one line: all goes on here
   */
  toServiceManager(): Promise<never> {
    return this.#once(async () => {
      if (!hasServiceStore()) throw new Error('no service manager keeps anything for this process');
      await this.#ready().catch((error: unknown) => {
        this.#goOn();
        throw error;
      });
      log.info('leaves its connections to the service manager');
      await this.#leave(storeDescriptors);
    });
  }

  async #once(hand: () => Promise<void>): Promise<never> {
    if (this.#underWay !== null) throw new Error(`${this.#parts.exported.name} is being restarted already`);
    this.#underWay = hand();
    try {
      await this.#underWay;
    } finally {
      this.#underWay = null;
    }
    return exitNow(0);
  }

  /** Nothing is under way afterwards, and all is durable. */
  async #ready(): Promise<void> {
    const { exported, listener, disk } = this.#parts;
    await this.#sync();
    this.#heldAt = process.hrtime.bigint();
    this.#holds = true;
    listener.hold();
    exported.lender.stop();
    disk.letWaitersGo?.();
    const deadline = performance.now() + DRAIN_LIMIT_MS;
    while (!this.#isIdle()) {
      if (performance.now() > deadline)
        throw new Error(
          `${exported.name} has requests that do not end: ask again when its storage, or its origin, answers`,
        );
      await sleep(LOOK_MS);
    }
    await exported.lender.transitions.settled();
    await this.#sync();
  }

  #isIdle(): boolean {
    const { listener, control } = this.#parts;
    for (const session of listener.sessions) if (!session.isIdle) return false;
    return control.underWay <= 1;
  }

  async #sync(): Promise<void> {
    const { exported, disk } = this.#parts;
    const reason = disk.refuses();
    if (reason !== null) throw new Error(`${exported.name} cannot be handed over: ${reason}`);
    const errno = exported.readOnly ? 0 : await exported.flush();
    if (errno !== 0) throw new Error(`${exported.name} cannot be handed over: its flush fails (${errno})`);
  }

  #goOn(): void {
    if (!this.#holds) return;
    this.#holds = false;
    this.#parts.listener.release();
  }

  async #leave(give: (state: number, sockets: number[]) => void): Promise<void> {
    try {
      const ofDisk = await this.#parts.disk.close();
      const { state, content, sockets } = this.#everything(ofDisk);
      give(memoryFile(`xnbd-${state.name}`, content), sockets);
    } catch (error) {
      // As after kill -9, then: the next process finds on disk what is there.
      log.error(`nothing is handed over, and clients have to connect again: ${(error as Error).message}`);
    }
    exitNow(0);
  }

  #everything(ofDisk: DiskMemory): { state: HandOverState; content: Buffer[]; sockets: number[] } {
    const { exported, listener, control, release } = this.#parts;
    const stretches = new Stretches();
    const { nbd, tcp } = listener.descriptors;
    const sockets = [nbd, control.descriptor, ...ofDisk.descriptors];
    if (tcp >= 0) sockets.push(tcp);
    for (const session of listener.sessions) if (session.isEnding) session.endNow();
    const sessions: HandOverState['sessions'] = [];
    for (const session of listener.sessions) {
      const { descriptor, memory } = session.remember();
      if (session.isEnding || descriptor < 0) continue;
      sockets.push(descriptor);
      sessions.push({
        ...memory,
        socket: nameOf(descriptor),
        received: stretches.add(memory.received),
        unsent: stretches.add(memory.unsent),
      });
    }
    const state: HandOverState = {
      version: HAND_OVER_VERSION,
      release,
      pid: process.pid,
      heldAt: String(this.#heldAt),
      name: exported.name,
      listeners: { nbd: nameOf(nbd), ctl: nameOf(control.descriptor), tcp: tcp < 0 ? null : nameOf(tcp) },
      writtenBytes: exported.writtenBytes,
      lending: exported.lender.memory,
      sessions,
      disk: ofDisk.state,
    };
    return { state, content: encodeState(state, stretches), sockets };
  }
}
