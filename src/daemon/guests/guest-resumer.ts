/**
 * A guest that was stopped because its disk was away goes on by itself.
 *
 * When an export dies, what its QEMU has under way fails. In a domain with error_policy='stop' the guest is
 * paused then and hears of no error: QEMU does the same requests again when it is resumed. The daemon starts
 * the export again within a second, but libvirt resumes nobody. (A libvirt that keeps <reconnect> has QEMU
 * wait instead, and nothing of this happens; `adopt` writes both.)
 *
 * QEMU finds the export again in its own time, 1, 3, 7 seconds after it was lost, and only when it has
 * something to ask: a guest that rests is stopped at its next request, however late. So the return of an
 * export makes its domain due, and it stays due until it was stopped; from then on it is resumed as often as
 * it stops again, for a minute. What stops it after that minute is an error of the disk itself, which an
 * administrator has to see.
 *
 * Resumed is only what libvirt says was stopped by errors of our disks and of no other: neither a domain that
 * somebody has paused, nor one that migrates.
 */
import type { ExportStatus } from '../../control/status.ts';
import { statePaused } from '../../libvirt/calls.ts';
import type { LibvirtClient } from '../../libvirt/client.ts';
import { readDomain } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import type { Host } from '../host.ts';

/** virDomainEventType, and virDomainEventSuspendedDetailType. */
const eventSuspended = 3;
const suspendedForIoError = 2;
/** For how long after its first stop a domain is resumed. */
const resumedForMs = 60_000;
/** Between two attempts: the first few seconds, and after that. */
const soonMs = 250;
const laterMs = 1000;
const soonForMs = 5000;

/** A domain whose disk has come back. */
interface Due {
  /** When it was found stopped first, on performance.now's clock. */
  stoppedAt: number | undefined;
  /** The disks that had stopped it, when it was resumed last; it is not known yet whether it runs. */
  resumedFor: string | undefined;
  timer: NodeJS.Timeout | undefined;
  /** Libvirt is being asked, and what has come meanwhile asks for another look. */
  asking: boolean;
  news: boolean;
}

export class GuestResumer {
  readonly #host: Host;
  readonly #libvirt: LibvirtClient;
  readonly #due = new Map<string, Due>();
  /** Exports that have died. */
  readonly #lost = new Set<string>();

  constructor(host: Host, libvirt: LibvirtClient) {
    this.#host = host;
    this.#libvirt = libvirt;
    host.exports.on('ended', (name, orderly) => {
      if (!orderly) this.#lost.add(name);
    });
    host.exports.on('status', (status, before) => this.#onStatus(status, before));
    libvirt.on('event', ({ uuid, event, detail }) => {
      if (event === eventSuspended && detail === suspendedForIoError) this.#lookSoon(uuid, soonMs);
    });
    libvirt.on('domains', (active) => {
      for (const { uuid, state } of active) if (state === statePaused) this.#lookSoon(uuid, 0);
    });
  }

  close(): void {
    for (const { timer } of this.#due.values()) clearTimeout(timer);
    this.#due.clear();
  }

  #onStatus(status: ExportStatus, before: ExportStatus | undefined): void {
    const { domains } = this.#host;
    const domain = domains.using(status.name);
    if (domain === undefined) return;
    // What happened before this daemon began, it cannot know.
    const unknown = before === undefined && domains.unusedMs(domain.uuid) === Number.POSITIVE_INFINITY;
    // An export that waited too long for its origin has answered with errors, too.
    const reaches = before?.originReachable === false && status.originReachable;
    if (!this.#lost.delete(status.name) && !unknown && !reaches) return;
    clearTimeout(this.#due.get(domain.uuid)?.timer);
    this.#due.set(domain.uuid, {
      stoppedAt: undefined,
      resumedFor: undefined,
      timer: undefined,
      asking: false,
      news: false,
    });
    this.#lookSoon(domain.uuid, 0);
  }

  #lookSoon(uuid: string, ms: number): void {
    const entry = this.#due.get(uuid);
    if (entry === undefined) return;
    entry.news = entry.asking;
    if (entry.asking) return;
    clearTimeout(entry.timer);
    entry.timer = setTimeout(() => void this.#look(uuid, entry), ms);
  }

  async #look(uuid: string, entry: Due): Promise<void> {
    entry.asking = true;
    // Libvirt does not answer about a domain whose hook runs; that it is not there at all is told elsewhere.
    const again = await this.#attempt(uuid, entry).catch(() => laterMs);
    entry.asking = false;
    if (this.#due.get(uuid) !== entry) return;
    if (again !== undefined) this.#lookSoon(uuid, again);
    else if (entry.news) this.#lookSoon(uuid, soonMs);
  }

  /**
   * Resumes the domain if it is to be. Returns the milliseconds after which to look again; undefined: when an
   * event tells.
   */
  async #attempt(uuid: string, entry: Due): Promise<number | undefined> {
    const domain = this.#host.domains.get(uuid);
    if (domain === undefined) {
      this.#due.delete(uuid);
      return undefined;
    }
    const fields = { domain: domain.name, domainUuid: uuid };
    const targets = await this.#libvirt.disksThatStopped(uuid);
    if (targets === null) return laterMs;
    if (targets.length === 0) {
      if (entry.resumedFor !== undefined)
        log.info(`${domain.name} goes on: it had been stopped while ${entry.resumedFor} was away`, {
          id: 'guest-resumed',
          ...fields,
        });
      entry.resumedFor = undefined;
      return undefined;
    }
    const stoppers = await this.#exportsOf(uuid, targets);
    // One that is still away makes the domain due when it comes.
    if (stoppers.some((name) => name !== undefined && this.#host.exports.status(name) === undefined))
      return undefined;
    entry.stoppedAt ??= performance.now();
    const why = this.#whyLeft(stoppers, performance.now() - entry.stoppedAt);
    if (why !== undefined) {
      log.warning(`${domain.name} stays paused: ${why}; then: virsh resume ${domain.name}`, {
        id: 'guest-stays-paused',
        ...fields,
      });
      this.#due.delete(uuid);
      return undefined;
    }
    await this.#libvirt.resume(uuid);
    entry.resumedFor = stoppers.join(', ');
    return performance.now() - entry.stoppedAt < soonForMs ? soonMs : laterMs;
  }

  /** The exports of a domain's disks; undefined for one that is none of ours. */
  async #exportsOf(uuid: string, targets: readonly string[]): Promise<(string | undefined)[]> {
    const xml = await this.#libvirt.domainXml(uuid);
    const { disks } = readDomain(xml, this.#host.config.paths.run);
    return targets.map((target) => disks.find((disk) => disk.target === target)?.export);
  }

  /** What an administrator has to see to before a domain is resumed; undefined: nothing. */
  #whyLeft(stoppers: readonly (string | undefined)[], stoppedForMs: number): string | undefined {
    if (stoppers.includes(undefined))
      return 'a disk that is none of xNBD has errors, too (virsh domblkerror)';
    if (stoppedForMs <= resumedForMs) return undefined;
    return `disk ${stoppers.join(', ')} has errors though it is served (xnbdctl status ${stoppers[0]})`;
  }
}
