import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '../wait-for.ts';
import { Console } from './console.ts';
import { commandPath, consolePath, domainXml, type GuestSpec } from './domain-xml.ts';
import { type DiskReport, readReports } from './guest-reports.ts';
import { guestSystem } from './guest-system.ts';
import type { Host } from './host.ts';
import type { Lab } from './lab.ts';

/** Requests that the guest has completed on a disk, as of its last heartbeat (two a second). */
export type DiskCounts = { writes: number; reads: number; errors: number };

/** What a guest prints when its kernel, or a process that works on a disk, has crashed. */
const CRASH = /Kernel panic|Oops: |BUG: |general protection fault|^xnbd: crashed: /;

/** A guest in the lab, defined on one host, to be found on either. */
export class Guest {
  readonly name: string;
  readonly spec: GuestSpec;
  readonly console: Console;
  /** What the guest found wrong: the lines `verify error ...` and `fatal: ...`, and of its crash. Empty in a good run. */
  readonly errors: string[] = [];
  /** The first line of its crash. */
  crash: string | undefined;
  /** It was told to let its disks rest. */
  resting = false;
  /** Number of the last heartbeat. */
  beat = 0;
  /** The longest that a request of its took, as it tells; set to 0 to begin anew. */
  slowestMs = 0;
  /** By target. */
  readonly counts = new Map<string, DiskCounts>();
  /** Where it may run. */
  readonly hosts: readonly Host[];
  #commands = 0;

  /** Use `defineGuest`. */
  constructor(spec: GuestSpec, lab: Lab) {
    this.name = spec.name;
    this.spec = spec;
    this.hosts = lab.hosts;
    const files = this.hosts.map((host) => host.outside(consolePath(spec.name)));
    this.console = new Console(files, (line) => this.#heard(line), lab.ended);
  }

  /** `virsh start`, then waits until the guest works. */
  start(host: Host): Promise<void> {
    return this.boots(() => host.virsh('start', this.name));
  }

  /** Does what makes the guest boot, then waits until it works. */
  async boots(how: () => Promise<unknown>): Promise<void> {
    await this.console.look();
    const from = this.console.lines.length;
    await how();
    // It counts anew.
    this.beat = 0;
    this.counts.clear();
    this.resting = false;
    await this.console.find(new RegExp(`^xnbd: ready|${CRASH.source}`), from, 120_000);
    if (this.errors.length > 0) throw new Error(`guest ${this.name}: ${this.errors.join('; ')}`);
  }

  /** `virsh migrate FLAGS` (default `--live`) to the other host; virsh's output, with a failure as an error. */
  migrate(from: Host, to: Host, ...flags: string[]): Promise<string> {
    return from.virsh(
      'migrate',
      this.name,
      `qemu+tcp://${to.name}/system`,
      ...(flags.length > 0 ? flags : ['--live']),
    );
  }

  /**
   * Waits until every disk that the guest works on (or: these of them) has seen `steps` more writes, or for an idle guest: until it has
   * printed as many more heartbeats.
   */
  async progress(steps = 20, timeoutMs = 60_000, targets?: readonly string[]): Promise<void> {
    await this.console.look();
    const goals = this.spec.disks
      .filter(({ mode, target }) => mode !== 'idle' && (targets?.includes(target) ?? true))
      .map(({ target }) => ({ target, goal: (this.counts.get(target)?.writes ?? 0) + steps }));
    const beat = this.beat + (goals.length > 0 ? 1 : steps);
    const there = (): boolean =>
      this.beat >= beat && goals.every(({ target, goal }) => (this.counts.get(target)?.writes ?? 0) >= goal);
    await waitFor(
      `guest ${this.name} to go on`,
      async () => {
        await this.console.look();
        if (this.crash !== undefined) throw new Error(`guest ${this.name} has crashed: ${this.crash}`);
        return there();
      },
      timeoutMs,
    ).catch((error: unknown) => {
      throw new Error(`${(error as Error).message}; its last lines: ${this.console.tail()}`);
    });
  }

  /** Lets the guest finish its step, flush, and tell what it has written. It runs on, but rests. By target. */
  async stop(): Promise<Map<string, DiskReport>> {
    this.resting = true;
    return this.#reports(await this.#command('stop'));
  }

  /** After `stop`: work goes on. */
  async go(): Promise<void> {
    await this.#command('go');
    this.resting = false;
  }

  /** What works on its disks stops where it is, as after an interrupt that got lost. The heartbeat goes on. */
  async freeze(): Promise<void> {
    await this.#command('freeze');
  }

  /** Its kernel panics. */
  async panic(): Promise<void> {
    await this.#command('panic');
  }

  /** As `stop`, and then the guest switches itself off. */
  async powerOff(): Promise<Map<string, DiskReport>> {
    return this.#reports(await this.#command('poweroff'));
  }

  /** As `stop`, and then the guest boots anew, by itself: libvirt hears of it, and no hook is run. Its definition has to say `reboots`. */
  async reboot(): Promise<Map<string, DiskReport>> {
    let reports: Map<string, DiskReport> | undefined;
    await this.boots(async () => {
      reports = this.#reports(await this.#command('reboot'));
    });
    return reports!;
  }

  /** The same guest, but only what it says and hears on one host: where two run that were one before. */
  onlyOn(lab: Lab, host: Host): Guest {
    return new Guest(this.spec, { ...lab, hosts: [host] });
  }

  /**
   * Sends a command wherever a QEMU listens, again and again until it is answered: a migration may swallow it. The guest obeys an ID once.
   * @returns the number of the console line after which the answer begins
   */
  async #command(verb: string): Promise<number> {
    const id = ++this.#commands;
    await this.console.look();
    const from = this.console.lines.length;
    let answered = false;
    const answer = this.console.find(new RegExp(`^xnbd: done ${verb} ${id}$`), from, 120_000).finally(() => {
      answered = true;
    });
    answer.catch(() => undefined);
    for (let n = 0; !answered; n++) {
      if (n % 100 === 0)
        await Promise.all(this.hosts.map((host) => send(host, this.name, `\n${verb} ${id}\n`)));
      await sleep(50);
    }
    await answer;
    return from;
  }

