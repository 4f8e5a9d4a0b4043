/**
 * The guest: the lab's, which does nothing but write to its disk and read back (test/lab/libvirt/guest), in a machine that is itself
 * emulated. So it is slow, and its own clock is what a pause is measured by.
 *
 * What it prints lies in a file on each machine. `follow` copies both as they grow, so that the story is one stream here.
 */
import { existsSync, rmSync, statSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Console } from '../../test/lab/libvirt/console.ts';
import { type DiskReport, readReports } from '../../test/lab/libvirt/guest-reports.ts';
import { guestSystem } from '../../test/lab/libvirt/guest-system.ts';
import { createPatternImage } from '../../test/lab/libvirt/pattern.ts';
import { type Running, start } from '../../test/lab/processes.ts';
import { waitFor } from '../../test/lab/wait-for.ts';
import type { Machine } from '../machine/machine.ts';
import { wrongBlocks } from './compare.ts';
import { COMMANDS, CONSOLE, DISK, definition, FILES, IMAGE } from './definition.ts';

export const GUEST = 'vm1';
/** The name that `xnbdctl adopt` gives to the guest's disk. */
export const EXPORT = `${GUEST}-${DISK}`;
const SIZE_BYTES = 32 * 2 ** 20;

export class Guest {
  readonly console: Console;
  /** What it found wrong with its disk. Empty in a good run. */
  readonly errors: string[] = [];
  /** Requests that it has completed, and the longest that one took since it was asked last, in its own milliseconds. */
  beat = { number: 0, writes: 0, reads: 0, errors: 0 };
  slowestMs = 0;
  readonly #dir: string;
  readonly #machines: readonly Machine[];
  readonly #ended = new AbortController();
  readonly #followers = new Map<Machine, Running>();
  #commands = Date.now() % 1_000_000;

