/**
 * Lets the planned events happen: each when its point is reached, whatever else is going on, and whatever it
 * breaks is mended after its time.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Running, signalTo } from '../lab/processes.ts';
import type { Driver } from './moving/driver.ts';
import type { ChaosHost } from './moving/host.ts';
import { pidOf, type Stay } from './moving/stay.ts';
import { describeEvent, PHASES, type Phase, type PlannedEvent } from './plan.ts';
import type { Timeline } from './timeline.ts';

export interface Stage {
  driver: Driver;
  timeline: Timeline;
  source: Stay;
  /** null while the disk is about to arrive. */
  destination: Stay | null;
  destinationHost: ChaosHost;
  upstream: Stay | null;
}

export class Events {
  readonly #stage: Stage;
  readonly #fault: (error: Error) => void;
  #waiting: PlannedEvent[];
  readonly #happening = new Set<Promise<void>>();
  readonly #busy = new Set<object>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #phase: Phase | null = null;
  happened = 0;

  constructor(events: readonly PlannedEvent[], stage: Stage, fault: (error: Error) => void) {
    this.#waiting = [...events];
    this.#stage = stage;
    this.#fault = fault;
  }

  set destination(stay: Stay) {
    this.#stage.destination = stay;
  }

  begin(phase: Phase): void {
    if (this.#phase !== null && PHASES.indexOf(phase) <= PHASES.indexOf(this.#phase)) return;
    this.#phase = phase;
    this.#stage.timeline.note(`--- ${phase}`);
    // What the last phase was too short for happens now.
    const before = PHASES.indexOf(phase);
    for (const event of this.#take((each) => PHASES.indexOf(each.phase) < before)) this.#start(event);
    if (phase === 'standby' || phase === 'relocating') return;
    for (const event of this.#take((each) => each.phase === phase)) {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.#start(event);
      }, event.after);
      this.#timers.add(timer);
    }
  }

  /** So far has the phase come: requests, or the percentage. */
  reached(phase: 'standby' | 'relocating', point: number): void {
    if (this.#phase !== phase) return;
    for (const event of this.#take((each) => each.phase === phase && each.after <= point)) this.#start(event);
  }

  /** Resolves when everything that has begun is mended again. */
  async settled(): Promise<void> {
    while (this.#happening.size > 0 || this.#timers.size > 0) {
      await Promise.all(this.#happening);
      if (this.#timers.size > 0) await sleep(10);
    }
  }

  /** Nothing begins any more. */
  cancel(): void {
    this.#waiting = [];
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #take(which: (event: PlannedEvent) => boolean): PlannedEvent[] {
    const taken = this.#waiting.filter(which);
    this.#waiting = this.#waiting.filter((event) => !which(event));
    return taken;
  }

  #start(event: PlannedEvent): void {
    const happening = this.#happen(event)
      .catch((error: unknown) => this.#fault(error as Error))
      .finally(() => this.#happening.delete(happening));
    this.#happening.add(happening);
  }

  async #happen(event: PlannedEvent): Promise<void> {
    const { source, destination, destinationHost, upstream } = this.#stage;
    const { what, lasts } = event;
    switch (event.whom) {
      case 'link':
        return await this.#alone(source.host.wan, event, async () => {
          await (what === 'cut' ? source.host.wan.cut() : source.host.wan.stall());
          await sleep(lasts);
          await source.host.wan.resume();
          return true;
        });
      case 'gateway':
        return await this.#program(event, source.host.gateway, () => source.host.startGateway());
      case 'source daemon':
        return await this.#program(event, source.host.daemon, () => source.host.startDaemon());
      case 'destination daemon':
        return await this.#program(event, destinationHost.daemon, () => destinationHost.startDaemon());
      case 'source':
        return await this.#export(event, source);
      case 'destination':
        return await this.#export(event, destination);
      case 'upstream':
        return await this.#export(event, upstream);
    }
  }

  async #program(event: PlannedEvent, running: Running | null, again: () => Promise<void>): Promise<void> {
    if (running === null || !running.runs) return this.#missed(event);
    await this.#alone(running, event, async () => {
      if (event.what === 'freeze') return await this.#freeze(running.pid, event.lasts);
      running.process.kill('SIGKILL');
      await running.ended;
      await sleep(event.lasts);
      await again();
      return true;
    });
  }

  async #export(event: PlannedEvent, stay: Stay | null): Promise<void> {
    if (stay === null) return this.#missed(event);
    await this.#alone(stay, event, async () => {
      if (event.what === 'freeze') return await this.#freeze(await pidOf(stay), event.lasts);
      if (event.what === 'restart') return await this.#stage.driver.restart(stay);
      return await this.#stage.driver.kill(stay, event.lasts);
    });
  }

  async #freeze(pid: number, lasts: number): Promise<boolean> {
    if (pid === 0 || !signalTo(pid, 'SIGSTOP')) return false;
    await sleep(lasts);
    signalTo(pid, 'SIGCONT');
    return true;
  }

  /** One thing at a time happens to one victim. */
  async #alone(victim: object, event: PlannedEvent, happen: () => Promise<boolean>): Promise<void> {
    if (this.#busy.has(victim)) return this.#missed(event);
    this.#busy.add(victim);
    this.#stage.timeline.note(`* ${describeEvent(event)}`);
    const found = await happen();
    this.#busy.delete(victim);
    if (found) {
      this.happened += 1;
      this.#stage.timeline.note(`* over: ${event.what} ${event.whom}`);
    } else this.#missed(event);
  }

  #missed(event: PlannedEvent): void {
    this.#stage.timeline.note(`* nobody there: ${describeEvent(event)}`);
  }
}