  #reports(from: number): Map<string, DiskReport> {
    const reports = readReports(this.console.lines.slice(from));
    const silent = this.spec.disks.find(({ target }) => !reports.has(target));
    if (silent)
      throw new Error(`no report on ${silent.target}; the guest's last lines: ${this.console.tail()}`);
    return reports;
  }

  #heard(line: string): void {
    if (CRASH.test(line)) this.crash ??= line;
    if (/^xnbd: (verify error|fatal)/.test(line) || line === this.crash)
      this.errors.push(line.replace(/^xnbd: /, ''));
    const [, number, counts] = /^xnbd: beat (\d+) ?(.*)$/.exec(line) ?? [];
    if (number === undefined || counts === undefined) return;
    this.beat = Number(number);
    for (const word of counts.split(' ').filter((text) => text !== '')) {
      const [target, ...numbers] = word.split(':');
      const [writes = 0, reads = 0, errors = 0, slowest = 0] = numbers.map(Number);
      this.slowestMs = Math.max(this.slowestMs, slowest);
      this.counts.set(target!, { writes, reads, errors });
    }
  }
}

async function send(host: Host, name: string, text: string): Promise<void> {
  const socket = connect(host.outside(commandPath(name)));
  try {
    await once(socket, 'connect');
    socket.end(text);
    await Promise.race([once(socket, 'close'), sleep(500)]);
  } catch {
    // No QEMU of this guest listens on this host.
  } finally {
    socket.destroy();
  }
}

/** Defines (`virsh define`) a guest on a host. Its disks' sockets need not be there before it starts. */
export async function defineGuest(lab: Lab, host: Host, spec: GuestSpec): Promise<Guest> {
  const xml = domainXml(spec, await guestSystem());
  const path = `/run/lab/${spec.name}.xml`;
  await writeFile(host.outside(path), xml);
  for (const each of lab.hosts) await rm(each.outside(consolePath(spec.name)), { force: true });
  await host.virsh('define', path);
  const guest = new Guest(spec, lab);
  lab.guests.push(guest);
  return guest;
}