  /** @param dir where what it prints is copied to. @param anew what it printed in an earlier run is forgotten */
  constructor(machines: readonly Machine[], dir: string, anew: boolean) {
    this.#machines = machines;
    this.#dir = dir;
    if (anew) for (const machine of machines) rmSync(this.#copy(machine), { force: true });
    this.console = new Console(
      machines.map((machine) => this.#copy(machine)),
      (line) => this.#heard(line),
      this.#ended.signal,
    );
  }

  /** Copies what it prints on a machine, from now on and from where the copy ends. After each boot of the machine, again. */
  async follow(machine: Machine): Promise<void> {
    await this.#followers.get(machine)?.end();
    const copy = this.#copy(machine);
    const from = existsSync(copy) ? statSync(copy).size : 0;
    const command = machine.remote(`exec tail -c +${from + 1} -F ${CONSOLE} 2>/dev/null`);
    this.#followers.set(machine, await start(command, { log: copy, env: process.env }));
  }

  async close(): Promise<void> {
    this.#ended.abort();
    for (const follower of this.#followers.values()) await follower.end();
  }

  /** Defines it on a machine, with its disk in a file as an administrator has it before xNBD; the other one gets what it boots. */
  async define(machine: Machine): Promise<void> {
    const { kernel, initramfs } = await guestSystem();
    const local = (name: string) => join(this.#dir, name);
    await rm(local(`${GUEST}.img`), { force: true });
    await createPatternImage(local(`${GUEST}.img`), EXPORT, SIZE_BYTES);
    await writeFile(local(`${GUEST}.xml`), definition(GUEST, EXPORT, basename(kernel), basename(initramfs)));
    for (const each of this.#machines) await each.put(FILES, kernel, initramfs);
    await machine.put('/root', local(`${GUEST}.xml`), local(`${GUEST}.img`));
    await machine.sh(
      `cp --sparse=always /root/${GUEST}.img ${IMAGE} && rm /root/${GUEST}.img && virsh -q define /root/${GUEST}.xml`,
    );
  }

  /** Does what makes it boot, and waits until it works. */
  async boots(how: () => Promise<unknown>, limitMs = 480_000): Promise<void> {
    await this.console.look();
    const from = this.console.lines.length;
    await how();
    await this.console.find(/^xnbd: ready/, from, limitMs);
    this.noErrors();
  }

  /** The machine where it runs. */
  async where(): Promise<Machine> {
    for (const machine of this.#machines) {
      const state = await machine.sh(`virsh domstate ${GUEST} 2>/dev/null || true`);
      if (state.trim() === 'running') return machine;
    }
    throw new Error(`${GUEST} runs on no machine; its last lines: ${this.console.tail()}`);
  }

  /** Waits until it has written `writes` times more, and found nothing wrong. */
  async progress(writes = 3, limitMs = 180_000): Promise<void> {
    await this.console.look();
    const [beat, goal] = [this.beat.number, this.beat.writes + writes];
    await waitFor(
      `${GUEST} to go on (its last lines: ${this.console.tail(2)})`,
      async () => {
        await this.console.look();
        this.noErrors();
        return this.beat.number > beat && this.beat.writes >= goal;
      },
      limitMs,
    );
  }

  /** @throws Error when it has found its disk wrong */
  noErrors(): void {
    if (this.errors.length > 0) throw new Error(`${GUEST}: ${this.errors.slice(0, 5).join('; ')}`);
    if (this.beat.errors > 0) throw new Error(`${GUEST} counts ${this.beat.errors} errors`);
  }

  /** Lets it finish its step, flush, rest, and tell what it wrote since it booted. */
  async stop(): Promise<DiskReport> {
    const reports = readReports(await this.#command('stop'));
    return reports.get(DISK)!;
  }

  /** After `stop`: work goes on. */
  async go(): Promise<void> {
    await this.#command('go');
  }

  /**
   * Compares an image, fetched from a machine, with what it must hold.
   * @param since what the guest told last, of all that it wrote since it booted. @param before what it told before that
   */
  async compare(machine: Machine, image: string, since: DiskReport, before?: DiskReport): Promise<void> {
    const local = join(this.#dir, 'image-to-compare');
    await machine.get(image, local);
    const { sizeBytes, writes: exactly } = since;
    const disk = { exportName: EXPORT, sizeBytes, exactly, ...(before && { atLeast: before.writes }) };
    const wrong = await wrongBlocks(local, disk);
    if (wrong.length > 0)
      throw new Error(`${image} at ${machine.name} (kept as ${local}): ${wrong.join('; ')}`);
    await rm(local);
  }

  /** Sends a command until it is answered, because a migration may swallow it. @returns the lines of the answer */
  async #command(verb: string): Promise<string[]> {
    const id = ++this.#commands;
    await this.console.look();
    const from = this.console.lines.length;
    const answer = this.console.find(new RegExp(`^xnbd: done ${verb} ${id}$`), from, 240_000);
    const answered = answer.then(
      () => true,
      () => true,
    );
    do {
      for (const machine of this.#machines)
        await machine.sh(`[ ! -S ${COMMANDS} ] || printf '\\n${verb} ${id}\\n' | nc -U -N -w 2 ${COMMANDS}`, {
          check: false,
        });
    } while (!(await Promise.race([answered, sleep(10_000, false)])));
    await answer;
    return this.console.lines.slice(from);
  }

  #copy(machine: Machine): string {
    return join(this.#dir, `${GUEST}-on-${machine.name}.console`);
  }

  #heard(line: string): void {
    if (/^xnbd: (verify error|fatal|crashed)|Kernel panic/.test(line))
      this.errors.push(line.replace(/^xnbd: /, ''));
    const [, number, counts] = new RegExp(`^xnbd: beat (\\d+) ${DISK}:(\\S+)$`).exec(line) ?? [];
    if (number === undefined || counts === undefined) return;
    const [writes = 0, reads = 0, errors = 0, slowestMs = 0] = counts.split(':').map(Number);
    this.beat = { number: Number(number), writes, reads, errors };
    this.slowestMs = Math.max(this.slowestMs, slowestMs);
  }
}
